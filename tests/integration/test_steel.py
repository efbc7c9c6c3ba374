"""Eight months of a real steel works, from a file and through Kafka to the lake; four of them to the warehouse.

The oracle is SQL straight from the CSV, and knows nothing of Kilowatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.tables import LAKE
from sinks.lake.reader import LakeReader, current

pytestmark = [pytest.mark.shared_data, pytest.mark.timeout(900)]

MAPPING = Path(__file__).parents[2] / "docs" / "mappings" / "steel.toml"
CUSTOMER = "STEEL,光阳钢厂,large,steel,22.9,1000,,0.90,large_industry,false,,,true\n"
METER = "STEEL-1,STEEL,3p4w,57.7,220,40,5,6,8,900,1,2017-01-01,\n"
ZONE = 'timezone = "Asia/Seoul"\n'
FIRST, LAST, DAYS = "2018-01-01", "2018-04-30", 120
"""What is materialised; the file goes on to the end of August."""
LAST_DAY, ROWS = date(2018, 8, 31), 23_328
PLACES = ("source", "source_partition", "source_offset", "log_offset", "source_row", "logged_at")


@pytest.fixture(scope="module")
def from_file(make_home: Callable[..., Any], once: Callable[..., Path], shared_data: Path) -> Path:
    """The home, filled from the file."""

    def fill(path: Path) -> None:
        home = make_home(CUSTOMER, METER, ZONE, path=path)
        home.run("replay", shared_data / "steel_2018_jan_aug.csv", "--mapping", MAPPING)
        home.run("stream")
        home.run("materialize", "--from", FIRST, "--to", LAST)

    return once("steel", fill)


@pytest.fixture(scope="module")
def through_kafka(make_home: Callable[..., Any], shared_data: Path, kafka: str) -> Any:
    topics = "\n".join(
        f'{name} = "steel.{name}"' for name in ("readings", "windows", "violations", "compliance", "rejected")
    )
    home = make_home(CUSTOMER, METER, f'{ZONE}bootstrap_servers = "{kafka}"\n[topics]\n{topics}\n')
    home.run("replay", shared_data / "steel_2018_jan_aug.csv", "--mapping", MAPPING, "--kafka")
    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: home.rows("readings") == ROWS)
        home.stop(process)
    return home


@pytest.fixture(scope="module")
def oracle(shared_data: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """`csv`: each row's local end by the file's order, its local day, and its figures."""
    database = duckdb.connect()
    database.execute(f"""
        CREATE TABLE csv AS
        SELECT i, TIMESTAMP '2018-01-01 00:15:00' + i * INTERVAL 15 MINUTE AS ended,
               CAST(TIMESTAMP '2018-01-01 00:00:00' + i * INTERVAL 15 MINUTE AS DATE) AS day,
               kwh, lag, lead_
        FROM (SELECT row_number() OVER () - 1 AS i, "Usage_kWh" AS kwh,
                     "Lagging_Current_Reactive.Power_kVarh" AS lag, "Leading_Current_Reactive_Power_kVarh" AS lead_
              FROM read_csv('{shared_data}/steel_2018_jan_aug.csv'))
        WHERE day <= '{LAST}'
    """)
    yield database
    database.close()


def _warehouse(home: Path) -> str:
    return str(home / "warehouse.duckdb")


def test_every_day_has_its_96_points(from_file: Path) -> None:
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        days = warehouse.execute(
            "SELECT date, count(*), min(point), max(point), count(p_kw) "
            "FROM daily_curve WHERE customer_no = 'STEEL' GROUP BY date ORDER BY date"
        ).fetchall()
        failed = warehouse.execute(
            "SELECT DISTINCT status, split_part(reason, ':', 1) FROM daily_curve WHERE status <> 'validated'"
        ).fetchall()
        whole = warehouse.execute("SELECT avg((status = 'validated')::int) FROM daily_curve").fetchone()
    assert len(days) == DAYS
    assert (str(days[0][0]), str(days[-1][0])) == (FIRST, LAST)
    assert {day[1:] for day in days} == {(96, 1, 96, 96)}
    # every reading is there; what fails is a day unlike those before it
    assert {status for status, _ in failed} <= {"raw"}
    assert {rule for _, rule in failed} <= {"spike", "high", "low", "zero"}
    assert whole is not None
    assert whole[0] > 0.8


def test_daily_energy_and_maximum_equal_sql_from_the_csv(from_file: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    expected = oracle.execute("""
        SELECT day, sum(kwh), 4 * max(kwh), min(ended) FILTER (kwh = top) FROM
        (SELECT *, max(kwh) OVER (PARTITION BY day) AS top FROM csv) GROUP BY day ORDER BY day
    """).fetchall()
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        warehouse.execute("SET TimeZone = 'Asia/Seoul'")
        found = warehouse.execute(
            "SELECT date, energy_kwh, p_max_kw, CAST(p_max_at AS TIMESTAMP) FROM daily_load "
            "WHERE customer_no = 'STEEL' ORDER BY date"
        ).fetchall()
    assert len(found) == len(expected) == DAYS
    for (day, kwh, top, at), (found_on, energy, p_max, p_max_at) in zip(expected, found, strict=True):
        assert found_on == day
        assert energy == pytest.approx(kwh, rel=1e-6)
        assert p_max == pytest.approx(top, rel=1e-9)
        assert p_max_at == at, day


def test_monthly_power_factor_equals_sql_from_the_csv(from_file: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    expected = oracle.execute("""
        SELECT date_trunc('month', day)::DATE, round(p / sqrt(p * p + q * q), 2) FROM
        (SELECT day, sum(kwh) OVER m AS p, sum(lag) OVER m + sum(lead_) OVER m AS q FROM csv
         WINDOW m AS (PARTITION BY date_trunc('month', day))) GROUP BY ALL ORDER BY 1
    """).fetchall()
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        found = warehouse.execute("SELECT month, power_factor FROM power_factor_monthly ORDER BY month").fetchall()
    assert found == expected
    assert len(found) == 4


CHARGES = """
    WITH timed AS (
        SELECT date_trunc('month', day)::DATE AS month, kwh, day, hour(ended - INTERVAL 1 MICROSECOND) AS h,
               day BETWEEN DATE '2018-02-15' AND DATE '2018-02-21' AS spring_festival FROM csv
    ), priced AS (
        SELECT month, kwh, CASE
            WHEN spring_festival AND h IN (12, 13) THEN 'deep_valley'
            WHEN month(month) = 1 AND h IN (19, 20) THEN 'sharp'
            WHEN h IN (8, 9, 10) OR h BETWEEN 18 AND 22 THEN 'peak'
            WHEN h = 23 OR h < 7 THEN 'valley' ELSE 'flat' END AS p
        FROM timed
    ), price(p, yuan) AS (VALUES
        ('deep_valley', 0.08306), ('sharp', 0.74754), ('peak', 0.66448), ('flat', 0.4153), ('valley', 0.16612)
    )
    SELECT month, 'purchase_' || p, round(sum(kwh), 2)::DECIMAL(18, 2) AS kwh, yuan::DECIMAL(18, 8) AS yuan
    FROM priced JOIN price USING (p) GROUP BY ALL
    UNION ALL SELECT month, item, round(sum(kwh), 2)::DECIMAL(18, 2), yuan::DECIMAL(18, 8)
    FROM timed CROSS JOIN (VALUES ('line_loss', 0.0168), ('system_operation', 0.0342), ('transmission', 0.1435),
        ('funds', 0.0291)) AS o(item, yuan) GROUP BY ALL
