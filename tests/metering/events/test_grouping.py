"""Storms: what begins together on a feeder is one, and what only looks like it is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.calendar import local_date
from metering.events.grouping import storms, with_storms
from metering.settings import AlarmSettings, MeteringSettings
from metering.tables.lake import VIOLATIONS
from metering.tables.storms import STORMS

Frame = pl.DataFrame
T0 = datetime(2026, 7, 3, 2, 0, tzinfo=UTC)
ALARMS = AlarmSettings(storm_gap_s=900, storm_members=3, storm_span_s=3600)
TEXTS = dict.fromkeys(("severity", "message_zh", "message_en", "ruleset"), "warning")


def _lost(meter: int, minute: float, feeder: str | None = "东一线", **fields: Any) -> dict[str, Any]:
    """A loss at a minute, named as the stream names it."""
    at = T0 + timedelta(minutes=minute)
    span = at.replace(minute=0, second=0, microsecond=0)
    return {
        "violation_id": f"3301{meter:08}/power_off/total/{at.isoformat()}", "meter_id": f"3301{meter:08}",
        "customer_no": f"C{meter // 2}", "rule": "power_off", "phase": "total", "state": "raised", "revision": 0,
        "started_at": at, "ended_at": None, "at": at, "value": 0.0, "limit_value": 60.0, "unit": "V", **TEXTS,
        "feeder": feeder, "storm_id": feeder and f"{feeder}/supply/{span:%Y-%m-%dT%H:%M:%SZ}",
        "date": at.date(), **fields,
    }  # fmt: skip


def _named(*lost: dict[str, Any]) -> dict[str, str | None]:
    rows = VIOLATIONS.conform(pl.DataFrame(list(lost), schema_overrides=VIOLATIONS.schema))
    found = with_storms(rows, ALARMS)
    assert found.drop("storm_id").equals(rows.drop("storm_id"))
    return dict(found.select("violation_id", "storm_id").iter_rows())


STORM = "东一线/supply/2026-07-03T02:00:00Z"


def test_three_meters_that_lose_together_are_one_storm() -> None:
    assert set(_named(_lost(1, 5), _lost(2, 5), _lost(3, 7)).values()) == {STORM}


def test_two_are_none_and_neither_are_three_phases_of_one_meter() -> None:
    assert set(_named(_lost(1, 5), _lost(2, 5)).values()) == {None}
    phases = [_lost(1, 5, violation_id=phase) for phase in "abc"]
    assert set(_named(*phases, _lost(2, 6)).values()) == {None}


def test_a_storm_does_not_end_with_a_span() -> None:
    """Ids change at 03:00; it is named as its first member was."""
    assert set(_named(_lost(1, 55), _lost(2, 59), _lost(3, 61), _lost(4, 70)).values()) == {STORM}


def test_long_after_and_elsewhere_is_another() -> None:
    lost = [_lost(1, 5), _lost(2, 6), _lost(3, 7), _lost(4, 90), _lost(5, 6, feeder="西二线"), _lost(6, 6, feeder=None)]
    assert list(_named(*lost).values()) == [STORM, STORM, STORM, None, None, None]


def test_losses_and_silence_of_one_feeder_are_one_storm(
    metering_settings: MeteringSettings,
) -> None:
    """A fault: some meters tell of it with their last breath, the concentrator and the others fall silent."""
    rules = metering_settings.rules.by_id
    names = ("total_voltage_loss", "power_off", "voltage_loss", "phase_loss", "reading_missing")
    assert {rules[name].storm for name in names} == {"supply"}
    lost = [_lost(1, 5, rule="power_off"), *(_lost(n, 15, rule="reading_missing") for n in range(2, 7))]
    assert set(_named(*lost).values()) == {STORM}


def test_what_was_withdrawn_is_no_member() -> None:
    assert set(_named(_lost(1, 5), _lost(2, 5), _lost(3, 7, state="withdrawn")).values()) == {None}


def test_a_storm_is_all_that_it_touched(make_customers: Callable[..., Frame], metering_settings: Any) -> None:
    over = {"state": "cleared"}
    lost = [_lost(1, 5, ended_at=T0 + timedelta(minutes=30), **over), _lost(2, 6), _lost(3, 8), _lost(3, 8, rule="x",
            violation_id="x"), _lost(9, 300)]  # fmt: skip
    rows = VIOLATIONS.conform(pl.DataFrame(lost, schema_overrides=VIOLATIONS.schema))
    customers = make_customers({f"C{n}": {"contract_capacity_kva": 100.0 * (n + 1)} for n in range(5)})
    dated = local_date(pl.col("started_at"), metering_settings.timezone)
    found = storms(with_storms(rows, ALARMS), customers, dated)
    assert found.schema == STORMS.schema
    (row,) = found.rows(named=True)
    assert row == {
        "storm_id": STORM, "feeder": "东一线", "storm": "supply", "started_at": T0 + timedelta(minutes=5),
        "last_started_at": T0 + timedelta(minutes=8), "ended_at": None, "duration_s": None, "members": 3,
        "open_members": 2, "customers": 2, "kva": 300.0, "violations": 4, "rules": "power_off, x",
        "by_rule": "power_off 3, x 1",
        "date": T0.date(),
    }  # fmt: skip
    assert storms(rows.clear(), customers, dated).is_empty()


@settings(max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_as_if_joined_one_by_one(seed: int) -> None:
    """Whatever the order: two of a feeder are joined where they have one id, or begin within the gap."""
    rng = random.Random(seed)
    lost = [_lost(rng.randrange(12), rng.randrange(0, 400, 3), rng.choice(("东一线", "西/二线"))) for _ in range(30)]
    lost = list({row["violation_id"]: row for row in lost}.values())
    rng.shuffle(lost)
    chains = [{row["violation_id"]} for row in lost]
    for one in lost:
        for other in lost:
            near = abs((one["started_at"] - other["started_at"]).total_seconds()) <= 900
            if one["feeder"] == other["feeder"] and (near or one["storm_id"] == other["storm_id"]):
                mine, others = (next(c for c in chains if row["violation_id"] in c) for row in (one, other))
                if mine is not others:
                    chains.remove(others)
                    mine |= others
    by_id = {row["violation_id"]: row for row in lost}
    wanted: dict[str, str | None] = {}
    for chain in chains:
        members = sorted((by_id[name] for name in chain), key=lambda row: row["started_at"])
        is_storm = len({row["meter_id"] for row in members}) >= 3
        wanted |= dict.fromkeys(chain, members[0]["storm_id"] if is_storm else None)
    assert _named(*lost) == wanted
