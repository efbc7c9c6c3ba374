"""Rows of rules: what a home overrides for whom and when, its rule sets of old, and rows that cannot be used."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.errors import SettingsError
from metering.events.catalogue import check_frame, checks, default_rules, rulebook, values_read
from metering.events.judge import END, NEITHER, START, judge, starts
from metering.settings import MeteringSettings
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP

Frame = pl.DataFrame
T0 = datetime(2026, 3, 1, 1, tzinfo=UTC)
METERS = {
    "330000000011": ("C1", "3p4w"), "330000000012": ("C2", "3p4w"), "330000000013": ("C3", "3p4w"),
    "330000000014": ("C2", "3p3w"),
}  # fmt: skip
OWN = {"id": "own_over_current", "name_zh": "过流", "name_en": "over-current", "measure": "i", "side": "above",
       "base": "max_a", "start": 1.2}  # fmt: skip


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    """Meters of a large 10 kV, an important 10 kV and an important 35 kV customer; the last is three-wire."""
    important = {"segment": "important"}
    customers = make_customers({"C1": {}, "C2": important, "C3": {**important, "voltage_level_kv": 35.0}})
    meters = {m: {"customer_no": customer, "wiring": wiring} for m, (customer, wiring) in METERS.items()}
    return make_meter_versions(customers, meters)


def _readings(*rows: dict[str, Any]) -> Frame:
    full = [{**dict.fromkeys(MEASURED), "version": row["meter"], "ts": T0, **row} for row in rows]
    schema = {"meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64)}
    return pl.DataFrame(full, schema=schema)


def _with(settings: MeteringSettings, *rows: dict[str, Any]) -> MeteringSettings:
    return replace(settings, rules=rulebook(rows, ()))


def _judged(readings: Frame, versions: Frame, settings: MeteringSettings, rule: str, phase: str = "a") -> Frame:
    """What is said of one check, and that looking for starts finds the same."""
    code = next(check.code for check in checks(settings) if (check.rule, check.phase) == (rule, phase))
    judged = judge(readings, versions, settings, check_frame(settings)["code"])
    begun = set(judged.filter(pl.col("verdict") == START).select("meter", "code").rows())
    assert set(starts(readings, versions, settings).rows()) == begun
    return judged.filter(pl.col("code") == code)


def _limits(judged: Frame) -> list[tuple[int, float, str]]:
    return judged.select("meter", (pl.col("limit_value") / 220).round(9), "ruleset").rows()


ALL_METERS = [{"meter": n, "ua_v": 250.0} for n in range(4)]


def test_a_row_without_scope_holds_for_all(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    settings = _with(metering_settings, {"id": "over_voltage", "start": 1.15})
    assert not settings.rules.overrides
    judged = _judged(_readings(*ALL_METERS), meter_versions, settings, "over_voltage")
    assert _limits(judged) == [(n, 1.15, "home") for n in range(4)]
    under = judge(_readings(*ALL_METERS), meter_versions, settings, pl.Series([4], dtype=pl.UInt32))
    assert set(under["ruleset"]) == {"default-2020"}  # what a home does not touch is judged as Kilowatch brings it


def test_the_narrower_scope_counts(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    """In whatever order the rows stand: meter, then segment with level, then segment, then level, then all."""
    rows = [
        {"id": "over_voltage", "meter_id": "330000000014", "start": 1.05},
        {"id": "over_voltage", "segment": "important", "start": 1.15},
        {"id": "over_voltage", "start": 1.25},
        {"id": "over_voltage", "voltage_level_kv": 10, "start": 1.22},
        {"id": "over_voltage", "voltage_level_kv": 35, "segment": "important", "start": 1.1},
    ]
    expected = [
        (0, 1.22, "voltage_level_kv=10"), (1, 1.15, "segment=important"),
        (2, 1.1, "segment=important voltage_level_kv=35"), (3, 1.05, "meter_id=330000000014"),
    ]  # fmt: skip
    for ordered in (rows, rows[::-1]):
        settings = _with(metering_settings, *ordered)
        judged = _judged(_readings(*ALL_METERS), meter_versions, settings, "over_voltage")
        assert _limits(judged) == expected
        assert judged["verdict"].to_list() == [END, NEITHER, START, START]


def test_values_of_several_rows_add_up_and_the_version_names_them(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    rows = [
        {"id": "over_voltage", "segment": "important", "start": 1.1, "severity": "info"},
        {"id": "over_voltage", "meter_id": "330000000013", "hold_s": 600, "clear": 0.99},
    ]
    settings = _with(metering_settings, *rows)
    judged = _judged(_readings(*({**r, "ua_v": 219.0} for r in ALL_METERS)), meter_versions, settings, "over_voltage")
    both = "segment=important+meter_id=330000000013"
    assert judged.select("meter", "hold_s", "ruleset", "verdict").rows() == [
        (0, 60.0, "default-2020", END), (1, 60.0, "segment=important", END), (2, 600.0, both, NEITHER),
        (3, 60.0, "segment=important", END),
    ]  # fmt: skip
    assert settings.rules.judged_as("over_voltage", both).severity == "info"
    assert settings.rules.judged_as("over_voltage", "default-2020").severity == "critical"


def test_a_row_holds_from_its_local_date_on(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    """The interval that ends at local midnight belongs to the day before."""
    rows = [
        {"id": "over_voltage", "segment": "important", "start": 1.15, "effective_from": date(2026, 6, 1)},
        {"id": "over_voltage", "segment": "important", "start": 1.1, "effective_from": date(2026, 9, 1)},
        {"id": "over_voltage", "start": 0, "effective_from": date(2026, 7, 1)},
    ]
    settings = _with(metering_settings, *rows)
    june, july, september = (datetime(2026, month, day, 16, tzinfo=UTC) for month, day in ((5, 31), (6, 30), (8, 31)))
    second = timedelta(seconds=1)
    times = [june, june + second, july, july + second, september + second]
    readings = _readings(*({"meter": n, "ua_v": 300.0, "ts": at} for n in (0, 1) for at in times))
    judged = _judged(readings, meter_versions, settings, "over_voltage")
    of = {n: _limits(judged.filter(pl.col("meter") == n)) for n in (0, 1)}
    assert of[0] == [(0, 1.2, "default-2020")] * 3  # switched off in July, but where a narrower row says otherwise
    assert of[1] == [
        (1, 1.2, "default-2020"), *[(1, 1.15, "2026-06-01 segment=important")] * 3,
        (1, 1.1, "2026-09-01 segment=important"),
    ]  # fmt: skip


def test_a_new_rule_with_a_scope_is_judged_there_only(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    settings = _with(metering_settings, {**OWN, "segment": "important", "effective_from": date(2026, 3, 2)})
    rows = [{"meter": n, "ia_a": 9.0, "ts": T0 + timedelta(days=day)} for n in range(4) for day in (0, 1)]
    judged = _judged(_readings(*rows), meter_versions, settings, "own_over_current")
    assert judged.select("meter", "value", "limit_value").rows() == [(n, 9.0, 6 * 1.2) for n in (1, 2, 3)]


def test_a_rule_over_a_current_is_judged_where_there_is_a_phase(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    settings = _with(metering_settings, {**OWN, "clear": 0.95})
    assert [(c.rule, c.phase, c.unit) for c in checks(settings)[-3:]] == [("own_over_current", p, "A") for p in "abc"]
    rows = [{"meter": meter, "ib_a": ib} for meter in (0, 3) for ib in (7.3, 7.1, 5.8, 5.6)]
    judged = _judged(_readings(*rows), meter_versions, settings, "own_over_current", "b")
    assert judged.select("meter", "verdict").rows() == [(0, v) for v in (START, NEITHER, NEITHER, END)]


def test_limits_without_a_base_are_in_the_measures_unit(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    guard = {"measure": "p_kw", "side": "above", "base": "none", "limit": 100}
    own = {**OWN, "id": "idle", "measure": "q_kvar", "side": "below", "base": "none", "start": 5, "guard": guard}
    settings = _with(metering_settings, own)
    rows = [{"meter": n, "p_kw": p, "q_kvar": q} for n, (p, q) in enumerate([(100.0, 1.0), (101.0, 1.0), (101.0, 5.1)])]
    judged = _judged(_readings(*rows), meter_versions, settings, "idle", "total")
    assert judged.select("meter", "limit_value", "verdict").rows() == [(1, 5.0, START), (2, 5.0, END)]


def test_a_guard_by_phase_looks_at_the_same_phase(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    """Loss of voltage: a phase without voltage that carries current, not one that stands still."""
    guard = {"measure": "i", "side": "above", "base": "rated_a", "limit": 0.005}
    loss = {**OWN, "id": "voltage_loss", "measure": "u", "side": "below", "base": "nominal_v", "start": 0.78,
            "clear": 0.85, "guard": guard}  # fmt: skip
    settings = _with(metering_settings, loss)
    low = {"meter": 0, "ua_v": 10.0, "ub_v": 10.0, "ib_a": 3.0}
    readings = _readings(*({**low, "ia_a": current} for current in (0.0, 0.025, 0.03)))
    assert _judged(readings, meter_versions, settings, "voltage_loss")["verdict"].to_list() == [START]
    assert _judged(readings, meter_versions, settings, "voltage_loss", "b")["verdict"].to_list() == [START] * 3


def test_a_guard_is_overridden_by_its_limit(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    row = {"id": "low_power_factor", "segment": "important", "guard": {"limit": 0.01}}
    readings = _readings(*({"meter": n, "p_kw": 10.0, "q_kvar": 20.0} for n in (0, 1)))
    judged = _judged(readings, meter_versions, _with(metering_settings, row), "low_power_factor", "total")
    assert judged.select("meter", "verdict").rows() == [(1, START)]


def test_currents_are_read_only_where_a_rule_needs_them(metering_settings: MeteringSettings) -> None:
    product = ("ua_v", "ub_v", "uc_v", "p_kw", "q_kvar")
    four = ("over_voltage", "under_voltage", "over_capacity", "low_power_factor")
    rest = [{"id": rule, "start": 0} for rule in default_rules().by_id if rule not in four]
    assert values_read(_with(metering_settings, *rest)) == product
    assert values_read(_with(metering_settings, *rest, {**OWN, "id": "own", "start": 0})) == product
    with_currents = ("ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar")
    assert values_read(_with(metering_settings, *rest, OWN)) == with_currents
    off = [{"id": rule, "start": 0} for rule in default_rules().by_id]
    assert values_read(_with(metering_settings, *off)) == ()
    assert values_read(_with(metering_settings, *off, {**off[0], "segment": "important", "start": 1.1})) == product[:3]


def test_what_no_rule_reads_need_not_be_there(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    """Readings that are kept have the values that rules in use look at, and no others."""
    off = {"id": "over_voltage", "start": 0}
    for settings in (_with(metering_settings, {**OWN, "start": 0}), _with(metering_settings, off, {**OWN, "start": 0})):
        kept = _readings({"meter": 0, "ua_v": 300.0, "p_kw": 1.0, "q_kvar": 1.0})
        kept = kept.select("meter", "version", "ts", *values_read(settings))
        judged = judge(kept, meter_versions, settings, check_frame(settings)["code"])
        assert (judged["verdict"] == START).sum() == starts(kept, meter_versions, settings).height
        assert judged.height > 0


# --- rule sets of old -------------------------------------------------------------------------------------------------

OLD = """
[[rulesets]]
name = "city-2027"
effective_from = 2027-01-01
[rulesets.over_voltage]
limit = 1.10
severity = "info"
[rulesets.under_voltage]
limit = 0
[rulesets.over_capacity]
limit = 1.05
[rulesets.low_power_factor]
limit = 1.0
min_load = 0.2

