"""Sentences with values in them, as expressions, and texts of others fit to be shown.

Not here: what is said.
"""

from __future__ import annotations

import polars as pl


def filled(template: str, *values: pl.Expr | str) -> pl.Expr:
    """`template` with each `{}` replaced by the next value (an expression, or a column's name); null where one is null.

    Instead of `pl.format`, which panics on a column with an empty chunk (Polars 2.1).
    """
    texts = template.split("{}")
    if len(texts) != len(values) + 1:
        raise ValueError(f"{len(values)} values for '{template}'")
    parts: list[pl.Expr] = [pl.lit(texts[0])]
    for value, text in zip(values, texts[1:], strict=True):
        expression = pl.col(value) if isinstance(value, str) else value
        parts += [expression.cast(pl.String), pl.lit(text)]
    return pl.concat_str(parts)


def printable(text: str, width: int = 60) -> str:
    """`text` fit for one line of a terminal: what does not print as a `?`, and at most `width` characters."""
    shown = "".join(char if char.isprintable() and char != "\ufffd" else "?" for char in text[: width + 1])
    return shown if len(text) <= width else shown[: width - 1] + "…"
