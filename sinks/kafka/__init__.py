"""Kafka: topics and transactional publishing."""
