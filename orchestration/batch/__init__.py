"""Running the assets: Dagster instance, sensors, automation, maintenance."""
