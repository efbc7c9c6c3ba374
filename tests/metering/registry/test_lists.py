"""Customer lists: 12 months of use, rule profiles, decisions, and their history against plain Python day by day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import UserError
from metering.registry.lists import (
    CANDIDATES,
    Decision,
    Member,
    candidates,
    customer_lists,
    memberships,
    problems,
    proposed,
    read,
    written,
)
from metering.settings import ListCondition, ListProfile, ListSettings, MeteringSettings
from metering.tables.lists import CUSTOMER_LISTS

Builder = Callable[..., pl.DataFrame]
AS_OF = date(2026, 3, 31)


@pytest.fixture(scope="module")
def lists(metering_settings: MeteringSettings) -> ListSettings:
    return metering_settings.lists


def energy(rows: dict[str, Callable[[date], float | None]], days: int = 400) -> pl.DataFrame:
    made = [(no, day, of(day)) for no, of in rows.items() for n in range(days) for day in [AS_OF - timedelta(days=n)]]
    return pl.DataFrame(
        made, schema={"customer_no": pl.String, "date": pl.Date, "energy_kwh": pl.Float64}, orient="row"
    )


def of(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["customer_no"]: row for row in table.to_dicts()}


def test_twelve_months_and_months_of_zero_use(make_customers: Builder, lists: ListSettings) -> None:
    customers = make_customers({no: {} for no in ("steady", "stopped", "gap", "silent", "new")})
    use = energy(
        {
            "steady": lambda _: 10.0,
            "stopped": lambda day: 0.0 if day > date(2025, 9, 30) else 5.0,  # October to March
            "gap": lambda day: 0.0 if day.day < 27 else None,  # under 90 % of a month is known
            "silent": lambda _: None,
            "new": lambda day: 1.0 if day == AS_OF else None,
        }
    )
    rows = of(candidates(use, customers, AS_OF, lists))
    assert (rows["steady"]["energy_12m_kwh"], rows["steady"]["known_days_12m"]) == (3650.0, 365)
    assert (rows["stopped"]["zero_months"], rows["stopped"]["energy_12m_kwh"]) == (6, 183 * 5.0)
    assert (rows["gap"]["zero_months"], rows["gap"]["energy_rank"]) == (0, None)
    assert (rows["silent"]["energy_12m_kwh"], rows["silent"]["zero_months"]) == (None, 0)
    assert [rows[no]["energy_rank"] for no in ("steady", "stopped", "new")] == [1, 2, 3]


def test_an_empty_log_proposes_by_the_registry_alone(make_customers: Builder, lists: ListSettings) -> None:
    customers = make_customers(
        {"A": {"contract_capacity_kva": 999.0}, "B": {"contract_capacity_kva": 999.0, "dual_supply": True}}
    )
    known = candidates(energy({}), customers, AS_OF, lists)
    assert known.schema == CANDIDATES.schema
    assert proposed(known, lists).select("list", "customer_no", "reason").rows() == [
        ("dual_supply", "B", "dual supply"), ("large", "B", "dual supply"),
    ]  # fmt: skip


def test_profiles_name_what_was_met(make_customers: Builder, lists: ListSettings) -> None:
    customers = make_customers(
        {
            "BIG": {"contract_capacity_kva": 1250.0, "dual_supply": True, "industry": None, "suspended_kva": None},
            "BUSY": {"contract_capacity_kva": 400.0},
            "HOSPITAL": {"contract_capacity_kva": 400.0, "segment": "important", "industry": "hospital"},
            "GONE": {"contract_capacity_kva": 400.0, "suspended_kva": 0.0},
            "PAUSED": {"contract_capacity_kva": 400.0, "suspended_kva": 400.0},
        }
    )
    use = energy({"BUSY": lambda _: 14_000.0, "GONE": lambda _: 0.0, "PAUSED": lambda _: 0.0})
    known = candidates(use, customers, AS_OF, lists)
    rows = {(row[0], row[1]): row[2:] for row in proposed(known, lists).rows()}
    assert rows["large", "BIG"] == ("zhangqiu", "contract capacity 1250 kVA, at least 1000; dual supply")
    assert rows["large", "BUSY"] == ("zhangqiu", "5110000 kWh in 12 months, at least 5,000,000")
    assert {no for name, no in rows if name == "top20"} == {"BUSY", "HOSPITAL"}
    assert rows["important", "HOSPITAL"] == ("important", "segment important, industry hospital")
    assert rows["closure", "GONE"] == ("zero_use", "12 months without use, no suspension")
    assert ("closure", "PAUSED") not in rows
    fujian = replace(lists, in_force=("fujian",))
    assert proposed(known, fujian)["customer_no"].to_list() == ["BUSY", "HOSPITAL"]


def test_the_twenty_largest(make_customers: Builder, lists: ListSettings) -> None:
    numbers = [f"{100001 + n}" for n in range(30)]
    use = energy({no: lambda _, no=no: float(no) - 100_000.0 for no in numbers}, days=3)
    known = candidates(use, make_customers({no: {} for no in numbers}), AS_OF, lists)
    top = proposed(known, replace(lists, in_force=("top20",)))
    assert top["customer_no"].to_list() == numbers[10:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"in_force": ("zhangqiu", "fujian")}, "several profiles are of the list 'large'"),
        ({"in_force": ("nobody",)}, "no profile 'nobody'"),
        ({"known_share": 0.0}, "known_share"),
        ({"profile": {"p": ListProfile(list="l", meaning="", conditions=())}, "in_force": ()}, "at least one ground"),
    ],
)
def test_settings_that_cannot_be_used_are_said(lists: ListSettings, change: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems(replace(lists, **change)))


@pytest.mark.parametrize(
    ("when", "reason", "said"),
    [
        ("capacity > 1", "x", "cannot be used"), ("energy_rank", "x", "neither true nor false"),
        ("SELEC (", "x", "cannot"),
        ("dual_supply", "{capacity}", "there is no capacity"),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_used_is_said(lists: ListSettings, when: str, reason: str, said: str) -> None:
    profile = ListProfile(list="l", meaning="", conditions=(ListCondition(when=when, reason=reason),))
    assert any(said in problem for problem in problems(replace(lists, in_force=(), profile={"p": profile})))


def decision(first: date, members: str, by: str = "office", name: str = "large") -> Decision:
    theirs = tuple(Member(customer_no=no, rule_profile="zhangqiu", reason="why") for no in members)
    return Decision(list=name, valid_from=first, by=by, at=datetime(2026, 1, 1, tzinfo=UTC), why="", members=theirs)


def test_a_decision_comes_back_as_it_was_and_a_changed_one_is_refused() -> None:
    kept = written(decision(AS_OF, "AB"))
    assert read(kept, "000001-large.json") == decision(AS_OF, "AB")
    with pytest.raises(UserError, match=r"000001-large\.json: it was changed"):
        read(kept.replace(b'"A"', b'"C"'), "000001-large.json")
    with pytest.raises(UserError, match="no decision"):
        read(b"{}", "x.json")


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sets(st.sampled_from("ABC")), st.sampled_from(["office", "bureau"])), max_size=6
    )
)
def test_history_is_that_of_plain_python(made: list[tuple[int, set[str], str]]) -> None:
    """On each day the newest decision that has begun says who is on the list."""
    decisions = [decision(AS_OF + timedelta(days=n), "".join(sorted(m)), by) for n, m, by in made]
    table = memberships([*decisions, decision(AS_OF, "Z", name="other")]).filter(pl.col("list") == "large")
    for n in range(12):
        day = AS_OF + timedelta(days=n)
        begun = [d for d in decisions if d.valid_from <= day]
        wanted = {member.customer_no: begun[-1].by for member in begun[-1].members} if begun else {}
        holds = (pl.col("valid_from") <= day) & (pl.col("valid_to").is_null() | (pl.col("valid_to") >= day))
        there = table.filter(holds)
        assert dict(there.select("customer_no", "approver").iter_rows()) == wanted
        assert there["customer_no"].is_unique().all()


def test_what_is_proposed_is_told_beside_what_holds() -> None:
    approved = memberships([decision(date(2026, 1, 1), "ABC"), decision(date(2026, 3, 1), "AB")])
    proposal = pl.DataFrame(
        {"list": "large", "customer_no": ["A", "C", "D"], "rule_profile": "zhangqiu", "reason": "now"}
    )
    table = customer_lists(proposal, approved, AS_OF)
    assert table.schema == CUSTOMER_LISTS.schema
    rows = table.select("customer_no", "valid_from", "valid_to", "state", "change").rows()
    assert rows == [
        ("A", date(2026, 1, 1), None, "approved", None),
        ("B", date(2026, 1, 1), None, "approved", "remove"),
        ("C", date(2026, 1, 1), date(2026, 2, 28), "approved", None),
        ("C", AS_OF, None, "proposed", "add"),
        ("D", AS_OF, None, "proposed", "add"),
    ]
