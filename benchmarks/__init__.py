"""Benchmarks: what the platform costs, each measured beside its baseline in the same run. `meters bench` runs them.

They measure and do not test: a missed goal is a figure, not a failure. docs/benchmarks.md says what each one means.
"""
