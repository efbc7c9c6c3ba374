"""Batch: Dagster assets from the lake to the warehouse. Bodies of a few lines that call `metering`."""
