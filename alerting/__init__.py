"""Alerts: what is worth telling a person (fault episodes, abnormal days, silent meters), kept in MongoDB and told once.

Each part is a function of what is stored and of `now`; when it runs is decided by the Dagster sensor in meter_assets.
"""
