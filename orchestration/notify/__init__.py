"""Telling people: `kilowatch notify`."""
