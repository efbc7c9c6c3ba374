"""Someone's table to readings: mapping files, timestamps, delimited text."""
