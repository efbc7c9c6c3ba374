"""What a plan's message may say, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.control.plans import PlanError, parse_plan
from metering.tables.control import PLANS

GIVEN = {
    "plan_id": "YX-2026-07-0001", "revision": 1, "level": "orange", "from": "2026-07-15T10:00:00+08:00",
    "to": 1784091600000, "issued_at": "2026-07-14T08:00:00Z", "customers": ["370100000001"], "cap_kw": 800,
}  # fmt: skip


def rows(**changed: Any) -> list[dict[str, Any]]:
    frame = parse_plan(json.dumps({k: v for k, v in {**GIVEN, **changed}.items() if v is not ...}), "Asia/Shanghai")
    assert frame.schema == PLANS.schema
    return frame.to_dicts()


def test_a_plan_is_a_row_a_target() -> None:
    (row,) = rows()
    assert (row["kind"], row["state"], row["scope"], row["name"]) == (
        "orderly_usage", "active", "customer", "370100000001",
    )  # fmt: skip
    assert row["from_at"] == datetime(2026, 7, 15, 2, tzinfo=UTC)
    assert row["to_at"] == datetime(2026, 7, 15, 5, tzinfo=UTC)
    assert row["date"] == date(2026, 7, 14)


@pytest.mark.parametrize(
    "changed",
    [
        {"customers": ["A", "B"], "cap_kw": {"A": 10, "B": 20}},
        {"customers": [{"customer_no": "A", "cap_kw": 10}, {"customer_no": "B", "cap_kw": 20}], "cap_kw": ...},
        {"customers": {"A": {"cap_kw": 10}, "B": {"cap_kw": 20}}, "cap_kw": ...},
        {"customers": ..., "cap_kw": {"A": 10, "B": 20}},
    ],
)
def test_figures_by_customer_may_stand_in_several_forms(changed: dict[str, Any]) -> None:
    assert [(row["name"], row["cap_kw"]) for row in rows(**changed)] == [("A", 10.0), ("B", 20.0)]


def test_a_withdrawal_needs_neither_customers_nor_times() -> None:
    (row,) = rows(**{"state": "withdrawn", "customers": ..., "cap_kw": ..., "from": ..., "to": ...})
    assert (row["state"], row["scope"], row["from_at"]) == ("withdrawn", None, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan_id": 7}, "plan_id is no text"),
        ({"plan_id": ""}, "plan_id is no text"),
        ({"revision": 1.5}, "revision is no whole number"),
        ({"revision": True}, "revision is no whole number"),
        ({"level": "purple"}, "level is none of red"),
        ({"kind": "blackout"}, "kind is none of demand_response"),
        ({"from": "2026-07-15T10:00:00"}, "from has no offset"),
        ({"to": "2026-07-15T01:00:00Z"}, "to is not after from"),
        ({"to": 1784091600}, "to is a time that no plan can mean"),
        ({"issued_at": ...}, "issued_at is missing"),
        ({"issued_at": 10**30}, "issued_at is no time"),
        ({"customers": ...}, "names neither customers nor feeders"),
        ({"customers": "370100000001"}, "customers is no list"),
        ({"customers": ["A", "A"]}, "customer A is named twice"),
        ({"cap_kw": ...}, "needs either cap_kw or reduction_kw"),
        ({"reduction_kw": 5}, "needs either cap_kw or reduction_kw"),
        ({"cap_kw": -1}, "cap_kw of 370100000001 is no power"),
        ({"cap_kw": "800"}, "cap_kw of 370100000001 is no power"),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        rows(**changed)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*GIVEN, "feeders", "reduction_kw", "protected_kw", "state", "kind"]), JSON))
def test_whatever_comes_is_a_plan_or_refused(changed: dict[str, Any]) -> None:
    with suppress(PlanError):
        assert rows(**changed)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"{", b"7"])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(PlanError):
        parse_plan(content, "Asia/Shanghai")
