"""A home's files: settings, registry, telemetry."""
