"""Power factor and its tariff adjustment: reference vectors, properties, and SQL over windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.supply.power_factor import (
    adjustment_pct,
    capacitor_kvar,
    half_up,
    kvar_needed,
    power_factor,
    power_factor_monthly,
    reactive_kvarh,
)
from metering.tables.warehouse import METER_DAILY, POWER_FACTOR_MONTHLY

Builder = Callable[..., pl.DataFrame]
FINITE = st.floats(-1e12, 1e12)


def of(expr: pl.Expr, **values: float | None) -> Any:
    return (
        pl.DataFrame({k: [v] for k, v in values.items()}, schema=dict.fromkeys(values, pl.Float64)).select(expr).item()
    )


@pytest.mark.parametrize(
    ("standard", "pf", "expected"),
    [
        (0.90, 0.95, -0.75), (0.90, 1.00, -0.75), (0.90, 0.94, -0.60), (0.90, 0.91, -0.15), (0.90, 0.90, 0.0),
        (0.90, 0.89, 0.5), (0.90, 0.70, 10.0), (0.90, 0.65, 15.0), (0.90, 0.64, 17.0), (0.90, 0.50, 45.0),
        (0.85, 0.85, 0.0), (0.85, 0.86, -0.10), (0.85, 0.90, -0.50), (0.85, 0.91, -0.65), (0.85, 0.94, -1.10),
        (0.85, 1.00, -1.10), (0.85, 0.84, 0.5), (0.85, 0.65, 10.0), (0.85, 0.60, 15.0), (0.85, 0.59, 17.0),
        (0.80, 0.90, -1.00), (0.80, 0.92, -1.30), (0.80, 0.99, -1.30), (0.80, 0.79, 0.5), (0.80, 0.54, 17.0),
        (0.90, 0.00, 145.0),
    ],
)  # fmt: skip
def test_adjustment_vectors_of_1983(
    metering_settings: MeteringSettings, standard: float, pf: float, expected: float
) -> None:
    adjustment = metering_settings.power_factor[0]
    assert of(adjustment_pct(pl.col("pf"), pl.col("std"), adjustment), pf=pf, std=standard) == expected


def test_no_adjustment_without_a_power_factor_and_no_discount_without_a_cap(
    metering_settings: MeteringSettings,
) -> None:
    expr = adjustment_pct(pl.col("pf"), pl.col("std"), metering_settings.power_factor[0])
    assert of(expr, pf=None, std=0.9) is None
    assert of(expr, pf=0.99, std=0.7) == 0.0


@given(points=st.integers(0, 99), standard=st.sampled_from([0.80, 0.85, 0.90]))
def test_a_better_power_factor_never_costs_more(
    metering_settings: MeteringSettings, points: int, standard: float
) -> None:
    expr = adjustment_pct(pl.col("pf"), pl.col("std"), metering_settings.power_factor[0])
    worse, better = (of(expr, pf=p / 100, std=standard) for p in (points, points + 1))
    assert better <= worse


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [(3.0, 4.0, 0.6), (-3.0, 4.0, 0.6), (3.0, -4.0, 0.6), (5.0, 0.0, 1.0), (0.0, 5.0, 0.0), (0.0, 0.0, None),
     (None, 1.0, None), (1.0, None, None), (1e-200, 1e-200, math.sqrt(0.5))],
)  # fmt: skip
def test_power_factor_vectors(p: float | None, q: float | None, expected: float | None) -> None:
    pf = of(power_factor(pl.col("p"), pl.col("q")), p=p, q=q)
    assert pf == (expected if expected is None else pytest.approx(expected, rel=1e-12))


@given(p=FINITE, q=FINITE)
def test_power_factor_lies_between_0_and_1_and_ignores_signs(p: float, q: float) -> None:
    pf = of(power_factor(pl.col("p"), pl.col("q")), p=p, q=q)
    assert (pf is None) == (p == 0 and q == 0)
    if pf is not None:
        assert 0 <= pf <= 1
        assert pf == of(power_factor(pl.col("p"), pl.col("q")), p=-p, q=-q)
        if max(abs(p), abs(q)) > 1e-300:  # below, the yardstick itself loses its digits
            assert pf == pytest.approx(abs(p) / math.hypot(p, q), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("x", "rounded"), [(0.645, 0.65), (0.285, 0.29), (0.6449, 0.64), (1.005, 1.01), (0.894999, 0.89), (0.0, 0.0)]
)
def test_halves_are_rounded_up(x: float, rounded: float) -> None:
    assert of(half_up(pl.col("x"), 2), x=x) == rounded


def test_capacitors_mend_the_power_factor() -> None:
    expr = capacitor_kvar(pl.col("p"), pl.col("now"), pl.col("target"))
    assert of(expr, p=1000.0, now=0.70, target=0.95) == pytest.approx(691.520, abs=1e-3)
    assert of(expr, p=1000.0, now=0.95, target=0.90) == 0.0
    assert of(expr, p=1000.0, now=0.0, target=0.90) is None


@given(p=st.floats(1, 1e6), now=st.floats(0.1, 0.9), target=st.floats(0.9, 1.0))
def test_capacitors_leave_the_target(p: float, now: float, target: float) -> None:
    needed = of(capacitor_kvar(pl.col("p"), pl.col("now"), pl.col("target")), p=p, now=now, target=target)
    q_left = p * math.tan(math.acos(now)) - needed
    assert of(power_factor(pl.col("p"), pl.col("q")), p=p, q=q_left) == pytest.approx(target, abs=1e-6)


def test_month_takes_registers_first_and_power_where_they_are_absent(
    metering_settings: MeteringSettings, make_customers: Builder, make_windows: Builder, days_of: Builder
) -> None:
    customers = make_customers({"R": {}, "Q": {}, "N": {}, "Z": {}})
    day = date(2026, 7, 1)
    flat = [400.0] * 96  # 9600 kWh a day
    windows = pl.concat(
        [
            make_windows("m1", "R", day, flat, import_kvarh=40.0, export_kvarh=35.0, q_import_kvarh=1.0),
            make_windows("m2", "Q", day, flat, q_import_kvarh=50.0, q_export_kvarh=0.0),
            make_windows("m3", "N", day, flat),
            make_windows("m4", "gone", day, flat),
        ]
    )
    table = power_factor_monthly(days_of(windows), customers, day, metering_settings)
    rows = {r["customer_no"]: r for r in table.to_dicts()}
    assert table.schema == POWER_FACTOR_MONTHLY.schema
    assert list(rows) == ["N", "Q", "R"]  # no row without windows, none outside the registry
    assert rows["R"]["active_kwh"] == pytest.approx(9600)
    assert (rows["R"]["import_kvarh"], rows["R"]["export_kvarh"]) == (3840, 3360)
    assert (rows["R"]["power_factor"], rows["R"]["adjustment_pct"]) == (0.8, 5.0)  # leading counts as lagging does
    assert (rows["Q"]["power_factor"], rows["Q"]["adjustment_pct"]) == (0.89, 0.5)
    assert (rows["N"]["power_factor"], rows["N"]["adjustment_pct"]) == (None, None)
    assert {r["month"] for r in rows.values()} == {date(2026, 7, 1)}


def test_month_agrees_with_sql(
    metering_settings: MeteringSettings, make_customers: Builder, make_windows: Builder, sql: Builder, days_of: Builder
) -> None:
    customers = make_customers({"A": {}, "B": {"pf_standard": 0.85}})
    days = [date(2026, 6, 30), date(2026, 7, 1), date(2026, 7, 31), date(2026, 8, 1)]
    windows = pl.concat(
        make_windows(f"m{c}{m}", c, day, [100.0 + (k * 37 + i * 11) % 89 for k in range(96)])
        for i, day in enumerate(days)
        for c in "AB"
        for m in (1, 2)
    ).with_columns(
        (pl.col("p_mean_kw") * 0.17).alias("import_kvarh"), (pl.col("p_mean_kw") % 7 / 4).alias("export_kvarh")
    )
    ours = power_factor_monthly(days_of(windows), customers, date(2026, 7, 15), metering_settings)
    theirs = sql(
        """
        select customer_no, round(sum(energy_kwh) / sqrt(sum(energy_kwh) ** 2
               + (sum(import_kvarh) + sum(export_kvarh)) ** 2), 2) as pf, sum(energy_kwh) as kwh
        from windows
        where strftime((window_end - interval 1 second) at time zone 'Asia/Shanghai', '%Y-%m') = '2026-07'
        group by all order by all
        """,
        windows=windows,
    )
    assert [(c, pf) for c, pf, _ in theirs] == list(zip(ours["customer_no"], ours["power_factor"], strict=True))
    assert [kwh for *_, kwh in theirs] == pytest.approx(ours["active_kwh"].to_list(), rel=1e-9)


def test_no_windows_no_rows(metering_settings: MeteringSettings, make_customers: Builder) -> None:
    table = power_factor_monthly(METER_DAILY.empty(), make_customers({"A": {}}), date(2026, 7, 1), metering_settings)
    assert table.is_empty()
    assert table.schema == POWER_FACTOR_MONTHLY.schema


@pytest.mark.parametrize(("p", "q"), [(math.inf, 1.0), (1.0, math.inf), (math.inf, math.inf), (math.nan, 1.0)])
def test_a_power_factor_of_what_is_no_number_is_null(p: float, q: float) -> None:
    assert of(power_factor(pl.col("p"), pl.col("q")), p=p, q=q) is None


def test_one_customers_absurd_month_is_null_and_the_others_are_counted(
    metering_settings: MeteringSettings, make_customers: Builder, make_windows: Builder, days_of: Builder
) -> None:
    windows = pl.concat(
        [
            make_windows("a1", "A", date(2026, 7, 1), [1.7e308] * 96, import_kvarh=1.7e308, export_kvarh=0.0),
            make_windows("b1", "B", date(2026, 7, 1), [400.0] * 96, import_kvarh=0.0, export_kvarh=0.0),
        ]
    )
    rows = power_factor_monthly(
        days_of(windows), make_customers({"A": {}, "B": {}}), date(2026, 7, 1), metering_settings
    )
    found = {row["customer_no"]: row for row in rows.to_dicts()}
    assert (found["A"]["active_kwh"], found["A"]["power_factor"], found["A"]["adjustment_pct"]) == (None, None, None)
    assert (found["B"]["power_factor"], found["B"]["adjustment_pct"]) == (1.0, -0.75)


@pytest.mark.parametrize(
    ("imported", "exported", "expected"),
    [(30.0, None, 30.0), (None, 45.0, 45.0), (-30.0, -45.0, 75.0), (0.0, None, 0.0), (None, None, None)],
)
def test_reactive_energy_counts_what_is_metered(
    imported: float | None, exported: float | None, expected: float | None
) -> None:
    """A meter with one kvarh register is judged by it."""
    assert of(reactive_kvarh(), import_kvarh=imported, export_kvarh=exported) == expected


def test_what_lifts_a_month_to_the_standard_is_capacitors_of_its_mean_power() -> None:
    rows = pl.DataFrame({"kwh": [720.0, 720.0, 0.0, None], "kvarh": [720.0, 200.0, 36.0, 10.0], "hours": [720.0] * 4})
    found = rows.select(kvar_needed(pl.col("kwh"), pl.col("kvarh"), pl.lit(0.9), pl.col("hours"))).to_series().to_list()
    by_power = pl.select(capacitor_kvar(pl.lit(1.0), pl.lit(0.5**0.5), pl.lit(0.9))).item()
    assert found == [pytest.approx(by_power), 0.0, pytest.approx(0.05), None]
