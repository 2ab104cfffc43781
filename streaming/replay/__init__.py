"""Replay: files of real readings, as messages into Kafka. It begins in replayer.py."""
