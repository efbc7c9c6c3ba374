"""Rows of the KPI table that cannot be counted are refused in one line that says why."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import assets
import metering
from metering.kpi.catalogue import METER_DAYS, problems, sources
from metering.settings import MeteringSettings
from metering.tables import warehouse


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": "readings"}, "there is no source 'readings'; there are"),
        ({"numerator": "sum(received"}, "numerator: 'sum(received' cannot be used on meter_days"),
        ({"numerator": "sum(recieved)"}, "recieved"),
        ({"numerator": "received"}, "is no number for each scope: use an aggregate"),
        ({"denominator": "max(meter_id)"}, "denominator: 'max(meter_id)' is no number"),
        ({"coverage": "sum(nix)"}, "coverage: 'sum(nix)'"),
        ({"source": "forecast", "numerator": "sum(p_kw)"}, "say by which of issued_at, target its rows are dated"),
        ({"dated_by": "received"}, "dated_by: 'received' is no date or time of meter_days"),
        ({"additive": False}, "name a month_source"),
        ({"additive": False, "month_source": "daily_load"}, "month_source: daily_load has no column 'month'"),
        ({"additive": False, "month_source": "power_factor_monthly"}, "cannot be used on power_factor_monthly"),
        ({"scopes": ()}, "scopes must name at least one kind"),
        ({"scopes": ("whole", "whole")}, "each once"),
        ({"numerator": ""}, "numerator: ''"),
        ({"numerator": "*"}, "numerator: '*'"),
        ({"numerator": "sum(received) over (partition by customer_no)"}, "numerator"),
        ({"numerator": "(select 1)"}, "numerator"),
        ({"numerator": "count(*) filter (where received > 0) from meters"}, "numerator"),
        ({"numerator": "true"}, "numerator"),
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"weight": float("nan")}, "weight must be at least 0"),
        ({"decimals": 10}, "decimals from 0 to 9"),
        ({"target": float("inf")}, "target is not a finite number"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    metering_settings: MeteringSettings, values: dict[str, Any], said: str
) -> None:
    row = replace(metering_settings.kpi["reading_success_rate"], **values)
    found = list(problems({"own": row}, warehouse(metering_settings.periods)))
    assert found
    assert found[0].startswith("own: ")
    assert said in found[0]
    assert "\n" not in found[0]


def test_the_products_rows_can_be_counted(metering_settings: MeteringSettings) -> None:
    assert list(problems(metering_settings.kpi, warehouse(metering_settings.periods))) == []


def test_sources_are_rows_of_a_customer_and_a_time(metering_settings: MeteringSettings) -> None:
    known = sources(warehouse(metering_settings.periods))
    assert {"voltage_daily", "power_factor_monthly", "violations", METER_DAYS.name} <= known.keys()
    assert {"customers", "meters"} <= known.keys()  # rows of a period each
    assert not {"kpi", "reconciliation", "quality_results"} & known.keys()


def test_no_kpi_is_named_in_the_code(metering_settings: MeteringSettings) -> None:
    """A KPI is a row: the code that counts, judges and assembles them knows none by its name."""
    folders = (Path(metering.__file__).parent / "kpi", Path(assets.__file__).parent)
    modules = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(modules) > 5
    for path in modules:
        texts = {n.value for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Constant)}
        assert not texts & metering_settings.kpi.keys(), path
