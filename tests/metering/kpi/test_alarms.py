"""How alarms were handled: every count and rate as plain SQL has it, for every period, rule and scope."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.kpi.alarms import alarm_handling
from metering.tables.alarms import ALARM_HANDLING, ALARMS
from metering.tables.warehouse import CUSTOMERS

TIMEZONE = "Asia/Shanghai"
FIRST = datetime(2026, 6, 29, 8, tzinfo=UTC)
ORACLE = """
WITH alarm AS (
  SELECT *, row_number() OVER () AS n, (started_at AT TIME ZONE 'Asia/Shanghai')::DATE AS day,
         coalesce(raised_at, started_at) AS since
  FROM alarms WHERE state <> 'withdrawn' OR confirmed IS NOT NULL
), of_scope AS (
  SELECT n, '*' AS scope FROM alarm
  UNION SELECT n, customer_no FROM alarm
  UNION SELECT n, 'segment:' || c.segment FROM alarm JOIN customers c USING (customer_no)
    WHERE day BETWEEN coalesce(c.valid_from, DATE '1900-01-01') AND coalesce(c.valid_to, DATE '2999-01-01')
  UNION SELECT n, 'feeder:' || c.feeder FROM alarm JOIN customers c USING (customer_no)
    WHERE day BETWEEN coalesce(c.valid_from, DATE '1900-01-01') AND coalesce(c.valid_to, DATE '2999-01-01')
      AND c.feeder <> ''
), cell AS (
  SELECT alarm.*, scope, period, r.rule AS told
  FROM alarm JOIN of_scope USING (n),
    LATERAL (SELECT unnest([strftime(day, '%Y-%m-%d'), strftime(day, '%Y-%m')]) AS period),
    LATERAL (SELECT unnest([alarm.rule, '*']) AS rule) r
)
SELECT period, told AS rule, scope, count(*) AS raised,
  count(*) FILTER (WHERE confirmed) AS confirmed, count(*) FILTER (WHERE NOT confirmed) AS false_alarms,
  count(handled_at) FILTER (WHERE confirmed) AS handled, count(closed_at) FILTER (WHERE confirmed) AS closed,
  100.0 * count(*) FILTER (WHERE confirmed) / nullif(count(confirmed), 0) AS accuracy,
  100.0 * count(closed_at) FILTER (WHERE confirmed) / nullif(count(*) FILTER (WHERE confirmed), 0) AS handling_rate,
  median(epoch(acknowledged_at - since) / 60) FILTER (WHERE acknowledged_at >= since) AS ack_minutes_p50,
  median(epoch(handled_at - since) / 60) FILTER (WHERE handled_at >= since) AS repair_minutes_p50
FROM cell GROUP BY ALL ORDER BY ALL
"""


def _maybe(rng: random.Random, since: datetime, share: float) -> datetime | None:
    return since + timedelta(seconds=rng.randint(-600, 90_000)) if rng.random() < share else None


@pytest.fixture
def customers() -> pl.DataFrame:
    """Three customers, one of whom is of another segment and feeder from July on."""
    fixed = {
        "name": "某厂", "industry": "steel", "voltage_level_kv": 10.0, "contract_capacity_kva": 1000.0, "manager": "",
        "pf_standard": 0.9, "tariff": "large_industry", "dual_supply": False, "controllable": True,
    }  # fmt: skip
    rows = [
        ("C1", "large", "10kV-01", None, date(2026, 6, 30)),
        ("C1", "important", "10kV-02", date(2026, 7, 1), None),
        ("C2", "large", "10kV-01", None, None),
        ("C3", "sme", "", None, None),
    ]
    names = ["customer_no", "segment", "feeder", "valid_from", "valid_to"]
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.lit(v).alias(n) for n, v in fixed.items())
    return CUSTOMERS.conform(frame)


def _alarms(seed: int, count: int = 400) -> pl.DataFrame:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        start = FIRST + timedelta(seconds=rng.randint(0, 4 * 86_400))
        raised = start + timedelta(seconds=60) if rng.random() < 0.9 else None
        rows.append(
            {
                "violation_id": f"v{number}", "customer_no": rng.choice(("C1", "C2", "C3", "gone")),
                "rule": rng.choice(("over_voltage", "voltage_loss", "demand_limit")), "started_at": start,
                "state": rng.choice(("raised", "cleared", "cleared", "withdrawn")), "raised_at": raised,
                "acknowledged_at": _maybe(rng, start, 0.7), "confirmed": rng.choice((True, True, False, None)),
                "handled_at": _maybe(rng, start, 0.6), "closed_at": _maybe(rng, start, 0.6),
            }
        )  # fmt: skip
    return ALARMS.conform(pl.DataFrame(rows, infer_schema_length=None))


@pytest.mark.parametrize("seed", range(3))
def test_as_sql_has_it(seed: int, customers: pl.DataFrame) -> None:
    alarms = _alarms(seed)
    found = alarm_handling(alarms, customers, TIMEZONE)
    with duckdb.connect() as connection:
        connection.register("alarms", alarms.to_arrow())
        connection.register("customers", customers.to_arrow())
        oracle = pl.from_arrow(connection.sql(ORACLE).to_arrow_table())
    assert isinstance(oracle, pl.DataFrame)
    scopes = found.filter(~pl.col("scope").str.starts_with("voltage_level_kv:"))
    assert_frame_equal(scopes, ALARM_HANDLING.conform(oracle).sort(ALARM_HANDLING.key), check_exact=False)
    assert {"segment:important", "feeder:10kV-02", "gone", "*"} <= set(found["scope"])
    assert {"2026-06", "2026-07", "2026-07-01"} <= set(found["period"])


def test_no_alarms_no_rows(customers: pl.DataFrame) -> None:
    assert alarm_handling(ALARMS.empty(), customers, TIMEZONE).is_empty()