[[rulesets]]
name = "city-2020"
effective_from = 2020-01-01
[rulesets.over_voltage]
limit = 1.15
hold_s = 120
clear_hold_s = 180
clear_margin = 0.05
severity = "critical"
clause = "city code 7"
[rulesets.under_voltage]
limit = 0.85
[rulesets.over_capacity]
limit = 1.05
[rulesets.low_power_factor]
limit = 1.0
"""


def test_rule_sets_of_old_judge_as_they_did(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    """What a set leaves out is what it always was (60 s, 2 %, warning), not what Kilowatch's row says."""
    settings = replace(metering_settings, rules=rulebook((), tomllib.loads(OLD)["rulesets"]))
    times = [datetime(1999, 5, 1, tzinfo=UTC), T0, datetime(2026, 12, 31, 16, 0, 1, tzinfo=UTC)]
    readings = _readings(
        *({"meter": 0, "ua_v": 260.0, "p_kw": 100.0, "q_kvar": 150.0, "ts": at} for at in times),
    )
    over = _judged(readings, meter_versions, settings, "over_voltage")
    assert over.select((pl.col("limit_value") / 220).round(9), "hold_s", "clear_hold_s", "ruleset").rows() == [
        (1.15, 120.0, 180.0, "city-2020"), (1.15, 120.0, 180.0, "city-2020"), (1.1, 60.0, 60.0, "city-2027"),
    ]  # fmt: skip
    assert _judged(readings, meter_versions, settings, "under_voltage").height == 2
    low = _judged(readings, meter_versions, settings, "low_power_factor", "total")
    assert low.select("hold_s", "ruleset").rows() == [(60.0, "city-2020")] * 2  # 180 kVA is under the load of 2027
    said = {version: settings.rules.judged_as("over_voltage", version) for version in ("city-2020", "city-2027")}
    assert [(rule.severity, rule.clause) for rule in said.values()] == [("critical", "city code 7"), ("info", "")]
    assert settings.rules.judged_as("over_voltage", "forgotten").severity == "info"


