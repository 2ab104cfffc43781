"""The assets: sources the platform writes outside Dagster, the raw partitions, and the daily numbers."""
