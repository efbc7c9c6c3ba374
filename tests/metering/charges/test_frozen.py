"""Frozen registers: a month between two moments, by rate or whole, and what they cannot say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.charges.frozen import frozen_demand, frozen_energy, frozen_findings
from metering.settings import MeteringSettings
from metering.tables.records import FROZEN

Builder = Callable[..., pl.DataFrame]
MONTH = date(2026, 3, 1)
START, END = datetime(2026, 2, 28, 16, tzinfo=UTC), datetime(2026, 3, 31, 16, tzinfo=UTC)
A = "310105200001"
LATE = timedelta(seconds=7)


def frozen(*rows: tuple[str, datetime, dict[str, float] | None, float | None]) -> pl.DataFrame:
    records = [
        {
            "meter_id": meter, "at": at, "kind": "settlement", "demand_kw": demand,
            "registers": None if figures is None else [{"name": n, "value": v} for n, v in figures.items()],
        }
        for meter, at, figures, demand in rows
    ]  # fmt: skip
    schema = {name: FROZEN.table.schema[name] for name in ("meter_id", "at", "kind", "demand_kw", "registers")}
    return pl.DataFrame(records, schema=schema, orient="row")


@pytest.fixture
def versions(make_customers: Builder, make_meter_versions: Builder) -> Callable[..., pl.DataFrame]:
    def make(meters: dict[str, dict[str, Any]]) -> pl.DataFrame:
        return make_meter_versions(make_customers({A: {}}), {m: {"customer_no": A, **v} for m, v in meters.items()})

    return make


def test_rates_by_their_names_are_the_months_energy(versions: Builder, metering_settings: MeteringSettings) -> None:
    rows = frozen(
        ("m1", START + LATE, {"import_kwh.peak": 100.0, "import_kwh.3": 50.0, "export_kwh": 7.0}, None),
        (
            "m1",
            END,
            {"import_kwh.peak": 160.0, "import_kwh.3": 90.0, "export_kwh": 9.0, "import_kvarh.peak": 5.0},
            None,
        ),
    )
    found = frozen_energy(rows, versions({"m1": {}}), MONTH, metering_settings)
    assert found.rows() == [(A, "flat", 40.0), (A, "peak", 60.0)]  # "3" is what the settings call flat


def test_the_sum_of_main_meters_and_only_of_all_of_them(versions: Builder, metering_settings: MeteringSettings) -> None:
    both = versions({"m1": {}, "m2": {}, "check": {"role": "check"}})
    one = [("m1", START, {"*": 10.0}, None), ("m1", END, {"*": 30.0}, None)]
    assert frozen_energy(frozen(*one), both, MONTH, metering_settings).is_empty()
    two = [("m2", START, {"import_kwh": 1.0}, None), ("m2", END, {"total": 6.0}, None)]
    rows = frozen(*one, *two, ("check", START, {"*": 0.0}, None), ("check", END, {"*": 99.0}, None))
    assert frozen_energy(rows, both, MONTH, metering_settings).rows() == [(A, None, 25.0)]


def test_a_register_that_rolled_over_went_once_round(versions: Builder, metering_settings: MeteringSettings) -> None:
    rows = frozen(("m1", START, {"*": 999_990.0}, None), ("m1", END, {"*": 15.0}, None))
    assert frozen_energy(rows, versions({"m1": {}}), MONTH, metering_settings).rows() == [(A, None, 25.0)]


def test_what_no_meter_can_have_counted_says_nothing(versions: Builder, metering_settings: MeteringSettings) -> None:
    small = versions({"m1": {"pt_ratio": 1.0, "ct_ratio": 1.0}})  # 4 kW
    rows = frozen(("m1", START, {"*": 0.0}, None), ("m1", END, {"*": 900_000.0}, None))
    assert frozen_energy(rows, small, MONTH, metering_settings).is_empty()


@pytest.mark.parametrize(
    "meters",
    [
        {"m1": {"valid_from": date(2026, 3, 10)}},
        {"m1": {"valid_to": date(2026, 3, 30)}},
        {"m1": {"valid_to": date(2026, 3, 9)}, "m2": {"valid_from": date(2026, 3, 10)}},
    ],
)
def test_of_an_exchanged_meter_the_registers_do_not_tell_the_month(
    versions: Builder, metering_settings: MeteringSettings, meters: dict[str, dict[str, Any]]
) -> None:
    rows = frozen(("m1", START, {"*": 0.0}, None), ("m1", END, {"*": 10.0}, None))
    assert frozen_energy(rows, versions(meters), MONTH, metering_settings).is_empty()


def test_moments_that_are_not_near_do_not_count(versions: Builder, metering_settings: MeteringSettings) -> None:
    rows = frozen(("m1", START + timedelta(minutes=16), {"*": 0.0}, None), ("m1", END, {"*": 10.0}, None))
    assert frozen_energy(rows, versions({"m1": {}}), MONTH, metering_settings).is_empty()


def test_where_rates_do_not_add_up_the_total_counts(versions: Builder, metering_settings: MeteringSettings) -> None:
    rows = frozen(("m1", START, {"*": 0.0, "peak": 0.0}, None), ("m1", END, {"*": 1000.0, "peak": 600.0}, None))
    assert frozen_energy(rows, versions({"m1": {}}), MONTH, metering_settings).rows() == [(A, None, 1000.0)]
    whole = frozen(("m1", START, {"*": 0.0, "peak": 0.0}, None), ("m1", END, {"*": 1000.0, "peak": 999.0}, None))
    assert frozen_energy(whole, versions({"m1": {}}), MONTH, metering_settings).rows() == [(A, "peak", 999.0)]


def test_demand_is_of_each_sources_one_meter(versions: Builder, metering_settings: MeteringSettings) -> None:
    two = versions({"m1": {}, "m2": {"source_no": 2}})
    rows = frozen(("m1", END + LATE, None, 300.0), ("m2", END, None, 120.5), ("m1", START, None, 999.0))
    assert frozen_demand(rows, two, MONTH, metering_settings).rows() == [(A, 420.5)]
    together = replace(metering_settings, settlement=(replace(metering_settings.settlement[0], sources="together"),))
    assert frozen_demand(rows, two, MONTH, together).is_empty()  # what two meters had at the same time is not known
    assert frozen_demand(rows, versions({"m1": {}, "m2": {}}), MONTH, metering_settings).is_empty()
    assert frozen_demand(rows.head(1), two, MONTH, metering_settings).is_empty()
    assert frozen_demand(rows, versions({"m1": {}}), MONTH, metering_settings).rows() == [(A, 300.0)]


def test_our_own_sums_are_compared_with_them(metering_settings: MeteringSettings) -> None:
    energy = pl.DataFrame({"customer_no": [A, A], "period": ["peak", "flat"], "frozen_kwh": [600.0, 400.0]})
    demand = pl.DataFrame({"customer_no": [A], "frozen_kw": [100.0]})

    def rules(kwh: float, kw: float | None) -> list[str]:
        own = pl.DataFrame(
            {"customer_no": [A], "active_kwh": [kwh], "demand_kw": [kw]}, schema_overrides={"demand_kw": pl.Float64}
        )
        return frozen_findings(energy, demand, own, MONTH, metering_settings)["rule"].to_list()

    assert rules(1004.9, 100.4) == []
    assert rules(1005.2, 99.0) == ["frozen_registers", "frozen_demand"]
    assert rules(900.0, None) == ["frozen_registers"]
