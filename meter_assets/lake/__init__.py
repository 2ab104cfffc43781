"""The lake: Parquet files, a local day in each part, in a folder or an object store."""
