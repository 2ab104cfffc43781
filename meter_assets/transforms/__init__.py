"""Pure DataFrame -> DataFrame functions: the formulas of the daily numbers. Nothing here knows Dagster or any storage.

Two conventions hold throughout. A *judged reading* has the columns of the lake (lake.RAW_READINGS_SCHEMA) plus
`faults array<string>`. An *amount* is summed as decimal(18,9), because a sum of doubles depends on the order of its
terms, and a re-run must give the same bytes.
"""
