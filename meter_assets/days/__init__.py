"""The day's work: stage the readings of days, compute their figures, check and publish each day; begin with run.py."""
