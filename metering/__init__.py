"""What is true about metered load: tables, rules, formulae, tariffs, KPIs.

Every calculation of Kilowatch is written once, here, as a function from frames to frames. Polars and the
standard library only: no I/O, no clock, no framework. The stream calls it on micro-batches, the assets on days.
"""
