"""The daily figures: one module for each table in metering/daily_tables.py, with its formula, checks and description.

The transforms are pure functions from DataFrame to DataFrame. Two conventions hold throughout. A *judged reading* has
the columns of the lake (lake.RAW_READINGS_SCHEMA) plus `faults array<string>` and `is_healthy boolean`. An *amount* is
summed as decimal(18,9), because a sum of doubles depends on the order of its terms, and a re-run must give the same
bytes.
"""
