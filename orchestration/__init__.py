"""How it runs: settings, command line, Dagster definitions, broker."""
