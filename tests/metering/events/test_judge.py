"""What readings say to the limit rules: limits and margins to the last float, phases, load, rule sets by date."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.catalogue import checks, default_rules, rulebook
from metering.events.judge import END, JUDGED_SCHEMA, NEITHER, START, judge, starts
from metering.settings import ABOVE, BELOW, MeteringSettings
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP

Frame = pl.DataFrame
T0 = datetime(2026, 1, 1, tzinfo=UTC)
CODES = pl.Series(range(1, 9), dtype=pl.UInt32)
BY_NAME = {(rule.id, phase): 0 for rule in default_rules().rules for phase in rule.phases}
BY_NAME = {name: code for code, name in enumerate(BY_NAME, 1)}
RULES_NOW = rulebook([{"id": "over_voltage", "clear_hold_s": 90, "version": "now"}], ())
OVER_V, UNDER_V, CAPACITY_KVA, STANDARD = 220 * 1.2, 220 * 0.78, 1000.0, 0.9


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    """A 3p4w, a 3p3w and a 1p meter of one customer of 1000 kVA and standard 0.90; Un 220 V."""
    kinds = {"A": "3p4w", "B": "3p3w", "C": "1p"}
    return make_meter_versions(
        make_customers({"C1": {}}), {m: {"customer_no": "C1", "wiring": w} for m, w in kinds.items()}
    )


@pytest.fixture(scope="module")
def figures(metering_settings: MeteringSettings) -> MeteringSettings:
    return replace(metering_settings, rules=RULES_NOW)


def _readings(*rows: dict[str, Any]) -> Frame:
    full = [
        {**dict.fromkeys(MEASURED), "meter": 0, "version": row.get("meter", 0), "ts": T0 + timedelta(minutes=i), **row}
        for i, row in enumerate(rows)
    ]
    schema = {"meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64)}
    return pl.DataFrame(full, schema=schema)


def _said(readings: Frame, meter_versions: Frame, figures: MeteringSettings, rule: str, phase: str) -> list[int]:
    judged = judge(readings, meter_versions, figures, CODES)
    assert judged.schema == JUDGED_SCHEMA
    return judged.filter(pl.col("code") == BY_NAME[rule, phase])["verdict"].to_list()


def _begun(rows: Frame, meter_versions: Frame, figures: MeteringSettings) -> list[tuple[int, int]]:
    """The pairs of the checks looked at here that speak for a start."""
    found = starts(rows, meter_versions, figures).filter(pl.col("code").is_in(CODES.implode()))
    return found.sort("meter", "code").rows()


def test_checks_are_the_rules_on_their_phases(figures: MeteringSettings) -> None:
    assert [(c.code, c.rule, c.phase, c.unit, c.side) for c in checks(figures)][:8] == [
        *((code, "over_voltage", phase, "V", ABOVE) for code, phase in enumerate("abc", 1)),
        *((code, "under_voltage", phase, "V", BELOW) for code, phase in enumerate("abc", 4)),
        (7, "over_capacity", "total", "kVA", ABOVE), (8, "low_power_factor", "total", "1", BELOW),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("u", "over", "under"),
    [
        (math.nextafter(OVER_V, 999), START, END),
        (OVER_V, NEITHER, END),
        (math.nextafter(OVER_V * 0.98, 999), NEITHER, END),
        (OVER_V * 0.98, END, END),
        (220.0, END, END),
        (UNDER_V * 1.02, END, END),
        (math.nextafter(UNDER_V * 1.02, 0), END, NEITHER),
        (UNDER_V, END, NEITHER),
        (math.nextafter(UNDER_V, 0), END, START),
        (0.0, END, START),
    ],
)
@pytest.mark.parametrize("phase", ["a", "b", "c"])
def test_voltage_speaks_for_start_neither_or_end(
    meter_versions: Frame, figures: MeteringSettings, phase: str, u: float, over: int, under: int
) -> None:
    readings = _readings({f"u{phase}_v": u})
    assert _said(readings, meter_versions, figures, "over_voltage", phase) == [over]
    assert _said(readings, meter_versions, figures, "under_voltage", phase) == [under]
    assert judge(readings, meter_versions, figures, CODES).height == 2


@pytest.mark.parametrize(
    ("p", "q", "verdict"),
    [
        (600.0, 800.0, NEITHER), (600.0, 800.1, START), (-600.0, -800.1, START), (0.0, 1000.1, START),
        (588.0, 784.0, END), (588.1, 784.0, NEITHER), (0.0, 0.0, END),
    ],
)  # fmt: skip
def test_capacity_compares_apparent_power(
    meter_versions: Frame, figures: MeteringSettings, p: float, q: float, verdict: int
) -> None:
    assert _said(_readings({"p_kw": p, "q_kvar": q}), meter_versions, figures, "over_capacity", "total") == [verdict]


@pytest.mark.parametrize(
    ("p", "q", "verdict"),
    [
        (30.0, 40.0, []),  # 50 kVA is 5 % of capacity: not above it
        (30.1, 40.0, [START]),
        (0.0, 51.0, [START]),
        (0.0, 0.0, []),
        (900.0, math.sqrt(1000**2 - 900**2) + 1e-6, [START]),
        (905.0, math.sqrt(1000**2 - 905**2), [NEITHER]),
        (-950.0, 10.0, [END]),
        (950.0, -10.0, [END]),
    ],
)
def test_power_factor_is_judged_only_under_load(
    meter_versions: Frame, figures: MeteringSettings, p: float, q: float, verdict: list[int]
) -> None:
    assert _said(_readings({"p_kw": p, "q_kvar": q}), meter_versions, figures, "low_power_factor", "total") == verdict


def test_values_that_are_not_known_say_nothing(meter_versions: Frame, figures: MeteringSettings) -> None:
    rows = _readings({}, {"p_kw": 2000.0}, {"q_kvar": 2000.0}, {"p_kw": 1.7e308, "q_kvar": 1.7e308})
    assert judge(rows, meter_versions, figures, CODES).filter(pl.col("ts") < T0 + timedelta(minutes=3)).is_empty()
    assert judge(rows, meter_versions, figures, CODES)["value"].is_finite().all()


def test_each_wiring_has_its_phases(meter_versions: Frame, figures: MeteringSettings) -> None:
    high = {"ua_v": 300.0, "ub_v": 300.0, "uc_v": 300.0}
    judged = judge(_readings(*({**high, "meter": m} for m in range(3))), meter_versions, figures, CODES)
    started = judged.filter(pl.col("verdict") == START).select("meter", "code").rows()
    assert started == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (2, 1)]


def test_a_row_carries_what_it_was_judged_by(meter_versions: Frame, figures: MeteringSettings) -> None:
    row = judge(_readings({"ub_v": 300.0}), meter_versions, figures, CODES).row(0, named=True)
    expected = {"value": 300.0, "limit_value": OVER_V, "hold_s": 60.0, "clear_hold_s": 90.0, "ruleset": "now",
                "side": ABOVE}  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_only_the_wanted_checks_are_judged_in_order(meter_versions: Frame, figures: MeteringSettings) -> None:
    rows = _readings(*({"ua_v": 300.0, "p_kw": 2000.0, "q_kvar": 0.0, "meter": m} for m in (2, 0, 1, 0)))
    judged = judge(rows, meter_versions, figures, pl.Series([7, 1], dtype=pl.UInt32))
    assert judged.select("meter", "code", "ts").equals(judged.select("meter", "code", "ts").sort("meter", "code", "ts"))
    assert judged.group_by("meter", "code").len().sort("meter", "code").rows() == [
        (0, 1, 2), (0, 7, 2), (1, 1, 1), (1, 7, 1), (2, 1, 1), (2, 7, 1)
    ]  # fmt: skip


def test_threshold_0_disables_a_rule(meter_versions: Frame, figures: MeteringSettings) -> None:
    off = rulebook([{"id": name, "start": 0} for name in ("over_voltage", "low_power_factor")], ())
    rows = _readings({"ua_v": 300.0, "p_kw": 100.0, "q_kvar": 900.0}, {"ua_v": 10.0})
    judged = judge(rows, meter_versions, replace(figures, rules=off), CODES)
    assert sorted(set(judged["code"])) == [4, 7]
    assert _begun(rows, meter_versions, replace(figures, rules=off)) == [(0, 4)]


def test_starts_are_the_pairs_that_judging_finds(meter_versions: Frame, figures: MeteringSettings) -> None:
    rows = _readings(
        {"ua_v": 300.0, "meter": 1}, {"ub_v": 300.0, "meter": 1}, {"uc_v": 1.0}, {"uc_v": 2.0}, {"ua_v": 220.0},
        {"p_kw": 2000.0, "q_kvar": 2000.0, "meter": 2}, {"ua_v": OVER_V, "meter": 2},
    )  # fmt: skip
    pairs = _begun(rows, meter_versions, figures)
    judged = judge(rows, meter_versions, figures, CODES).filter(pl.col("verdict") == START)
    assert pairs == judged.select("meter", "code").unique().sort("meter", "code").rows()
    assert pairs == [(0, 6), (1, 1), (2, 7), (2, 8)]


def test_each_local_day_has_its_rule_set(meter_versions: Frame, figures: MeteringSettings) -> None:
    """The interval that ends at local midnight belongs to the day before."""
    now = {"id": "over_voltage", "version": "now", "clear_hold_s": 90}
    newer = {"id": "over_voltage", "version": "newer", "effective_from": date(2026, 2, 1), "start": 1.1, "hold_s": 300}
    both = replace(figures, rules=rulebook([newer, now], ()))
    midnight = datetime(2026, 1, 31, 16, tzinfo=UTC)  # 00:00 of 1 February in Shanghai
    second = timedelta(seconds=1)
    times = [
        midnight - second,
        midnight,
        midnight + second,
        midnight + timedelta(days=99),
        datetime(1999, 1, 1, tzinfo=UTC),
    ]
    rows = _readings(*({"ua_v": 250.0, "ts": ts} for ts in times))
    judged = judge(rows, meter_versions, both, pl.Series([1], dtype=pl.UInt32))
    by_time = {row["ts"]: (row["ruleset"], row["verdict"], row["hold_s"]) for row in judged.iter_rows(named=True)}
    old, new = ("now", END, 60.0), ("newer", START, 300.0)
    assert by_time == dict(zip(times, [old, old, new, new, old], strict=True))
    assert starts(rows, meter_versions, both).rows() == [(0, 1)]
    assert starts(rows.filter(pl.col("ts") <= midnight), meter_versions, both).is_empty()


def test_nothing_says_nothing(meter_versions: Frame, figures: MeteringSettings) -> None:
    assert judge(_readings(), meter_versions, figures, CODES).is_empty()
    assert starts(_readings(), meter_versions, figures).is_empty()
