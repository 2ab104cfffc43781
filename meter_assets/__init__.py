"""The Dagster code location: daily-partitioned assets from readings in MongoDB to published daily numbers."""

import warnings

import dagster as dg

# Backfill policies and partition mappings are what the daily assets stand on; Dagster calls them beta in every process.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
