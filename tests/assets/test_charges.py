"""From the lake to demand, charges and bills of months: one energy, closing, frozen registers; old months stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from assets.batch import Batch, gated
from assets.catalogue import RESULTS
from metering.readings.decode import Lines
from metering.records.decode import decode_records
from metering.tables import LAKE
from metering.tables.records import KINDS

FIRST = date(2026, 2, 26)
TABLES = (
    "windows", "meter_curve", "meter_daily", "daily_curve", "demand_daily", "daily_load", "power_factor_monthly",
    "demand_monthly", "charges_monthly", "bill_check",
)  # fmt: skip
D = Decimal
MARCH = date(2026, 3, 1)


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[..., None],
) -> Path:
    """From 26 February to 7 April; March is over, and closed."""
    home = make_batch_home(tmp_path_factory.mktemp("charges") / "home", FIRST, 41)
    materialise(batch_of(home), [FIRST + timedelta(days=n) for n in range(41)], TABLES)
    return home


def rows(batch: Batch, table: str, month: date = MARCH) -> pl.DataFrame:
    return batch.marts.scan(batch.tables[table]).filter(pl.col("month") == month).collect()


def record(home: Path, kind: str, *records: dict[str, Any]) -> None:
    """Records in the lake, as a stream writes them."""
    text = "\n".join(json.dumps(r) for r in records).encode()
    decoded = decode_records(KINDS[kind], Lines(text))
    assert decoded.rejects.is_empty(), decoded.rejects["detail"].to_list()
    told = decoded.accepted.select(pl.exclude("row", "item"))
    day = told.select(pl.col(KINDS[kind].time).dt.convert_time_zone("Asia/Shanghai").dt.date()).item(0, 0)
    folder = home / "lake" / kind / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    place = {"source": "f.ndjson", "source_partition": 0, "source_row": 0, "date": day}
    numbered = told.drop("source_offset", "source_row", strict=False).with_row_index("source_offset")
    LAKE[kind].conform(numbered, **place).drop("date").write_parquet(folder / f"{len(list(folder.iterdir()))}.parquet")


def test_a_months_energy_is_the_same_in_every_table(home: Path, batch_of: Callable[[Path], Batch]) -> None:
    batch = batch_of(home)
    factor = dict(rows(batch, "power_factor_monthly").select("customer_no", "active_kwh").iter_rows())
    charges, demand = rows(batch, "charges_monthly"), rows(batch, "demand_monthly")
    march = [MARCH + timedelta(days=n) for n in range(31)]
    load = batch.marts.read(batch.tables["daily_load"], march).filter(pl.col("customer_no") != "*")
    for customer, kwh in factor.items():
        own = load.filter(customer_no=customer)
        assert own["energy_kwh"].sum() == pytest.approx(kwh, rel=1e-12)
        total = D(f"{kwh:.6f}").quantize(D("0.01"), ROUND_HALF_UP)
        lines = charges.filter(pl.col("customer_no") == customer, pl.col("unit") == "kWh")
        assert set(lines.group_by("component").agg(pl.col("quantity").sum())["quantity"]) == {total}
        row = demand.filter(customer_no=customer).row(0, named=True)
        assert row["utilisation_hours"] == pytest.approx(kwh / row["demand_kw"], rel=1e-12)
        assert row["demand_kw"] == own["demand_max_kw"].max()
        assert {row["basis"]} == set(own["demand_basis"])
    assert dict(demand.select("customer_no", "basis").iter_rows()) == {"C1": "block", "C2": "sliding"}


def test_charges_equal_sql_on_the_lake(home: Path, batch_of: Callable[[Path], Batch]) -> None:
    """The oracle knows the lake's readings and the tariff's hours, and counts in SQL's own decimals."""
    oracle = f"""
        SET TimeZone = 'Asia/Shanghai';
        WITH used AS (
            SELECT customer_no, ts, import_kwh - lag(import_kwh) OVER (PARTITION BY meter_id ORDER BY ts) AS kwh
            FROM read_parquet('{home}/lake/readings/*/*.parquet')
        ), timed AS (
            SELECT customer_no, kwh, hour(ts - INTERVAL 1 microsecond) AS h FROM used
            WHERE CAST(ts - INTERVAL 1 microsecond AS DATE) BETWEEN '2026-03-01' AND '2026-03-31'
        ), of_period AS (
            SELECT customer_no, CASE WHEN h IN (8, 9, 10, 18, 19, 20, 21, 22) THEN 'peak'
                   WHEN h < 7 OR h = 23 THEN 'valley' ELSE 'flat' END AS period,
                   round(sum(kwh), 2)::DECIMAL(18, 2) AS kwh
            FROM timed GROUP BY ALL
        ), price(customer_no, period, yuan) AS (VALUES
            ('C1', 'peak', 0.66448), ('C1', 'flat', 0.4153), ('C1', 'valley', 0.16612),
            ('C2', 'peak', 0.62295), ('C2', 'flat', 0.4153), ('C2', 'valley', 0.20765)
        ) SELECT customer_no, 'purchase_' || period AS item, kwh, round(kwh * yuan::DECIMAL(10, 5), 2)::DECIMAL(18, 2)
          FROM of_period JOIN price USING (customer_no, period) ORDER BY ALL
    """
    with duckdb.connect() as connection:
        expected = connection.execute(oracle).fetchall()
    charges = rows(batch_of(home), "charges_monthly").filter(pl.col("component") == "purchase")
    ours = charges.sort("customer_no", "item").select("customer_no", "item", "quantity", "amount").rows()
    assert len(expected) == 6
    for (customer, item, kwh, yuan), row in zip(sorted(expected), ours, strict=True):
        assert row[:2] == (customer, item)
        assert abs(row[2] - kwh) <= D("0.01")  # what rounding leaves over is with the largest
        assert abs(row[3] - yuan) <= D("0.01")


