"""Four weeks of a real single-phase household at one minute: what cannot be read is told, nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

pytestmark = [pytest.mark.shared_data, pytest.mark.timeout(900)]

MAPPING = Path(__file__).parents[2] / "docs" / "mappings" / "household.toml"
FILE = "household_1min_28d.txt"
CUSTOMER = "HOUSE,住宅 001,sme,household,0.22,8,,0.85,general_industry,false,,,false\n"
METER = "HOUSE-1,HOUSE,1p,230,1,1,10,60,8,60,1,2006-01-01,\n"
FIRST, LAST = "2006-12-16", "2007-01-14"


@pytest.fixture(scope="module")
def home(once: Callable[..., Path], make_home: Callable[..., Any], shared_data: Path) -> Any:
    def at(path: Path) -> Any:
        return make_home(CUSTOMER, METER, 'timezone = "Europe/Paris"\n', path=path)

    def fill(path: Path) -> None:
        made = at(path)
        made.run("replay", shared_data / FILE, "--mapping", MAPPING)
        made.run("stream")
        made.run("materialize", "--from", FIRST, "--to", LAST)

    return at(once("household", fill))


def test_bad_rows_are_told_with_line_and_reason(home: Any, shared_data: Path) -> None:
    lines = (shared_data / FILE).read_text("utf-8").splitlines()
    asked = [number for number, line in enumerate(lines, 1) if ";?;" in line]
    written = (home.path / "telemetry" / "household_1min_28d.ndjson.rejects").read_text("utf-8")
    rejects = [json.loads(line) for line in written.splitlines()]
    assert [reject["line"] for reject in rejects] == [*asked, len(lines)]
    assert len(asked) == 4
    assert all(reject["reason"] and reject["detail"] for reject in rejects)


def test_nothing_else_is_lost(home: Any, shared_data: Path) -> None:
    lines = (shared_data / FILE).read_text("utf-8").splitlines()
    assert home.rows("readings") == len(lines) - 1 - 5
    assert home.rows("rejects") == 0


def test_voltage_qualification_equals_sql_from_the_file(home: Any, shared_data: Path) -> None:
    upper, lower = 230 * 1.07, 230 * 0.90
    expected = duckdb.execute(f"""
        WITH rows AS (
            SELECT strptime("Date" || ' ' || "Time", '%d/%m/%Y %H:%M:%S') AS ended, TRY_CAST("Voltage" AS DOUBLE) AS u,
                   TRY_CAST("Sub_metering_3" AS DOUBLE) AS whole
            FROM read_csv('{shared_data}/{FILE}', delim = ';', all_varchar = true, null_padding = true)
        )
        SELECT CAST(ended - INTERVAL 1 MICROSECOND AS DATE), count(*),
               count(*) FILTER (u > {upper}), count(*) FILTER (u < {lower}),
               (1 - (count(*) FILTER (u > {upper}) + count(*) FILTER (u < {lower})) / count(*)) * 100
        FROM rows WHERE u BETWEEN 230 * 0.70 AND 230 * 1.20 AND whole IS NOT NULL GROUP BY 1 ORDER BY 1
    """).fetchall()
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as warehouse:
        found = warehouse.execute(
            "SELECT date, monitored_min, over_min, under_min, qualification_rate FROM voltage_daily "
            "WHERE meter_id = 'HOUSE-1' AND phase = 'a' ORDER BY date"
        ).fetchall()
    assert len(found) == len(expected)
    for wanted, got in zip(expected, found, strict=True):
        assert got[:4] == wanted[:4]
        assert got[4] == pytest.approx(wanted[4], rel=1e-9)
    assert sum(day[2] + day[3] for day in found) > 0


SQL = f"""
    WITH rows AS (
        SELECT strptime("Date" || ' ' || "Time", '%d/%m/%Y %H:%M:%S') AS ended,
               TRY_CAST("Global_active_power" AS DOUBLE) AS kw, TRY_CAST("Sub_metering_3" AS DOUBLE) AS whole
        FROM read_csv('{{shared}}/{FILE}', delim = ';', all_varchar = true, null_padding = true)
    ), known AS (
        SELECT *, date_trunc('month', ended - INTERVAL 1 MICROSECOND)::DATE AS month FROM rows WHERE whole IS NOT NULL
    )
