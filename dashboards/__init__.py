"""Metabase as code: the questions and the dashboard as data, and what brings a Metabase up to date with them.

Nothing here reads MongoDB: Metabase does, with the native queries that are defined here.
"""
