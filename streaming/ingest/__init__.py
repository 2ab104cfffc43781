"""Ingest: from Kafka to MongoDB, each message once. It begins in member.py."""