def test_months_that_are_over_are_closed_and_the_running_one_is_projected(
    home: Path, batch_of: Callable[[Path], Batch]
) -> None:
    batch = batch_of(home)
    status = batch.marts.scan(batch.tables["charges_monthly"]).select("month", "status").unique().collect()
    assert dict(status.iter_rows()) == {date(2026, 2, 1): "closed", MARCH: "closed", date(2026, 4, 1): "running"}
    april = rows(batch, "charges_monthly", date(2026, 4, 1)).filter(component="transmission")
    for amount, projected in april.select("amount", "projected").iter_rows():
        assert projected == pytest.approx(amount * 30 / 7, rel=D("0.0001"))


def test_a_day_more_leaves_months_before_as_they_were(home: Path, batch_of: Callable[[Path], Batch]) -> None:
    batch, day = batch_of(home), [date(2026, 4, 7)]
    for result in RESULTS:
        if result.table in ("demand_monthly", "charges_monthly"):
            parts = list(result.compute(batch, day))
            assert [part.partition for part in parts] == ["month=2026-04-01"]


def test_computing_again_changes_nothing(
    home: Path, batch_of: Callable[[Path], Batch], materialise: Callable[..., None]
) -> None:
    batch = batch_of(home)
    before = rows(batch, "charges_monthly")
    materialise(batch, [MARCH], ("charges_monthly",))
    assert rows(batch_of(home), "charges_monthly").equals(before)


@pytest.fixture
def changed(
    tmp_path: Path, make_batch_home: Callable[[Path, date, int], Path], batch_of: Callable[[Path], Batch]
) -> Path:
    return make_batch_home(tmp_path / "home", date(2026, 3, 30), 8)


