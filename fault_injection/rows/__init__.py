"""The rows of the table, by what breaks."""
