"""The rows of the benchmark, in the order of the report: each a module with `run(bench) -> Found`."""