"""


def test_charges_equal_sql_from_the_csv(from_file: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    lines = oracle.execute(f"SELECT *, round(kwh * yuan, 2)::DECIMAL(18, 2) FROM ({CHARGES}) ORDER BY ALL").fetchall()
    factors = oracle.execute("""
        SELECT date_trunc('month', day)::DATE AS month,
               round(100 * sum(kwh) / sqrt(sum(kwh) ** 2 + sum(lag + lead_) ** 2)) FROM csv GROUP BY 1
    """).fetchall()
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        found = warehouse.execute("SELECT month, item, quantity, price, amount, status FROM charges_monthly").fetchall()
    ours = {(month, item): figures for month, item, *figures in found}
    assert {status for *_, status in ours.values()} == {"closed"}
    due = dict.fromkeys((month for month, _ in factors), Decimal("21900.00"))
    for month, item, kwh, yuan, amount in lines:
        quantity, price, charged, _ = ours.pop((month, item))
        assert abs(quantity - kwh) <= Decimal("0.02"), (month, item)  # the largest bears what rounding leaves over
        assert price == yuan
        assert abs(charged - amount) <= Decimal("0.02"), (month, item)
        due[month] += charged if item != "funds" else 0
    for month, points in factors:
        assert ours.pop((month, "basic_capacity"))[2] == Decimal("21900.00")
        short = max(0, 90 - int(points))
        pct = (
            Decimal(min(short, 20)) / 2
            + max(0, short - 20)
            - min(Decimal("0.75"), max(0, int(points) - 90) * Decimal("0.15"))
        )
        base, rate, charged, _ = ours.pop((month, "power_factor_adjustment"))
        assert (base, rate) == (due[month], pct / 100)
        assert charged == (base * rate).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert not ours


def test_demand_equals_sql_from_the_csv(from_file: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    expected = oracle.execute("""
        SELECT date_trunc('month', day)::DATE, 4 * max(kwh), arg_max(ended, (kwh, -i)), sum(kwh) / (4 * max(kwh)),
               max(4 * sqrt(kwh ** 2 + (lag - lead_) ** 2)) / 1000 FROM csv GROUP BY 1 ORDER BY 1
    """).fetchall()
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        warehouse.execute("SET TimeZone = 'Asia/Seoul'")
        found = warehouse.execute("""
            SELECT month, demand_kw, demand_at::TIMESTAMP, utilisation_hours, max_load_rate, basis, overrun_kw
            FROM demand_monthly WHERE days > 20 ORDER BY month
        """).fetchall()
    assert len(expected) == len(found) == 4
    for wanted, got in zip(expected, found, strict=True):
        assert (got[0], got[2], got[5:]) == (wanted[0], wanted[2], ("block", None))
        assert (got[1], got[3], got[4]) == pytest.approx((wanted[1], *wanted[3:]), rel=1e-6)


@pytest.mark.parametrize("kind", ["month", "year"])
def test_load_indices_equal_sql_from_the_csv(from_file: Path, oracle: duckdb.DuckDBPyConnection, kind: str) -> None:
    expected = oracle.execute(f"""
        WITH points AS (
            SELECT date_trunc('{kind}', day)::DATE AS period, ended, day, 4 * kwh AS p,
                   4 * sqrt(kwh * kwh + (lag - lead_) * (lag - lead_)) AS s FROM csv
        ), days AS (
            SELECT period, day, avg(p) / max(p) AS factor, max(p) - min(p) AS valley FROM points GROUP BY period, day
        )
        SELECT period, sum(p) / 4, max(p), avg(p) / max(p), sum(p) / 4 / max(p), max(p) - min(p), max(s) / 1000,
               (SELECT avg(factor) FROM days d WHERE d.period = points.period),
               (SELECT max(valley) FROM days d WHERE d.period = points.period)
        FROM points GROUP BY period ORDER BY period
    """).fetchall()
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        found = warehouse.execute(
            "SELECT period, energy_kwh, p_max_kw, load_factor, utilisation_hours, peak_valley_kw, max_load_rate, "
            "daily_load_factor_mean, daily_peak_valley_max_kw FROM load_indices "
            "WHERE period_kind = ? AND scope = 'industry:steel' ORDER BY period",
            [kind],
        ).fetchall()
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert [row[1:] for row in found] == [pytest.approx(row[1:], rel=1e-6) for row in expected]


def test_stream_and_batch_agree_every_day(from_file: Path) -> None:
    with duckdb.connect(_warehouse(from_file), read_only=True) as warehouse:
        days = warehouse.execute(
            "SELECT table_name, count(*), sum(stream_rows), sum(differing_rows) FROM reconciliation GROUP BY 1"
        ).fetchall()
    assert {name for name, *_ in days} >= {"windows", "compliance"}
    assert all(count == DAYS and differing == 0 for _, count, _, differing in days), days
    assert all(rows > 0 for name, _, rows, _ in days if name != "load_control"), days


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_through_kafka_gives_the_same_lake(from_file: Path, through_kafka: Any) -> None:
    # files have an end; on a topic the last day goes on until the watermark has passed its last quarter-hour
    for table, but in {"readings": PLACES, "windows": (), "violations": (), "compliance": ()}.items():
        found = [
            current(LakeReader(home).scan(table).drop(but), LAKE[table].key).filter(pl.col("date") < LAST_DAY).collect()
            if "revision" in LAKE[table].names
            else LakeReader(home).scan(table).drop(but).filter(pl.col("date") < LAST_DAY).collect()
            for home in (from_file, through_kafka.path)
        ]
        assert_frame_equal(*found, check_row_order=False, check_exact=True)
        assert found[0].height > 0, table
