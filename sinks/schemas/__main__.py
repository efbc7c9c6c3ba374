"""`python -m sinks.schemas` writes the schema files anew."""

from sinks.schemas import write

write()
