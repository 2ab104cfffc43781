"""Supervision of the real-time router: a job that runs it, and a sensor that keeps exactly one alive."""
