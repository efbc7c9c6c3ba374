"""The lake: Parquet parts, the commit record that reveals them, compaction and retention."""