def test_a_rule_that_is_new_is_as_it_comes_for_a_home_with_rule_sets_of_old() -> None:
    """An upgrade adds a rule: sets that know nothing of it go on to be read, and it is judged as its row says."""
    whole = tomllib.loads(OLD)["rulesets"]
    fewer = [{k: v for k, v in ruleset.items() if k != "low_power_factor"} for ruleset in whole]
    rules = rulebook((), fewer)
    assert rules.by_id["low_power_factor"] == default_rules().by_id["low_power_factor"]
    assert rules.by_id["over_voltage"].version == "city-2020"
    assert rulebook([OWN], fewer).by_id["own_over_current"].start == 1.2


def test_a_rule_of_a_home_stays_its_own_when_kilowatch_brings_one_of_that_id() -> None:
    """Over-voltage stands for a rule that came with an upgrade: the home's rows go on to say what it is."""
    own = {**OWN, "id": "over_voltage"}
    rows = [own, {"id": "over_voltage", "segment": "important", "start": 1.1}]
    rules = rulebook(rows, ())
    rule = rules.by_id["over_voltage"]
    assert (rule.measure, rule.base, rule.start, rule.severity, rule.version) == ("i", "max_a", 1.2, "warning", "home")
    assert [dict(override.values) for override in rules.overrides] == [{"start": 1.1}]
    with pytest.raises(SettingsError, match=r"rules 2 \(over_voltage\): measure = 'i'"):
        rulebook([own, own], ())


