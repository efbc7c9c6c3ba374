"""A KPI is a row: one that a home adds is in the table, the docs and the answers to queries, without any code."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.batch import Batch
from assets.catalogue import RESULTS
from metering.errors import SettingsError
from orchestration.home.settings import load_settings
from orchestration.reference import DOCS, pages
from sinks.warehouse import build, query

DAYS = [date(2026, 3, 30) + timedelta(days=n) for n in range(4)]  # two months


@pytest.fixture(scope="module")
def example() -> str:
    """The row that docs/kpi.md gives as an example."""
    text = (DOCS / "kpi.md").read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    assert list(tomllib.loads(text)["kpi"]) == ["undervoltage_share"]
    return text


def test_a_homes_own_kpi_is_in_table_docs_and_query(
    example: str,
    tmp_path: Path,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[[Batch, Sequence[date], Sequence[str]], None],
) -> None:
    home = make_batch_home(tmp_path / "home", DAYS[0], len(DAYS))
    more = """[kpi.meters_due]
name_zh = "应抄电表数"
name_en = "Meters due"
meaning = "Meters of which readings are due, a day"
unit = "meters"
source = "meter_days"
numerator = "count(*)"
denominator = "count(distinct date)"
additive = true
[kpi.months_with_solar_surplus]
name_zh = "倒送月数"
name_en = "Months with more export than import"
meaning = "Customers' months whose active energy is negative"
unit = "%"
source = "power_factor_monthly"
numerator = "count(*) filter (where active_kwh < 0)"
denominator = "count(active_kwh)"
direction = "at_most"
[kpi.power_factor]
target = 0.99
weight = 2
"""
    (home / "kilowatch.toml").write_text(f"{example}\n{more}", "utf-8")
    batch = batch_of(home)
    of_meters = ("windows", "meter_curve", "meter_daily")
    needed = ("customers", "meters", *of_meters, "voltage_daily", "power_factor_monthly", "kpi")
    materialise(batch, DAYS, needed)
    build(home, batch.tables)

    found = query(home, "SELECT * FROM kpi WHERE kpi_id = 'undervoltage_share' AND scope = 'C1' ORDER BY period")
    assert found["period"].to_list() == sorted(["2026-03", "2026-04", *map(str, DAYS)])
    volts = batch.marts.read(batch.tables["voltage_daily"], DAYS[:2]).filter(pl.col("customer_no") == "C1")
    of_march = found.row(by_predicate=pl.col("period") == "2026-03", named=True)
    under, monitored = volts.select(pl.col("under_min", "monitored_min").sum()).row(0)
    assert of_march["denominator"] == monitored > 0
    assert of_march["value"] == under / monitored * 100
    assert (of_march["direction"], of_march["status"]) == ("at_most", "met")

    scopes = query(home, "SELECT DISTINCT kpi_id, scope FROM kpi")
    assert set(scopes.filter(pl.col("kpi_id") == "undervoltage_share")["scope"]) == {"C1", "C2", "*"}
    meters = query(home, "SELECT period, value FROM kpi WHERE kpi_id = 'meters_due' AND scope = '*'")
    assert dict(meters.iter_rows())["2026-03"] == 2.0
    surplus = query(home, "SELECT period, scope, value FROM kpi WHERE kpi_id = 'months_with_solar_surplus'")
    assert set(surplus["period"]) == {"2026-03", "2026-04"}  # its table has a row a month
    assert set(surplus["value"]) == {0.0}
    raised = query(
        home, "SELECT DISTINCT target, weight, status FROM kpi WHERE kpi_id = 'power_factor' AND scope = 'C1'"
    )
    assert raised.rows() == [(0.99, 2.0, "missed")]

    page = pages(load_settings(home))["kpi.md"]
    assert "| `undervoltage_share` | 欠压时间占比 |" in page
    assert "at most 0.5" in page
    assert "at least 0.99" in page


def test_parts_of_before_a_kpi_had_a_direction_still_make_a_warehouse(batch: Batch, tmp_path: Path) -> None:
    table = batch.tables["kpi"]
    part = tmp_path / "marts" / "kpi" / "date=2026-03-02" / "part.parquet"
    part.parent.mkdir(parents=True)
    old = batch.marts.read(table, [date(2026, 3, 2)]).drop("direction", "weight")
    old.write_parquet(part)
    assert build(tmp_path, batch.tables)["kpi"] == old.height > 0
    assert query(tmp_path, "SELECT DISTINCT direction, weight FROM kpi").rows() == [(None, None)]


def test_kpis_run_after_every_table_that_they_may_count() -> None:
    result = {result.asset: result for result in RESULTS}["kpi"]
    counted = {r.asset for r in RESULTS if r.group not in ("registry", "kpi", "quality")}
    assert counted == set(result.deps)


def test_the_environment_changes_a_target_and_adds_no_kpi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILOWATCH_KPI__POWER_FACTOR__TARGET", "0.95")
    kpi = load_settings(tmp_path).kpi["power_factor"]
    assert (kpi.target, kpi.numerator) == (0.95, "abs(sum(active_kwh))")
    monkeypatch.setenv("KILOWATCH_KPI__NIX__TARGET", "1")
    with pytest.raises(SettingsError, match="there is no KPI 'nix'"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[kpi.Own]\ntarget = 1", "'Own' must be a name"),
        ("[kpi.own]\ntarget = 1", "a new one lacks name_zh, name_en, meaning, unit, source, numerator, denominator"),
        ("[kpi.power_factor]\nnumerator = 'sum(nix)'", "kpi: Value error, power_factor: numerator: 'sum(nix)'"),
        ("[kpi.power_factor]\nscopes = ['planet']", "kpi.power_factor.scopes"),
        ("[kpi.power_factor]\ndirection = 'up'", "kpi.power_factor.direction"),
        ("[kpi.power_factor]\nnix = 1", "kpi.power_factor.nix"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kilowatch.toml").write_text(text, "utf-8")
    with pytest.raises(SettingsError) as raised:
        load_settings(tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
