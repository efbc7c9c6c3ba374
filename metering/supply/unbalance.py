"""Unbalance of voltages: negative sequence, which is not what meters tell as unbalance.

Source: GB/T 15543 (IEC 61000-2-1 for the formula). Here: the formula, from line-to-line voltages. Not here: the meters'
own (max - min) / max, and which of them is an event (limit rules).
"""

from __future__ import annotations

import polars as pl


def negative_sequence(a: pl.Expr, b: pl.Expr, c: pl.Expr) -> pl.Expr:
    """Negative sequence over positive sequence of three line-to-line voltages [V], as a fraction.

    L = (a^4 + b^4 + c^4) / (a^2 + b^2 + c^2)^2, eps = sqrt((1 - sqrt(3 - 6 L)) / (1 + sqrt(3 - 6 L))). Null where one
    is missing, where all are 0, and where the three make no triangle: such phasors do not exist.
    """
    squares = [side.pow(2) for side in (a, b, c)]
    total = squares[0] + squares[1] + squares[2]
    under_root = 3 - 6 * (squares[0].pow(2) + squares[1].pow(2) + squares[2].pow(2)) / total.pow(2)
    root = under_root.clip(0, 1).sqrt()
    return pl.when((total > 0) & (under_root >= -1e-9)).then(((1 - root) / (1 + root)).sqrt())
