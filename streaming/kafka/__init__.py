"""The way to Kafka: clients with this platform's defaults, and one whose memory no message can exhaust."""
