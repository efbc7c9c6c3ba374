"""Which meter, and which version of it, a reading belongs to: against a search through all versions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.registry.index import MeterIndex
from metering.registry.meter_versions import METER_VERSIONS
from metering.tables.schema import TIMESTAMP

Frame = pl.DataFrame
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def _facts(spans: dict[str, list[tuple[int, int | None]]]) -> Frame:
    """Versions of meters from (first, last) hours since T0, last None: open."""
    rows = [
        {
            "meter_id": m,
            "valid_from": T0 + timedelta(hours=a),
            "valid_to": None if b is None else T0 + timedelta(hours=b),
        }
        for m, versions in spans.items()
        for a, b in versions
    ]
    return pl.DataFrame(rows, schema=METER_VERSIONS).sort("meter_id", "valid_from")


def _versions(index: MeterIndex, asked: list[tuple[str, datetime | None]]) -> list[int | None]:
    meter = index.code(pl.Series([m for m, _ in asked], dtype=pl.String))
    ts = pl.Series([t for _, t in asked], dtype=TIMESTAMP)
    version = index.version(meter, ts)
    assert version.dtype == pl.UInt32
    return version.to_list()


def _searched(meter_versions: Frame, asked: list[tuple[str, datetime | None]]) -> list[int | None]:
    rows = list(enumerate(meter_versions.iter_rows(named=True)))
    return [
        next(
            (
                n
                for n, row in rows
                if ts is not None
                and row["meter_id"] == meter
                and row["valid_from"] < ts
                and (row["valid_to"] is None or ts <= row["valid_to"])
            ),
            None,
        )
        for meter, ts in asked
    ]


_SPANS = st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True).map(sorted)


@st.composite
def _registries(draw: st.DrawFn) -> dict[str, list[tuple[int, int | None]]]:
    spans = {}
    for meter in draw(st.sets(st.sampled_from(["A", "B", "C", "42", "x y"]), min_size=1)):
        cuts = draw(_SPANS)
        closed = list(pairwise(cuts))
        gaps = draw(st.sets(st.integers(0, 4)))
        versions = [span for i, span in enumerate(closed) if i not in gaps]
        spans[meter] = versions + ([(cuts[-1], None)] if draw(st.booleans()) or not versions else [])
    return spans


@settings(max_examples=60, deadline=None)
@given(spans=_registries(), hours=st.lists(st.integers(-1, 41), max_size=12), nulls=st.booleans())
def test_as_if_searched_through_all_versions(
    spans: dict[str, list[tuple[int, int | None]]], hours: list[int], nulls: bool
) -> None:
    meter_versions = _facts(spans)
    asked = [(m, T0 + timedelta(hours=h)) for h in hours for m in (*spans, "nobody")]
    asked += [(m, None) for m in spans] if nulls else []
    assert _versions(MeterIndex.of(meter_versions), asked) == _searched(meter_versions, asked)


def test_codes_follow_the_ids_and_strangers_have_none() -> None:
    index = MeterIndex.of(_facts({"B": [(0, None)], "A": [(0, 5), (5, None)]}))
    assert index.code(pl.Series(["A", "B", "a", None, "A"])).to_list() == [0, 1, None, None, 0]
    assert index.first.to_list() == [0, 2]
    assert index.several.to_list() == [0]
    assert not index.plain


def test_a_plain_registry_still_knows_where_it_starts() -> None:
    index = MeterIndex.of(_facts({"A": [(0, None)], "B": [(9, None)]}))
    assert index.plain
    hours = [(m, T0 + timedelta(hours=h)) for m, h in (("A", 0), ("A", 1), ("B", 9), ("B", 10))]
    assert _versions(index, hours) == [None, 0, None, 1]
    assert _versions(index, hours[3:]) == [1]


def test_an_empty_registry_knows_nobody() -> None:
    index = MeterIndex.of(_facts({}))
    assert _versions(index, [("A", T0)]) == [None]
    assert _versions(index, []) == []


@pytest.mark.parametrize(
    ("meter_id", "expected"),
    [("M0", False), ("42", True), ("-1", True), ("007", True), ("true", True), ("truely", False), ("null", True),
     ("[x", True), ("{", True), (" 5", True), ("1e3", True), ("x1", False)],
)  # fmt: skip
def test_ids_that_could_be_json_scalars(meter_id: str, expected: bool) -> None:
    assert MeterIndex.of(_facts({meter_id: [(0, None)]})).scalar_like.to_list() == [expected]


def test_versions_of_a_real_registry(
    make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]
) -> None:
    """Dates become local midnights: the last valid day still ends with the meter."""
    span: dict[str, Any] = {"customer_no": "C1", "valid_from": date(2026, 1, 1), "valid_to": date(2026, 1, 31)}
    index = MeterIndex.of(make_meter_versions(make_customers({"C1": {}}), {"A": span}))
    midnight = datetime(2026, 1, 31, 16, tzinfo=UTC)
    asked: list[tuple[str, datetime | None]] = [("A", midnight), ("A", midnight + timedelta(microseconds=1))]
    assert _versions(index, asked) == [0, None]


def test_a_meter_that_was_always_valid_may_start_before_the_first_year() -> None:
    """The first of January of year 1 begins in year 0, east of Greenwich."""
    start = pl.Series([-62_135_625_943_000_000]).cast(TIMESTAMP)
    meter_versions = _facts({"M1": [(0, None)]}).with_columns(valid_from=start)
    assert _versions(MeterIndex.of(meter_versions), [("M1", T0), ("M1", datetime(2, 1, 1, tzinfo=UTC))]) == [0, 0]
