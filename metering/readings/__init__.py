"""From bytes to readings: payloads, decoding, and which readings are accepted."""
