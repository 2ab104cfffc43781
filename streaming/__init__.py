"""What moves messages, event by event: simulate, replay and ingest. Nothing here knows Dagster."""
