"""Pseudo-random numbers that are functions of (seed, stream, keys): any slice of a simulation can be made by itself.

Here: hashing integers to uniform numbers, a column at a time. Not here: what the numbers are used for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(seed: int, stream: str, *keys: pl.Series) -> pl.Expr:
    """Numbers in [0, 1), one for each combination of integer `keys` (columns of one frame; one of length 1 holds for
    all), as a column to use with that frame. Streams are independent of each other.

    SplitMix64's finaliser (Steele, Lea and Flood 2014) over each key in turn; 53 bits. Worked out at once: as one
    expression, each step would double it.
    """
    hashed = _constant(_origin(seed, stream))
    for key in keys:
        hashed = _mixed(hashed + (key.cast(pl.Int64).reinterpret(signed=False) + _constant(1)) * _constant(_GOLDEN))
    return pl.lit((hashed // _constant(2**11)).cast(pl.Float64) * 2.0**-53)


def between(low: float, high: float, number: pl.Expr) -> pl.Expr:
    """A number in [0, 1) as one in [low, high)."""
    return low + (high - low) * number


def around(spread: float, number: pl.Expr) -> pl.Expr:
    """A number in [0, 1) as a factor in [1 - spread, 1 + spread)."""
    return 1.0 - spread + 2.0 * spread * number


def choose(items: Sequence[float] | Sequence[str], number: pl.Expr) -> pl.Expr:
    """One of `items`, all equally likely."""
    return pl.lit(pl.Series(list(items))).gather((number * len(items)).floor().cast(pl.UInt32))


def _origin(seed: int, stream: str) -> int:
    """The streams' names are hashed by blake2b, which is the same everywhere and always."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest(), "big")


def _constant(value: int) -> pl.Series:
    return pl.Series([value], dtype=pl.UInt64)


def _mixed(z: pl.Series) -> pl.Series:
    # arithmetic on UInt64 wraps; there is no shift, but division by a power of two is one
    z = (z ^ (z // _constant(2**30))) * _constant(_FIRST)
    z = (z ^ (z // _constant(2**27))) * _constant(_SECOND)
    return z ^ (z // _constant(2**31))