def test_what_comes_after_closing_is_a_delta_and_a_bill_is_compared(
    changed: Path, batch_of: Callable[[Path], Batch], materialise: Callable[..., None]
) -> None:
    days = [date(2026, 3, 30) + timedelta(days=n) for n in range(8)]
    first = (
        LAKE["readings"]
        .empty()
        .clear(2)
        .with_columns(ts=pl.lit(datetime(2026, 3, 29, 16, tzinfo=UTC)), meter_id=pl.lit("M1"))
    )
    (changed / "lake" / "readings" / "date=2026-03-29").mkdir()
    first.drop("date").write_parquet(changed / "lake" / "readings" / "date=2026-03-29" / "0.parquet")
    materialise(batch_of(changed), days, TABLES)
    settled = rows(batch_of(changed), "charges_monthly")
    assert set(settled["status"]) == {"closed"}  # the registers as March begins here are no day of it
    due = dict(settled.group_by("customer_no").agg(pl.col("amount").sum()).iter_rows())
    bill = {"type": "bill", "at": "2026-04-06T09:00:00+08:00", "month": "2026-03"}
    record(
        changed,
        "service_events",
        {"event_id": "b1", "customer_no": "C1", "amount": str(due["C1"]), **bill},
        {"event_id": "b2", "customer_no": "C2", "amount": str(due["C2"] + 5), **bill},
    )
    materialise(batch_of(changed), [date(2026, 4, 6)], ("bill_check",))
    checked = rows(batch_of(changed), "bill_check").select("customer_no", "cause", "difference").rows()
    assert checked == [("C1", "equal", 0), ("C2", "no_lines", 5)]

    # the capacity was another all the time, as is found out now
    registry = changed / "registry" / "customers.csv"
    registry.write_text(registry.read_text("utf-8").replace(",10,1000,", ",10,1250,"), "utf-8")
    materialise(batch_of(changed), [date(2026, 3, 31)], ("charges_monthly",))
    now = rows(batch_of(changed), "charges_monthly")
    assert now.filter(pl.col("status") == "closed").equals(settled)
    deltas = now.filter(pl.col("status") == "delta")
    assert dict(deltas.select("item", "amount").iter_rows()) == {
        "basic_capacity+1": D("5475.00"), "power_factor_adjustment+1": D("-41.06"),
    }  # fmt: skip
    materialise(batch_of(changed), [date(2026, 3, 31)], ("charges_monthly",))
    assert rows(batch_of(changed), "charges_monthly").equals(now)


def test_frozen_registers_are_used_and_compared(
    changed: Path, batch_of: Callable[[Path], Batch], materialise: Callable[..., None]
) -> None:
    days = [date(2026, 3, 30) + timedelta(days=n) for n in range(8)]
    at = datetime(2026, 3, 31, 16, 0, 5, tzinfo=UTC)
    frozen = {"meter_id": "M1", "kind": "settlement", "demand_kw": 555.5}
    record(
        changed, "frozen_registers", {**frozen, "at": "2026-03-01T00:00:00+08:00", "registers": {"import_kwh": 1000}}
    )
    record(changed, "frozen_registers", {**frozen, "at": at.isoformat(), "registers": {"import_kwh": 31000}})
    batch = batch_of(changed)
    materialise(batch, days, TABLES[:-2])
    charges = next(r for r in RESULTS if r.table == "charges_monthly")
    outcome = gated(batch, batch.tables["charges_monthly"], days, charges.compute(batch, days))
    outcome.stage.publish()
    lines = rows(batch, "charges_monthly").filter(customer_no="C1", unit="kWh")
    assert set(lines.group_by("component").agg(pl.col("quantity").sum())["quantity"]) == {30000}
    assert lines["rule"].str.contains("frozen registers").all()
    assert rows(batch, "demand_monthly").filter(customer_no="C1")["frozen_kw"].item() == 555.5
    found = dict(outcome.quality.select("rule", "sample").iter_rows())
    assert "30000.0 kWh frozen by its meters" in found["frozen_registers"]
    assert "frozen_demand" in found
    assert "one_energy" not in found