"""


def test_demand_slides_over_a_month_and_equals_sql_from_the_file(home: Any, shared_data: Path) -> None:
    expected = duckdb.execute(f"""{SQL.format(shared=shared_data)}, means AS (
            SELECT month, ended, avg(kw) OVER w AS mean, count(*) OVER w AS n FROM known
            WINDOW w AS (PARTITION BY month ORDER BY ended RANGE BETWEEN INTERVAL 14 MINUTES PRECEDING AND CURRENT ROW)
        ) SELECT month, max(mean), min(ended) FILTER (mean > 0.999999999 * top) FROM
        (SELECT *, max(mean) OVER (PARTITION BY month) AS top FROM means WHERE n = 15) GROUP BY 1 ORDER BY 1
    """).fetchall()
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as warehouse:
        warehouse.execute("SET TimeZone = 'Europe/Paris'")
        found = warehouse.execute(
            "SELECT month, demand_kw, demand_at::TIMESTAMP, basis FROM demand_monthly ORDER BY month"
        ).fetchall()
    assert len(found) == len(expected) == 2
    for wanted, got in zip(expected, found, strict=True):
        assert (got[0], got[2:]) == (wanted[0], (wanted[2], "sliding"))
        assert got[1] == pytest.approx(wanted[1], rel=1e-9)


def test_charges_equal_sql_from_the_file(home: Any) -> None:
    """By the energy of the curve, whose gaps are estimated: what the tariff makes of it is the oracle's own."""
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as warehouse:
        warehouse.execute("SET TimeZone = 'Europe/Paris'")
        differing = warehouse.execute("""
            WITH used AS (
                SELECT date_trunc('month', date)::DATE AS month, energy_kwh AS kwh,
                       hour(window_end - INTERVAL 15 MINUTE) AS h FROM daily_curve
            ), lines AS (
                SELECT month, 'purchase_' || CASE WHEN h IN (8, 9, 10) OR h BETWEEN 18 AND 22 THEN 'peak'
                       WHEN h < 7 OR h = 23 THEN 'valley' ELSE 'flat' END AS item, sum(kwh) AS kwh
                FROM used GROUP BY ALL
                UNION ALL SELECT month, unnest(['line_loss', 'system_operation', 'transmission', 'funds']), sum(kwh)
                FROM used GROUP BY month
            ), price(item, yuan) AS (VALUES ('purchase_peak', 0.62295), ('purchase_flat', 0.4153),
                ('purchase_valley', 0.20765), ('line_loss', 0.0168), ('system_operation', 0.0342),
                ('transmission', 0.1895), ('funds', 0.0291))
            SELECT month, item, quantity, kwh, amount, kwh * yuan FROM charges_monthly
            FULL JOIN (lines JOIN price USING (item)) USING (month, item)
            WHERE NOT coalesce(abs(quantity - kwh) <= 0.021 AND abs(amount - kwh * yuan) <= 0.021, false)
        """).fetchall()
        count = warehouse.execute(
            "SELECT count(*), any_value(status) FROM charges_monthly WHERE month = '2006-12-01'"
        ).fetchone()
    assert differing == []  # a home of 8 kVA has no adjustment, and no basic charge
    assert count == (7, "closed")


def test_en50160_weeks_equal_sql_from_the_file(home: Any, shared_data: Path) -> None:
    """10-min means of at least five readings; a week passes with 756 of them."""
    expected = duckdb.execute(f"""
        WITH rows AS (
            SELECT strptime("Date" || ' ' || "Time", '%d/%m/%Y %H:%M:%S') - INTERVAL 1 MICROSECOND AS ended,
                   TRY_CAST("Voltage" AS DOUBLE) AS u, TRY_CAST("Sub_metering_3" AS DOUBLE) AS whole
            FROM read_csv('{shared_data}/{FILE}', delim = ';', all_varchar = true, null_padding = true)
        ), means AS (
            SELECT time_bucket(INTERVAL 10 MINUTES, ended) AS bucket, avg(u) AS u FROM rows
            WHERE whole IS NOT NULL GROUP BY ALL HAVING count(*) >= 5
        )
        SELECT CAST(date_trunc('week', bucket) AS DATE) AS week, count(*) AS n,
       avg(CAST(u BETWEEN 207 AND 253 AS INT)) * 100 AS a,
               avg(CAST(u BETWEEN 195.5 AND 253 AS INT)) * 100 AS b FROM means GROUP BY week ORDER BY week
    """).fetchall()
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as warehouse:
        found = warehouse.execute(
            "SELECT week, tenmin_means, within_10_pct, within_15_pct, verdict FROM voltage_weekly ORDER BY week"
        ).fetchall()
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2:4] for row in found] == [pytest.approx(row[2:]) for row in expected]
    whole = [("pass" if row[2] >= 95 and row[3] == 100 else "fail") for row in expected[1:4]]
    assert [row[4] for row in found[1:4]] == whole


def test_stream_and_batch_agree(home: Any) -> None:
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as warehouse:
        differing = warehouse.execute("SELECT sum(stream_rows), sum(differing_rows) FROM reconciliation").fetchone()
    assert differing is not None
    assert differing[0] > 0
    assert differing[1] == 0
