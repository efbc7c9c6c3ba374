"""Numbers follow from their keys, are uniform, and streams do not resemble each other."""

from __future__ import annotations

import hashlib

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metering.simulation.draws import around, between, choose, uniform

KEYS = pl.int_range(20_000, eager=True)


def drawn(seed: int, stream: str, *keys: pl.Series) -> pl.Series:
    return pl.DataFrame({"key": keys[0]}).select(uniform(seed, stream, *keys)).to_series()


def test_known_numbers_stay_what_they_are() -> None:
    """A simulation of today must come out the same tomorrow: SplitMix64 worked out by hand, in Python's integers."""
    mask = 2**64 - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    origin = int.from_bytes(hashlib.blake2b(b"7:load", digest_size=8).digest(), "big")
    expected = []
    for key in (0, 1, 12345):
        first = mixed((origin + (key + 1) * 0x9E3779B97F4A7C15) & mask)
        expected.append((mixed((first + (key + 1) * 0x9E3779B97F4A7C15) & mask) >> 11) * 2.0**-53)
    keys = pl.Series([0, 1, 12345])
    assert drawn(7, "load", keys, keys).to_list() == expected


@given(seed=st.integers(0, 2**31), stream=st.text(max_size=8))
def test_numbers_are_uniform(seed: int, stream: str) -> None:
    numbers = drawn(seed, stream, KEYS)
    assert numbers.is_between(0, 1, closed="left").all()
    assert abs(numbers.mean() - 0.5) < 0.02
    counts = (numbers * 10).cast(pl.Int64).value_counts()["count"]
    assert counts.len() == 10
    assert counts.min() > 1750
    assert counts.max() < 2250


def test_streams_seeds_and_keys_are_independent() -> None:
    base = drawn(1, "a", KEYS)
    constant = pl.Series([5])
    for other in (drawn(2, "a", KEYS), drawn(1, "b", KEYS), drawn(1, "a", KEYS, constant), drawn(1, "a", KEYS + 1)):
        together = pl.DataFrame({"x": base, "y": other}).select(pl.corr("x", "y")).item()
        assert abs(together) < 0.03


def test_numbers_are_put_to_use() -> None:
    number = pl.DataFrame({"n": [0.0, 0.5, 0.999]})
    out = number.select(
        between(2, 4, pl.col("n")).alias("b"), around(0.1, pl.col("n")).alias("a"), choose("xy", pl.col("n")).alias("c")
    )
    assert out["b"].round(2).to_list() == [2.0, 3.0, 4.0]
    assert out["a"].round(2).to_list() == [0.9, 1.0, 1.1]
    assert out["c"].to_list() == ["x", "y", "y"]
