"""Cumulative registers: what was used between two readings of one.

Not here: how registers are compared with power (events), who reads them when (`windows`).
"""

from __future__ import annotations

import polars as pl

_PLAUSIBLE_ROLLOVER = 0.1


def difference(start: pl.Expr, end: pl.Expr, modulus: pl.Expr) -> pl.Expr:
    """Energy between two register readings [kWh or kvarh]; null where either is unknown.

    A register rolls over at `modulus` (10 to its digits): a step back that is a small step forward across it, under a
    tenth of it, counts so. Any other step back is a restart (meter exchange, reset), after which the use is unknown.
    """
    step = end - start
    wrapped = step + modulus
    return pl.when(step >= 0).then(step).when(wrapped.is_between(0, _PLAUSIBLE_ROLLOVER * modulus)).then(wrapped)
