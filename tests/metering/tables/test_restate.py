"""What changed between two states of a table."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl

from metering.tables.charges import CHARGES_MONTHLY, YUAN
from metering.tables.evidence import RESTATEMENTS
from metering.tables.restate import restated, together
from metering.tables.warehouse import DAILY_CURVE

AT = datetime(2026, 3, 3, tzinfo=UTC)


def curve(
    p_kw: list[float | None], status: str = "validated", first: int = 1, reason: str | None = None
) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"point": range(first, first + len(p_kw)), "p_kw": p_kw}, schema_overrides={"p_kw": pl.Float64}
    )
    return DAILY_CURVE.conform(
        frame, customer_no="A", date=date(2026, 3, 2), window_end=AT, energy_kwh=1.0, status=status, reason=reason
    )


def changes(before: pl.DataFrame, after: pl.DataFrame) -> list[tuple[str, str, str | None, str | None]]:
    rows = restated(DAILY_CURVE, before, after, AT, "later readings")
    assert rows.schema == RESTATEMENTS.schema
    return sorted(rows.select("key", "column", "before", "after").rows())


def test_figures_and_statuses_that_differ_are_told_and_words_are_not() -> None:
    before = curve([100.0, 200.0, None, 5.0])
    after = curve([100.0 * (1 + 1e-12), 210.0, 7.0, None], reason="in other words")
    key = "customer_no=A, date=2026-03-02, point="
    assert changes(before, before) == []
    assert changes(before, after) == [
        (f"{key}2", "p_kw", "200.0", "210.0"),
        (f"{key}3", "p_kw", None, "7.0"),
        (f"{key}4", "p_kw", "5.0", None),
    ]
    assert changes(before, curve([100.0, 200.0, None, 5.0], "raw"))[0] == (f"{key}1", "status", "validated", "raw")


def test_a_row_of_one_side_only_differs_from_nothing() -> None:
    found = changes(curve([1.0]), curve([1.0, 2.0]))
    assert ("customer_no=A, date=2026-03-02, point=2", "p_kw", None, "2.0") in found
    assert {key for key, *_ in found} == {"customer_no=A, date=2026-03-02, point=2"}


def test_what_changes_twice_at_one_data_time_is_told_twice_and_back_again_too() -> None:
    first = restated(DAILY_CURVE, curve([1.0]), curve([2.0]), AT, "a")
    second = restated(DAILY_CURVE, curve([2.0]), curve([3.0]), AT, "b")
    back = restated(DAILY_CURVE, curve([3.0]), curve([1.0]), AT, "c")
    rows = together([together([together([first]), second]), back])
    assert rows.select("number", "before", "after", "cause").rows() == [
        (1, "1.0", "2.0", "a"),
        (2, "2.0", "3.0", "b"),
        (3, "3.0", "1.0", "c"),
    ]
    assert rows.select(RESTATEMENTS.key).is_unique().all()
    assert together([]).is_empty()


def test_that_a_month_was_closed_is_no_restatement() -> None:
    line = pl.DataFrame({"item": ["funds"], "amount": ["5.00"]}).with_columns(pl.col("amount").cast(YUAN))
    fixed = {
        "customer_no": "A",
        "month": date(2026, 3, 1),
        "name_zh": "基金",
        "component": "funds",
        "unit": "kWh",
        "rule": "r",
    }
    final, closed = (CHARGES_MONTHLY.conform(line, status=status, **fixed) for status in ("final", "closed"))
    assert restated(CHARGES_MONTHLY, final, closed, AT, "closed").is_empty()
    other = final.with_columns(pl.lit("5.01").cast(YUAN).alias("amount"))
    told = restated(CHARGES_MONTHLY, final, other, AT, "later readings").select("column", "before", "after").rows()
    assert told == [("amount", "5.00", "5.01")]
