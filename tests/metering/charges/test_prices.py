"""Which price rows are in force, and which rows of the settings are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.charges.checks import charge_problems
from metering.charges.prices import exact, half_up, paid, shared_out
from metering.charges.settlement import closes_at, demand_month, demand_period, next_month
from metering.settings import MeteringSettings, Price, Settlement, Tariff

D = Decimal
TARIFF = Tariff(name="t", effective_from=date(2000, 1, 1), default_period="flat", factors={"flat": D("1.5")})


def price(**row: Any) -> Price:
    given = {"component": "purchase", "name_zh": "购电", "per": "kWh", "clause": "notice", "price": D(1)}
    return Price(**{"effective_from": date(2000, 1, 1), **given, **row})


def in_force(rows: list[Price], mode: str = "proxy", kv: float = 10.0, day: date = date(2026, 3, 1)) -> list[D]:
    return [p.price("flat") for p in paid(rows, [TARIFF], "t", mode, kv, day)]


def test_the_newest_row_in_force_counts_and_the_oldest_before_any() -> None:
    rows = [price(price=D(2), effective_from=date(2026, 3, 1)), price(price=D(1), effective_from=date(2026, 1, 1))]
    assert in_force(rows, day=date(2026, 2, 28)) == [1]
    assert in_force(rows, day=date(2026, 3, 1)) == [2]
    assert in_force(rows, day=date(2020, 1, 1)) == [1]


def test_a_row_that_names_the_supply_mode_goes_before_one_that_does_not() -> None:
    rows = [price(price=D(1)), price(price=D(2), supply_mode="retail", effective_from=date(2026, 3, 1))]
    assert in_force(rows, "retail") == [2]
    assert in_force(rows, "retail", day=date(2026, 2, 1)) == [1]  # the mode's own is not in force yet
    assert in_force(rows, "proxy") == [1]


def test_rows_are_for_their_tariffs_and_voltage_levels() -> None:
    rows = [price(tariffs=("other",)), price(component="a", max_kv=34.9), price(component="b", min_kv=35)]
    assert [p.row.component for p in paid(rows, [TARIFF], "t", "proxy", 10.0, date(2026, 1, 1))] == ["a"]
    assert [p.row.component for p in paid(rows, [TARIFF], "t", "proxy", 110.0, date(2026, 1, 1))] == ["b"]


def test_what_floats_goes_by_the_tariffs_version_in_force() -> None:
    new = replace(TARIFF, effective_from=date(2026, 3, 1), factors={"flat": D(2)})
    for day, expected in ((date(2026, 2, 28), D("1.5")), (date(2026, 3, 1), D(2))):
        (found,) = paid([price(floats=True)], [TARIFF, new], "t", "proxy", 10.0, day)
        assert (found.price("flat"), found.price("peak")) == (expected, 1)


@given(
    parts=st.dictionaries(st.integers(0, 9), st.floats(0, 1e7), min_size=1),
    decimals=st.integers(0, 4),
)
def test_rounded_parts_add_up_to_the_rounded_whole(parts: dict[int, float], decimals: int) -> None:
    total = sum(parts.values())
    shared = shared_out(parts, total, decimals)
    assert sum(shared.values()) == exact(total, decimals)
    step = D(1).scaleb(-decimals)
    assert all(abs(shared[k] - exact(v, decimals)) <= len(parts) * step for k, v in parts.items())


@pytest.mark.parametrize(("value", "rounded"), [("0.005", "0.01"), ("-0.005", "-0.01"), ("1.0049", "1.00")])
def test_halves_go_away_from_zero(value: str, rounded: str) -> None:
    assert half_up(D(value), 2) == D(rounded)


def test_what_a_sum_of_floats_is_off_by_does_not_count() -> None:
    assert exact(sum([0.1] * 45) / 100, 3) == D("0.045")
    assert exact(1234.4949999999, 2) == exact(1234.495, 2) == D("1234.50")


def test_demand_is_of_each_day_once(metering_settings: MeteringSettings) -> None:
    """Whatever the reset days are, and where they change, periods follow one another."""
    rows = [
        Settlement(effective_from=date(2000, 1, 1), clause="", reset_day=1),
        Settlement(effective_from=date(2026, 3, 1), clause="", reset_day=25),
        Settlement(effective_from=date(2026, 9, 1), clause="", reset_day=1),
    ]
    months = [date(2026, m, 1) for m in range(1, 13)]
    periods = [demand_period(month, rows) for month in months]
    assert periods[0] == (date(2026, 1, 1), date(2026, 1, 31))
    assert periods[2] == (date(2026, 3, 1), date(2026, 3, 24))
    assert periods[5] == (date(2026, 5, 25), date(2026, 6, 24))
    assert periods[8] == (date(2026, 8, 25), date(2026, 9, 30))
    for (_, last), (first, _) in pairwise(periods):
        assert (first - last).days == 1
    for month, (first, last) in zip(months, periods, strict=True):
        assert demand_month(first, rows) == demand_month(last, rows) == month
    assert next_month(date(2026, 12, 31)) == date(2027, 1, 1)
    assert closes_at(date(2026, 1, 1), metering_settings).isoformat() == "2026-02-05T16:00:00+00:00"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"component": "Line Loss"}, "must be a name"),
        ({"component": "total"}, "none of"),
        ({"price": None}, "there are none"),
        ({"by_hour": (D(1),) * 24}, "there are price, by_hour"),
        ({"price": None, "by_quarter_hour": (D(1),) * 24}, "needs 96 prices; there are 24"),
        ({"per": "kVA", "floats": True}, "only prices of kWh"),
        ({"price": None, "by_period": {"flat": D(1)}, "floats": True}, "does not float"),
        ({"price": None, "by_period": {"peak": D(1)}}, "no price of flat"),
        ({"price": D("NaN")}, "must be a number"),
        ({"min_kv": 35.0, "max_kv": 10.0}, "in this order"),
    ],
)
def test_rows_that_cannot_be_used_are_said(row: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in charge_problems([price(**row)], [TARIFF]))
    assert not [*charge_problems([price()], [TARIFF])]


def test_other_rows_that_cannot_be_used_are_said(metering_settings: MeteringSettings) -> None:
    basic, settled = metering_settings.basic_charge[0], metering_settings.settlement[0]
    wrong = [
        (replace(TARIFF, factors={"peak": D(1)}), "none of its periods"),
        (replace(TARIFF, factors={"flat": D(-1)}), "from 0"),
        (replace(basic, contract_floor=D(40)), "contract_floor"),
        (replace(basic, allowed_over=D("0.9")), "allowed_over"),
        (replace(basic, full_use_factor=D(9)), "full_use_factor"),
        (replace(basic, days_of_month=32), "days_of_month"),
        (replace(settled, reset_day=29), "reset_day"),
        (replace(settled, close_day=0), "close_day"),
        (replace(settled, amount_decimals=3), "amount_decimals"),
        (replace(settled, frozen_tolerance=2.0), "frozen_tolerance"),
    ]
    for row, said in wrong:
        assert any(said in problem for problem in charge_problems([row], [TARIFF])), said
    assert not [*charge_problems([TARIFF], [])]
    assert not [*charge_problems([basic], [])]
    assert not [*charge_problems([settled], [])]


def test_two_rows_for_the_same_customers_and_day_are_said() -> None:
    twice = [price(), price(price=D(2))]
    assert any("two rows" in problem for problem in charge_problems(twice, [TARIFF]))
    apart = [price(max_kv=10.0), price(min_kv=35.0), price(supply_mode="retail"), price(component="other")]
    assert not [*charge_problems(apart, [TARIFF])]
