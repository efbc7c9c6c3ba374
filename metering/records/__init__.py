"""Records: what is read besides telemetry, from JSON to rows, and which of several rows counts."""
