"""After a month is closed its lines stay, and what changes is a delta, once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.charges.closing import with_deltas
from metering.settings import MeteringSettings
from tests.metering.charges.bill import charged, customers

A, B = "310105200001", "310105200002"
AT = datetime(2026, 4, 9, tzinfo=UTC)
DAY = date(2026, 3, 4)
CAUSE = "later readings"


def month(settings: MeteringSettings, kwh: float, *, no: str = A, closed: bool = True, **given: Any) -> pl.DataFrame:
    energy = {no: {DAY: {"peak": kwh, "flat": 50.0}}}
    return charged(settings, customers({"customer_no": no}), energy, pf={no: 0.8}, closed=closed, **given)


def sums(rows: pl.DataFrame) -> dict[str, tuple[Decimal, Decimal]]:
    """What each line comes to, with its deltas."""
    item = pl.coalesce("corrects", "item").alias("line")
    of_line = rows.group_by(item).agg(pl.col("quantity", "amount").sum())
    return {line: (quantity, amount) for line, quantity, amount in of_line.iter_rows() if quantity or amount}


def test_a_month_that_changes_keeps_its_lines_and_gets_deltas(metering_settings: MeteringSettings) -> None:
    settled = month(metering_settings, 100.0)
    now = month(metering_settings, 120.0)
    rows = with_deltas(now, settled, AT, CAUSE)
    assert rows.filter(pl.col("status") == "closed").equals(settled)
    deltas = {row["item"]: row for row in rows.filter(pl.col("status") == "delta").to_dicts()}
    peak = deltas["purchase_peak+1"]
    assert (peak["corrects"], peak["quantity"], peak["amount"]) == ("purchase_peak", 20, Decimal("13.29"))
    assert peak["restated_at"] == AT
    assert "100.0000 x 0.66448000 = 66.45 yuan were settled, now 120.0000" in peak["rule"]
    assert peak["rule"].endswith(CAUSE)
    assert "purchase_flat+1" not in deltas
    assert sums(rows) == sums(now)
    assert rows.select("customer_no", "month", "item").is_unique().all()


@settings(max_examples=15)
@given(kwh=st.lists(st.sampled_from([0.0, 80.0, 100.0, 100.004, 123.45]), min_size=1, max_size=5))
def test_lines_and_deltas_add_up_to_what_is_now_and_once_is_enough(
    metering_settings: MeteringSettings, kwh: list[float]
) -> None:
    rows = settled = month(metering_settings, 100.0)
    for value in kwh:
        now = month(metering_settings, value)
        rows = with_deltas(now, rows, AT, CAUSE)
        assert sums(rows) == sums(now)
        assert with_deltas(now, rows, AT, CAUSE).equals(rows)
        assert rows.join(settled, on=["customer_no", "item"], how="semi").height == settled.height
        assert rows.select("customer_no", "month", "item").is_unique().all()


def test_a_line_that_was_not_there_or_is_no_more_is_a_delta(metering_settings: MeteringSettings) -> None:
    rows = with_deltas(month(metering_settings, 0.0), month(metering_settings, 100.0), AT, CAUSE)
    assert rows.filter(item="purchase_peak+1")["amount"].item() == Decimal("-66.45")
    back = with_deltas(month(metering_settings, 100.0), month(metering_settings, 0.0), AT, CAUSE)
    assert back.filter(item="purchase_peak+1").select("amount", "name_zh", "unit").row(0) == (
        Decimal("66.45"), "代理购电电费", "kWh",
    )  # fmt: skip


def test_what_was_published_of_a_running_month_or_never_is_replaced(metering_settings: MeteringSettings) -> None:
    now = month(metering_settings, 120.0)
    running = month(metering_settings, 20.0, closed=False, over=False)
    assert with_deltas(now, running, AT, CAUSE).equals(now)
    both = pl.concat([now, month(metering_settings, 7.0, no=B)]).sort("customer_no", "item")
    assert with_deltas(both, month(metering_settings, 120.0), AT, CAUSE).equals(both)


def test_what_was_published_when_the_month_was_over_is_what_is_closed(metering_settings: MeteringSettings) -> None:
    final = month(metering_settings, 100.0, closed=False)
    assert set(final["status"]) == {"final"}
    rows = with_deltas(month(metering_settings, 100.0), final, AT, CAUSE)
    assert set(rows["status"]) == {"closed"}


def test_a_customer_that_has_gone_is_taken_back(metering_settings: MeteringSettings) -> None:
    settled = pl.concat([month(metering_settings, 1.0), month(metering_settings, 7.0, no=B)])
    rows = with_deltas(month(metering_settings, 1.0), settled, AT, CAUSE)
    theirs = rows.filter(pl.col("customer_no") == B)
    assert not sums(theirs)
    assert theirs.height == 2 * settled.filter(pl.col("customer_no") == B).height
