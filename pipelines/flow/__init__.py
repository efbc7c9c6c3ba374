"""The dataflow: its stages, the worker behind them, publishing, health and metrics."""
