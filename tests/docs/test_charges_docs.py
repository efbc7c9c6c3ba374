"""The months that docs/charges.md works by hand are what Kilowatch charges, line by line and to the fen."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.charges.bills import bill_check
from metering.readings.decode import Lines
from metering.records.decode import decode_records
from metering.settings import MeteringSettings
from metering.tables.records import SERVICE
from tests.metering.charges.bill import charged, customers

TEXT = (Path(__file__).parents[2] / "docs" / "charges.md").read_text("utf-8")
WORKED = re.findall(r"^### (.+?)$.*?```toml\n(.*?)```\n\n\| item .*?\n\| ---.*?\n(.*?)\n\n", TEXT, re.S | re.M)
NO = "100001"


def month_of(given: dict[str, Any], settings: MeteringSettings) -> pl.DataFrame:
    month = given.get("month", date(2026, 3, 1))
    row = {
        "customer_no": NO, "tariff": given["tariff"], "contract_capacity_kva": given["capacity_kva"],
        "contract_demand_kw": given.get("contract_demand_kw"), "voltage_level_kv": given["voltage_level_kv"],
        "suspended_kva": given.get("suspended_kva"), "basic_charge": given.get("basic_charge"),
        "supply_mode": given.get("supply_mode", "proxy"), "pf_standard": given["pf_standard"],
    }  # fmt: skip
    rows = [row]
    if then := given.get("then"):
        rows = [
            {**row, "valid_to": then["from"] - timedelta(days=1)},
            {**row, "valid_from": then["from"], "contract_capacity_kva": then["capacity_kva"]},
        ]
    if "excess_from" in given:
        basic = replace(settings.basic_charge[0], excess_from=given["excess_from"])
        settings = replace(settings, basic_charge=(basic,))
    half = {period: kwh / 2 for period, kwh in given["energy_kwh"].items()}
    energy = {NO: {month + timedelta(days=3): half, month + timedelta(days=20): half}}
    demand, pf = {NO: given["demand_kw"]}, {NO: given["power_factor"]}
    return charged(settings, customers(*rows), energy, month=month, pf=pf, demand=demand)


def lines_of(table: str) -> list[tuple[str, Decimal, Decimal, Decimal]]:
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [(c[0], Decimal(c[1]), Decimal(c[2]), Decimal(c[3])) for c in cells]


def test_each_tariff_and_basis_has_a_month() -> None:
    assert len(WORKED) == TEXT.count("```toml") == 10
    given = [tomllib.loads(toml) for _, toml, _ in WORKED]
    assert {g["tariff"] for g in given} == {"large_industry", "general_industry", "agriculture"}
    items = {item for _, _, table in WORKED for item, *_ in lines_of(table)}
    assert items >= {"basic_capacity", "basic_demand", "basic_demand_excess"}


@pytest.mark.parametrize(("toml", "table"), [pytest.param(t, lines, id=name) for name, t, lines in WORKED])
def test_a_month_worked_by_hand(toml: str, table: str, metering_settings: MeteringSettings) -> None:
    found = month_of(tomllib.loads(toml), metering_settings).select("item", "quantity", "price", "amount")
    assert {row[0]: row[1:] for row in found.iter_rows()} == {row[0]: row[1:] for row in lines_of(table)}


def test_the_bill_of_the_page_is_explained_as_it_says(metering_settings: MeteringSettings) -> None:
    text = re.findall(r"```json\n(.*?)```", TEXT, re.S)[0]
    decoded = decode_records(SERVICE, Lines(json.dumps(json.loads(text)).encode()))
    assert decoded.rejects.is_empty()
    ours = month_of(tomllib.loads(WORKED[0][1]), metering_settings)
    rows = bill_check(
        decoded.accepted, ours, date(2026, 3, 1), metering_settings, {NO: "of 2976 quarter-hours 8 estimated"}
    )
    differing = {r["item"]: r for r in rows.to_dicts() if r["cause"] != "equal"}
    assert {item: (r["difference"], r["cause"]) for item, r in differing.items()} == {
        "purchase_peak": (Decimal("79.74"), "quantity"),
        "power_factor_adjustment": (Decimal("-0.36"), "follows"),
        "total": (Decimal("79.38"), "follows"),
    }
    assert "8 estimated" in differing["purchase_peak"]["explanation_zh"]
    assert rows.height == 10