def test_each_contract_of_a_month_is_charged_by_the_demand_of_its_own_days(
    changed: Path, batch_of: Callable[[Path], Batch], materialise: Callable[..., None]
) -> None:
    registry = changed / "registry" / "customers.csv"
    head, one, two = registry.read_text("utf-8").splitlines()
    early = one.replace(",10,1000,,", ",10,1000,500,")
    late = one.replace(",10,1000,,", ",10,1000,450,")
    lines = [f"{head},valid_from,valid_to", f"{early},,2026-04-03", f"{late},2026-04-04,", f"{two},,"]
    registry.write_text("\n".join(lines) + "\n", "utf-8")
    (changed / "kilowatch.toml").write_text(
        "[[settlement]]\neffective_from = 2000-01-01\nclause = 'contract'\nreset_day = 25\n", "utf-8"
    )
    days = [date(2026, 3, 30) + timedelta(days=n) for n in range(8)]
    materialise(batch_of(changed), days, TABLES[:-1])
    batch = batch_of(changed)
    daily = batch.marts.read(batch.tables["demand_daily"], days).filter(customer_no="C1", source_no=1)
    first = daily.filter(pl.col("date") <= date(2026, 4, 3))["demand_kw"].max()  # of March's last days too
    then = daily.filter(pl.col("date") > date(2026, 4, 3))["demand_kw"].max()
    assert first > daily.filter(pl.col("date").is_between(date(2026, 4, 1), date(2026, 4, 3)))["demand_kw"].max()
    month = rows(batch, "demand_monthly", date(2026, 4, 1)).filter(customer_no="C1").row(0, named=True)
    assert (month["period_from"], month["period_to"]) == (date(2026, 3, 25), date(2026, 4, 24))
    assert month["demand_kw"] == max(first, then)
    assert month["overrun_kw"] == max(first - 500, then - 450)
    charged = rows(batch, "charges_monthly", date(2026, 4, 1)).filter(customer_no="C1").filter(unit="kW")
    expected = []
    for demand, contract, own in ((first, 500, 3), (then, 450, 27)):
        d, c = D(f"{demand:.2f}"), D(contract)
        yuan = [c * 35 * own / 30, *([(d - c * D("1.05")) * 70 * own / 30] if d > c * D("1.05") else [])]
        expected += [y.quantize(D("0.01"), ROUND_HALF_UP) for y in yuan]
    assert sorted(charged["amount"]) == sorted(expected)


def test_days_that_do_not_add_up_to_their_month_and_tariffs_without_a_price_are_told(
    changed: Path, batch_of: Callable[[Path], Batch], materialise: Callable[..., None]
) -> None:
    days = [date(2026, 3, 30), date(2026, 3, 31)]
    (changed / "kilowatch.toml").write_text("prices = []", "utf-8")
    materialise(batch_of(changed), days, TABLES[:-2])
    batch = batch_of(changed)
    stage, day = batch.marts.stage(), "date=2026-03-31"
    load = batch.tables["daily_load"]
    stage.write(load, day, batch.marts.scan(load, [day]).with_columns(pl.col("energy_kwh") + 1).collect())
    stage.publish()
    (part,) = next(r for r in RESULTS if r.table == "charges_monthly").compute(batch, days)
    assert part.findings is not None
    told = part.findings.group_by("rule", "severity").len().sort("rule").rows()
    assert told == [("no_price", "warning", 2), ("one_energy", "error", 2)]
    assert part.rows.is_empty()


def test_what_is_seen_of_a_month(home: Path, batch_of: Callable[[Path], Batch]) -> None:
    batch = batch_of(home)
    shown = {r.table: r.seen(batch, MARCH) for r in RESULTS if r.seen is not None and r.group == "charges"}
    assert set(shown) == {"demand_monthly", "charges_monthly", "bill_check"}
    due = rows(batch, "charges_monthly")["amount"].sum()
    assert shown["charges_monthly"]["due_yuan"] == pytest.approx(float(due))
    for table in ("demand_monthly", "charges_monthly"):
        assert str(shown[table]["picture"]).startswith("![")
    assert shown["demand_monthly"]["customers_above_contract"] == 0
    assert shown["bill_check"] == {"lines": 0, "differing_lines": 0}