# --- rows that cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "Over Voltage"}, "rules 1 (Over Voltage): id = 'Over Voltage': must be a name such as over_current"),
        ({"start": 1}, "rules 1: id: must be a name such as over_current"),
        ({"id": "over_voltage", "strat": 1}, "rules 1 (over_voltage): strat = 1: there is no such key; there are id,"),
        ({"id": "over_voltage", "start": "1.2"}, "start = '1.2': must be a number from 0"),
        ({"id": "over_voltage", "start": True}, "start = True: must be a number from 0"),
        ({"id": "over_voltage", "start": -1.0}, "start = -1.0: must be a number from 0"),
        ({"id": "over_voltage", "start": float("nan")}, "start = nan: must be a number from 0"),
        ({"id": "over_voltage", "start": float("inf")}, "start = inf: must be a number from 0"),
        ({"id": "over_voltage", "clear_margin": 1.0}, "clear_margin = 1.0: must be a number from 0 and below 1"),
        ({"id": "over_voltage", "clear": 1.3}, "clear = 1.3: the end value 1.3 must be at or below start, 1.2"),
        ({"id": "under_voltage", "clear": 0.7}, "clear = 0.7: the end value 0.7 must be at or above start, 0.78"),
        ({"id": "over_voltage", "severity": "bad"}, "severity = 'bad': must be one of info, warning, critical"),
        ({"id": "over_voltage", "segment": "big", "start": 1}, "segment = 'big': must be one of large, sme, important"),
        ({"id": "over_voltage", "effective_from": "2026-06-01", "start": 1}, "must be a date such as 2026-06-01"),
        ({"id": "over_voltage", "segment": "sme"}, "the row changes nothing of over_voltage"),
        ({"id": "over_voltage", "measure": "i"}, "measure = 'i': over_voltage cannot look at something else; give the"),
        ({"id": "over_voltage", "guard": {"limit": 1}}, "over_voltage has no guard"),
        ({"id": "low_power_factor", "guard": {"side": "below"}}, "must be { limit = ... }"),
        ({"id": "over_voltage", "name_zh": "高压", "segment": "sme"}, "name_zh = '高压': is the same for all meters"),
        ({"id": "over_voltage", "text_zh": "{whom}"}, "{whom} is unknown; there are who, customer,"),
        (
            {"id": "own_over_current", "start": 1.2},
            "name_zh: is missing: there is no such rule yet, and a new",
        ),
        ({**OWN, "measure": "x"}, "rules 1 (own_over_current): measure = 'x': must be one of u, i, p_kw"),
        ({**OWN, "base": "rated_kw"}, "base = 'rated_kw': must be one of nominal_v"),
        ({**OWN, "side": "over"}, "side = 'over': must be one of above, below"),
        ({**OWN, "phases": ["d"]}, "phases = ['d']: must be a list of phases of i: a, b, c"),
        ({**OWN, "guard": {"measure": "u"}}, "must be { measure = ..., side = ..., base = ..., limit = ... }"),
        (
            {**OWN, "measure": "pf", "guard": {"measure": "u", "side": "above", "base": "nominal_v", "limit": 0.5}},
            "u is by phase and pf is not",
        ),
        ({**OWN, "fault": [1.1]}, "fault = [1.1]: must be two factors of start"),
        ({**OWN, "clear": 1.3}, "clear = 1.3: the end value 1.3 must be at or below start"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_used_is_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        rulebook([row], ())
    assert said in str(raised.value)
    assert str(raised.value).startswith("rules 1")


def test_two_rows_of_one_scope_and_date_are_refused() -> None:
    rows = [{"id": "over_voltage", "segment": "sme", "start": start} for start in (1.1, 1.15)]
    with pytest.raises(SettingsError, match=r"rules 2 \(over_voltage\): version: 'segment=sme' is that of another row"):
        rulebook(rows, ())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "city-2027"', 'name = "city-2020"', "rulesets: two rule sets have one name"),
        ("[rulesets.over_capacity]", "[rulesets.over_capazity]", "rulesets 'city-2027': over_capazity: there is no"),
        ("limit = 1.10", 'limit = "1.1"', "rulesets 'city-2027': over_voltage (over_voltage): start = '1.1'"),
        ("limit = 1.10", "limmit = 1.10", "rulesets 'city-2027': over_voltage.limmit: there is no such key"),
        ("limit = 1.10", "", "rulesets 'city-2027': over_voltage: limit is missing"),
        ("effective_from = 2027-01-01", "", "rulesets 1: a rule set needs a name and effective_from, a date"),
    ],
)
def test_a_rule_set_of_old_that_cannot_be_used_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        rulebook((), tomllib.loads(OLD.replace(old, new, 1))["rulesets"])
    assert said in str(raised.value)
