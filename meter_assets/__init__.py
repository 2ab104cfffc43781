"""The Dagster code location: daily-partitioned assets from readings in MongoDB to published daily numbers."""

import warnings

import dagster as dg

# Backfill policies, partition mappings and checks with a status a day are what the daily assets stand on; Dagster calls
# them beta, or in preview, in every process.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
