"""The real-time router: faulty readings from Kafka to Kafka while they happen, with windows beside them."""
