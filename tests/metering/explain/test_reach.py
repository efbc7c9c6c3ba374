"""What a row is about, and which rows of other tables are about the same."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from metering.explain.reach import ALWAYS, reach_of, within
from metering.tables import LAKE, warehouse
from metering.tables.warehouse import DAILY_CURVE, POWER_FACTOR_MONTHLY

ZONE = "Asia/Shanghai"
TABLES = warehouse(("peak", "flat"))
CUSTOMERS = pl.DataFrame(
    {"customer_no": ["A", "B", "C"], "segment": ["large", "sme", "large"], "voltage_level_kv": [10.0, 0.38, 35.0]}
)
METERS = pl.DataFrame({"meter_id": ["330100000001", "330100000002", "330100000003"], "customer_no": ["A", "A", "B"]})


@pytest.mark.parametrize(
    ("table", "row", "customers", "meters"),
    [
        ("daily_load", {"customer_no": "A", "date": date(2026, 3, 2)}, {"A"}, {"330100000001", "330100000002"}),
        ("daily_load", {"customer_no": "*", "date": date(2026, 3, 2)}, None, None),
        ("kpi", {"period": "2026-03", "scope": "segment:large"}, {"A", "C"}, {"330100000001", "330100000002"}),
        ("kpi", {"period": "2026-03", "scope": "voltage_level_kv:0.38"}, {"B"}, {"330100000003"}),
        ("kpi", {"period": "2026-03", "scope": "B"}, {"B"}, {"330100000003"}),
        ("voltage_daily", {"meter_id": "330100000003", "date": date(2026, 3, 2)}, None, {"330100000003"}),
    ],
)
def test_whose(table: str, row: dict[str, object], customers: set[str] | None, meters: set[str] | None) -> None:
    reach = reach_of(row, TABLES[table], CUSTOMERS, METERS, ZONE)
    assert reach.customers == customers
    assert reach.meters == meters


def test_a_day_begins_after_its_first_midnight_and_ends_with_its_last() -> None:
    reach = reach_of({"customer_no": "A", "date": date(2026, 3, 2)}, DAILY_CURVE, CUSTOMERS, METERS, ZONE)
    assert (reach.start, reach.end) == (datetime(2026, 3, 1, 16, tzinfo=UTC), datetime(2026, 3, 2, 16, tzinfo=UTC))
    assert (reach.first, reach.last) == (date(2026, 3, 2), date(2026, 3, 2))
    ts = [datetime(2026, 3, 1, 16, tzinfo=UTC), datetime(2026, 3, 1, 16, 1, tzinfo=UTC), reach.end]
    rows = pl.DataFrame({"meter_id": ["330100000002"] * 3, "customer_no": "A", "ts": ts})
    assert rows.filter(within(LAKE["readings"], reach))["ts"].to_list() == ts[1:]


def test_a_month_has_its_days_and_no_others() -> None:
    row = {"customer_no": "A", "month": date(2026, 2, 1)}
    reach = reach_of(row, POWER_FACTOR_MONTHLY, CUSTOMERS, METERS, ZONE)
    assert (reach.first, reach.last) == (date(2026, 2, 1), date(2026, 2, 28))


def test_a_row_without_time_is_of_always() -> None:
    reach = reach_of({"customer_no": "A"}, TABLES["customers"], CUSTOMERS, METERS, ZONE)
    assert (reach.start, reach.end) == ALWAYS
