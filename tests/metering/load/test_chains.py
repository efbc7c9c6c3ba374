"""Registers that are sums of interval energies: no energy leads from one chain of them to another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.load.windows import latest, windows
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP

Builder = Callable[..., pl.DataFrame]
T0 = datetime(2026, 6, 30, 16, tzinfo=UTC)
CHAINS = (None, 345_120_004.0, 345_120_005.0)


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    """Of 5, 15 and 30 minutes."""
    kinds = {f"{310_105_200_001 + n}": {"customer_no": "A", "interval_s": s} for n, s in enumerate((300, 900, 1800))}
    return make_meter_versions(make_customers({"A": {}}), kinds)


@given(
    chains=st.lists(st.sampled_from(CHAINS), min_size=2, max_size=40),
    gone=st.sets(st.integers(0, 39), max_size=4),
    meter=st.integers(0, 2),
    powered=st.booleans(),
)
def test_a_window_counts_the_registers_of_one_chain_only(
    versions: pl.DataFrame, chains: list[float | None], gone: set[int], meter: int, powered: bool
) -> None:
    """Each reading's register goes on by 3 kWh, whatever its chain; its power says 2.9 kWh."""
    minutes = (5, 15, 30)[meter]
    rows = [
        {
            **dict.fromkeys(MEASURED), "ts": T0 + timedelta(minutes=minutes * n), "import_kwh": 3.0 * n,
            "p_kw": 2.9 * 60 / minutes if powered else None, "register_chain": chain, "log_offset": n, "source_row": 0,
        }
        for n, chain in enumerate(chains) if n not in gone
    ]  # fmt: skip
    if not rows:
        return
    schema = {"ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64), "log_offset": pl.Int64, "source_row": pl.Int32}
    frame = pl.DataFrame(rows, schema=schema).with_columns(
        pl.lit(meter, pl.UInt32).alias("meter"), pl.lit(meter, pl.UInt32).alias("version")
    )
    by_end = {row["window_end"]: row for row in windows(latest(frame), versions, "Asia/Shanghai").to_dicts()}
    each = max(minutes, 15) // minutes
    for last in range(each, len(chains), each):
        inside = list(range(last - each, last + 1))
        row = by_end.get(T0 + timedelta(minutes=minutes * last))
        if row is None:
            continue
        edges = not {inside[0], last} & gone
        whole = edges and len({chains[n] for n in inside if n not in gone}) == 1
        came = sum(n not in gone for n in inside[1:])
        share = 0.5 if minutes == 30 else 1.0
        wanted = 3.0 * each if whole else 2.9 * came if powered else None
        assert row["energy_kwh"] == (None if wanted is None else pytest.approx(wanted * share)), (last, row)
