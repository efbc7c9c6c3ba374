"""What a plan's message may say, what is refused, and which customers it asks for what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.calendar import quarter_hours
from metering.control.execution import instructed
from metering.control.plans import ANSWERS, answers, holding, targets
from metering.readings.decode import Lines
from metering.records.decode import decode_records
from metering.tables.records import PLANS, SERVICE
from tests.metering.control.account import Builder, messages, plans_of

TZ = "Asia/Shanghai"
DAY = datetime(2026, 3, 18).date()
NO_ANSWERS = pl.DataFrame(schema=ANSWERS)
GIVEN: dict[str, Any] = {
    "plan_id": "P-1", "revision": 1, "kind": "orderly_usage", "from": "2026-03-18T10:00:00+08:00",
    "to": "2026-03-18T12:00:00+08:00", "issued_at": "2026-03-17T16:00:00+08:00", "customers": ["C1"], "cap_kw": 500,
}  # fmt: skip


def plan(**changed: Any) -> dict[str, Any]:
    return {k: v for k, v in {**GIVEN, **changed}.items() if v is not None}


def found(*plans: dict[str, Any], versions: pl.DataFrame, answered: pl.DataFrame = NO_ANSWERS) -> pl.DataFrame:
    return targets(plans_of(*plans), answered, versions, "last_5")


def times(rows: pl.DataFrame) -> list[str]:
    """Local ends of the windows that are under a plan."""
    ends = quarter_hours(DAY, TZ).select("window_end")
    held = holding(rows, rows.select("customer_no").unique().join(ends, how="cross"))
    return held.select(pl.col("window_end").dt.convert_time_zone(TZ).dt.strftime("%H:%M")).to_series().to_list()


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(make_customers({"C1": {"protected_kw": 200.0}}), {"330200000001": {"customer_no": "C1"}})


@pytest.fixture(scope="module")
def fed(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    customers = make_customers(
        {
            "C1": {"feeder": "F-1", "contract_capacity_kva": 1000.0},
            "C2": {"feeder": "F-1", "contract_capacity_kva": 3000.0},
            "C3": {"feeder": "F-1", "contract_capacity_kva": 9000.0},
            "C4": {"feeder": "F-2"},
        }
    )
    return make_meter_versions(customers, {f"33020000001{n}": {"customer_no": f"C{n}"} for n in (1, 2, 3, 4)})


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"customers": ["C3"], "reduction_kw": {"C3": 50, "F-1": 400}, "feeders": ["F-1"]}, (100.0, 300.0, 50.0)),
        ({"customers": None, "reduction_kw": 70, "feeders": ["F-1"]}, (70.0, 70.0, 70.0)),
        ({"customers": None, "reduction_kw": {"C1": 5, "C2": 6}}, (5.0, 6.0)),
        ({"customers": ["C1", "C2", "C9"], "reduction_kw": {"C1": 5}}, (5.0,)),
    ],
)
def test_whom_a_plan_asks_for_what(changed: dict[str, Any], wanted: tuple[float, ...], fed: pl.DataFrame) -> None:
    rows = found(plan(cap_kw=None, **changed), versions=fed)
    assert tuple(rows.sort("customer_no")["reduction_kw"]) == wanted


def test_only_whole_quarter_hours_count_and_a_revision_holds_for_windows_that_end_after_it(
    versions: pl.DataFrame,
) -> None:
    odd = plan(**{"from": "2026-03-18T10:05:00+08:00", "to": "2026-03-18T11:10:00+08:00"})
    assert times(found(odd, versions=versions)) == ["10:30", "10:45", "11:00"]
    withdrawn = {"plan_id": "P-1", "revision": 2, "state": "withdrawn", "issued_at": "2026-03-18T10:50:00+08:00"}
    assert times(found(plan(), withdrawn, versions=versions)) == ["10:15", "10:30", "10:45"]
    exactly = plan(revision=2, state="withdrawn", issued_at="2026-03-18T10:45:00+08:00")
    assert times(found(exactly, plan(), versions=versions)) == ["10:15", "10:30", "10:45"]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("demand_response", ["10:15", "10:30", "11:30", "11:45", "12:00"]),
        ("orderly_usage", ["10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45", "12:00"]),
    ],
)
def test_demand_response_can_be_refused_and_orderly_usage_cannot(
    kind: str, wanted: list[str], versions: pl.DataFrame
) -> None:
    at = datetime(2026, 3, 18, 2, 40, tzinfo=UTC)
    said = [("plan.opted_out", at), ("plan.accepted", at + timedelta(minutes=35)), ("survey", at)]
    events = [
        {"event_id": f"E-{n}", "type": word, "at": when.isoformat(), "customer_no": "C1", "plan_id": "P-1",
         "subject": "overall", "score": 5}
        for n, (word, when) in enumerate(said)
    ]  # fmt: skip
    accepted = decode_records(SERVICE, Lines(messages(*events))).accepted
    answered = answers(accepted)
    assert answered["answer"].to_list() == ["opted_out", "accepted"]
    assert times(found(plan(kind=kind), versions=versions, answered=answered)) == wanted


@pytest.mark.parametrize("figures", [{"cap_kw": 50}, {"cap_kw": None, "reduction_kw": 900}])
def test_what_is_protected_is_never_cut(figures: dict[str, Any], versions: pl.DataFrame) -> None:
    rows = found(plan(**figures), versions=versions)
    assert rows["protected_kw"].to_list() == [200.0]
    asked = instructed(rows.with_columns(baseline_kw=pl.lit(500.0)))
    assert asked.select("cap_kw", "instructed_kw").row(0) == (200.0, 300.0)
    own = found(plan(**figures, protected_kw={"C1": 300}), versions=versions)
    assert own["protected_kw"].to_list() == [300.0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"to": "2026-03-18T01:00:00+08:00"}, "to is not after from"),
        ({"from": None}, "an active plan needs from and to"),
        ({"cap_kw": None}, "an active plan needs cap_kw or reduction_kw"),
        ({"cap_kw": {"C1": -1}}, "cap_kw is below 0"),
        ({"kind": "blackout"}, "kind 'blackout' is none of"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(changed: dict[str, Any], said: str) -> None:
    rejects = decode_records(PLANS, Lines(messages(plan(**changed)))).rejects
    assert said in rejects["detail"].item()
