"""Where telemetry comes from: Kafka, files, and rejects that are read again."""
