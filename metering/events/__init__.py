"""Events: limit rules, judging readings by them, the life of a violation and its texts."""
