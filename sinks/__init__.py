"""Where results go: lake (Parquet), topics (Kafka), warehouse (DuckDB)."""
