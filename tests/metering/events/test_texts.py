"""How violations are named and told."""

# ruff: noqa: E501 - a message is one line, and Chinese is wide

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.errors import SettingsError
from metering.events import wording
from metering.events.catalogue import checks, rulebook
from metering.events.lifecycle import CHANGE_SCHEMA
from metering.events.texts import tell
from metering.settings import MeteringSettings
from metering.tables.lake import VIOLATIONS

Frame = pl.DataFrame
T0 = datetime(2026, 1, 1, 16, tzinfo=UTC)  # local midnight in Shanghai


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    customers = make_customers(
        {
            "C1": {"name": "城东钢厂", "feeder": "东一线", "manager": "大客户班"},
            "C2": {"name": "永和{超}市", "voltage_level_kv": 0.38, "feeder": None, "manager": None},
        }
    )
    meters = {
        "330100000001": {"customer_no": "C1", "nominal_v": 57.7},
        "330100000002": {"customer_no": "C1", "wiring": "3p3w", "nominal_v": 100.0},
        "330100000003": {"customer_no": "C2", "wiring": "1p"},
    }
    return make_meter_versions(customers, meters)


FOUR_WIRE, THREE_WIRE, SINGLE = 0, 1, 2


def _code(settings: MeteringSettings, rule: str, phase: str = "total") -> int:
    return next(check.code for check in checks(settings) if (check.rule, check.phase) == (rule, phase))


def _change(settings: MeteringSettings, rule: str = "over_voltage", phase: str = "a", **fields: Any) -> Frame:
    row = {
        "meter": 0, "code": _code(settings, rule, phase), "version": THREE_WIRE, "state": "raised", "revision": 0,
        "started_at": T0, "ended_at": None, "value": 129.74, "limit_value": 120.0, "ruleset": "default-2020",
        "at": T0 + timedelta(minutes=11), "occurrences": 1, **fields,
    }  # fmt: skip
    return pl.DataFrame([row], schema=CHANGE_SCHEMA)


def _told(meter_versions: Frame, settings: MeteringSettings, **fields: Any) -> dict[str, Any]:
    frame = tell(_change(settings, **fields), meter_versions, settings)
    assert frame.schema == VIOLATIONS.schema
    return frame.row(0, named=True)


def _at(hour: int, minute: int, day: int = 2) -> datetime:
    """A local time, as an instant."""
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC) - timedelta(hours=8)


ADVICE_ZH = "建议：核对变压器分接头与无功补偿，必要时切除电容器组。"
ADVICE_EN = "What to do: Check the transformer's tap and the reactive compensation; switch capacitors off where needed."
LOW = {"rule": "under_voltage", "phase": "c", "version": FOUR_WIRE, "value": 41.96, "limit_value": 45.006}
FULL = {"rule": "over_capacity", "phase": "total", "version": FOUR_WIRE, "value": 1203.4, "limit_value": 1000.0}
PF = {"rule": "low_power_factor", "phase": "total", "version": FOUR_WIRE, "value": 0.8, "limit_value": 0.9}


@pytest.mark.parametrize(
    ("fields", "zh", "en"),
    [
        pytest.param(
            {"started_at": _at(13, 55), "at": _at(14, 6)},
            f"城东钢厂（10 kV 东一线）AB 线电压过压：最高 129.7 V，额定的 129.7 %（限值 120 %），13:55 起已 11 分钟。{ADVICE_ZH}",
            "城东钢厂 (10 kV 东一线): over-voltage (line AB): highest 129.7 V, 129.7 % of nominal (limit 120 %), "
            f"since 13:55, for 11 min so far. {ADVICE_EN}",
            id="raised",
        ),
        pytest.param(
            {"started_at": _at(13, 55), "ended_at": _at(14, 6), "at": _at(14, 7), "state": "cleared"},
            "城东钢厂（10 kV 东一线）AB 线电压过压已解除：最高 129.7 V，额定的 129.7 %（限值 120 %），13:55–14:06，历时 11 分钟。",
            "城东钢厂 (10 kV 东一线): over-voltage cleared (line AB): highest 129.7 V, 129.7 % of nominal (limit 120 %), "
            "13:55–14:06, lasted 11 min.",
            id="cleared",
        ),
        pytest.param(
            {"started_at": _at(13, 55), "at": _at(14, 6), "state": "withdrawn", "phase": "c"},
            "城东钢厂（10 kV 东一线）CB 线电压过压（13:55 起）已撤销：补到的数据表明并未发生。",
            "城东钢厂 (10 kV 东一线): over-voltage (line CB) since 13:55 is withdrawn: data that came later shows that "
            "there was none.",
            id="withdrawn",
        ),
        pytest.param(
            {**LOW, "started_at": _at(23, 50, 1), "at": _at(1, 55), "state": "updated", "occurrences": 3},
            "城东钢厂（10 kV 东一线）C 相欠压：最低 42 V，额定的 72.7 %（限值 78 %），1 月 1 日 23:50 起已 2 小时 5 分钟，反复 3 次。"
            "建议：检查电压回路接线与熔断器，核对线路负荷。",
            "城东钢厂 (10 kV 东一线): under-voltage (phase C): lowest 42 V, 72.7 % of nominal (limit 78 %), since 1 Jan 23:50, "
            "for 2 h 5 min so far, came 3 times. What to do: Check the voltage circuit and its fuses, and the load of the line.",
            id="below, since yesterday, again and again",
        ),
        pytest.param(
            {**FULL, "started_at": _at(8, 0, 1), "ended_at": _at(11, 0), "at": _at(11, 15), "state": "cleared"},
            "城东钢厂（10 kV 东一线）超容已解除：最高 1203 kVA，合同容量的 120.3 %（限值 100 %），1 月 1 日 08:00–1 月 2 日 11:00，"
            "历时 1 天 3 小时。",
            "城东钢厂 (10 kV 东一线): load above contract capacity cleared: highest 1203 kVA, 120.3 % of contract capacity "
            "(limit 100 %), 1 Jan 08:00–2 Jan 11:00, lasted 1 d 3 h.",
            id="of all phases, over midnight",
        ),
        pytest.param(
            {**PF, "started_at": _at(9, 0), "ended_at": _at(10, 0), "at": _at(10, 15), "state": "cleared"},
            "城东钢厂（10 kV 东一线）功率因数偏低已解除：最低 0.80（限值 0.90），09:00–10:00，历时 1 小时。",
            "城东钢厂 (10 kV 东一线): power factor below standard cleared: lowest 0.80 (limit 0.90), 09:00–10:00, lasted 1 h.",
            id="power factor",
        ),
        pytest.param(
            {"version": SINGLE, "value": 271.0, "limit_value": 264.0, "at": T0 + timedelta(seconds=50)},
            f"永和{{超}}市（0.38 kV）过压：最高 271 V，额定的 123.2 %（限值 120 %），00:00 起已 50 秒。{ADVICE_ZH}",
            "永和{超}市 (0.38 kV): over-voltage: highest 271 V, 123.2 % of nominal (limit 120 %), since 00:00, for 50 s so far. "
            f"{ADVICE_EN}",
            id="single phase, no feeder, seconds",
        ),
    ],
)  # fmt: skip
def test_messages(
    meter_versions: Frame, metering_settings: MeteringSettings, fields: dict[str, Any], zh: str, en: str
) -> None:
    told = _told(meter_versions, metering_settings, **fields)
    assert (told["message_zh"], told["message_en"]) == (zh, en)


def test_a_message_has_no_hole_in_it(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    """Every rule, phase, wiring and state, with all there is to say and with nothing but what must be there."""
    states = ("raised", "updated", "cleared", "withdrawn")
    frames = [
        _change(metering_settings, check.rule, check.phase, version=version, state=state, occurrences=times,
                ended_at=T0 + timedelta(hours=1) if state == "cleared" else None, at=T0 + timedelta(minutes=61 * times))
        for check in checks(metering_settings)
        for version in (FOUR_WIRE, THREE_WIRE, SINGLE)
        for state in states
        for times in (1, 2)
    ]  # fmt: skip
    told = tell(pl.concat(frames), meter_versions, metering_settings)
    for language in ("zh", "en"):
        messages = told[f"message_{language}"]
        assert messages.null_count() == 0
        assert (
            messages.str.replace("{超}", "", literal=True).str.contains(r"[{}]|None|null|NaN|  |：：|，，|，。").sum()
            == 0
        )
        assert messages.str.contains(r"^(城东钢厂|永和\{超\}市).{20,}").all()
    advised = told.filter(pl.col("state").is_in(["raised", "updated"]))
    assert advised["message_zh"].str.contains("建议：").all()
    assert not told.filter(state="cleared")["message_zh"].str.contains("建议：").any()


def test_a_row_says_what_it_likes_and_rows_of_old_go_on(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    old = "计量点 {meter_id}{phase}{name}{state}：{value} {unit}，限值 {limit} {unit}，始于 {since}"
    wiring = {
        "3p3w": {"name_zh": "线电压越上限", "text_zh": "{customer}{quantity}{name}，{worst} {percent} %，{duration}"}
    }
    row = {"id": "over_voltage", "text_zh": old, "by_wiring": wiring}
    own = replace(metering_settings, rules=rulebook([row], ()))
    told = _told(meter_versions, own, version=FOUR_WIRE, value=71.23, limit_value=69.24)
    assert told["message_zh"] == "计量点 330100000001 A 相过压：71.2 V，限值 69.2 V，始于 00:00"
    told = _told(meter_versions, own)
    assert told["message_zh"] == "城东钢厂AB 线电压线电压越上限，最高 129.7 %，11 分钟"
    assert "is withdrawn" in _told(meter_versions, own, state="withdrawn")["message_en"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text_zh": "{whom}"}, "whom"),
        ({"by_wiring": {"2p": {"name_zh": "过压"}}}, "2p"),
        ({"by_wiring": {"1p": {"start": 1.3}}}, "start"),
        ({"by_wiring": "1p"}, "by_wiring"),
        ({"flicker_s": 86_400}, "flicker_s"),
        ({"flicker_s": 60, "storm": "x", "meter_id": "330100000001"}, "storm"),
    ],
)
def test_rows_that_cannot_be_are_told(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        rulebook([{"id": "over_voltage", **row}], ())


def test_a_row_is_complete(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    told = _told(meter_versions, metering_settings, revision=3, occurrences=2)
    expected = {
        "violation_id": "330100000002/over_voltage/a/2026-01-01T16:00:00Z", "state": "raised", "revision": 3,
        "rule": "over_voltage", "phase": "a", "started_at": T0, "ended_at": None, "value": 129.74,
        "limit_value": 120.0, "unit": "V", "severity": "critical", "meter_id": "330100000002", "customer_no": "C1",
        "ruleset": "default-2020", "at": T0 + timedelta(minutes=11), "date": date(2026, 1, 2),
        "customer_name": "城东钢厂", "feeder": "东一线", "manager": "大客户班", "quantity": "uab", "nominal": 100.0,
        "duration_s": 660, "event_class": "limit_warning", "storm_id": None, "occurrences": 2,
        "advice_zh": ADVICE_ZH[3:-1], "advice_en": ADVICE_EN[12:-1],
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert told["percent"] == pytest.approx(129.74)


@pytest.mark.parametrize(
    ("rule", "phase", "version", "quantity", "nominal"),
    [
        ("under_voltage", "c", THREE_WIRE, "ucb", 100.0),
        ("under_voltage", "c", FOUR_WIRE, "uc", 57.7),
        ("over_voltage", "a", SINGLE, "ua", 220.0),
        ("over_capacity", "total", SINGLE, "s", 1000.0),
        ("low_power_factor", "total", THREE_WIRE, "pf", 0.9),
    ],
)
def test_quantities_are_named_as_measured(
    meter_versions: Frame, metering_settings: MeteringSettings, rule: str, phase: str, version: int, quantity: str,
    nominal: float,
) -> None:  # fmt: skip
    told = _told(meter_versions, metering_settings, rule=rule, phase=phase, version=version)
    assert (told["quantity"], told["nominal"]) == (quantity, nominal)


def test_losses_of_one_feeder_at_one_time_name_one_storm(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    """Whatever the meter; of rules that belong to a group, and where the feeder is known."""
    losses = replace(metering_settings, rules=rulebook([{"id": "under_voltage", "storm": "supply"}], ()))

    def storm(**fields: Any) -> str | None:
        found: str | None = _told(meter_versions, losses, **{"rule": "under_voltage", **fields})["storm_id"]
        return found

    minutes = [timedelta(minutes=minute) for minute in (0, 17, 59, 60)]
    storms = [storm(started_at=T0 + after, version=FOUR_WIRE, at=T0 + timedelta(hours=3)) for after in minutes]
    assert storms == [*["东一线/supply/2026-01-01T16:00:00Z"] * 3, "东一线/supply/2026-01-01T17:00:00Z"]
    assert storm(version=THREE_WIRE) == storms[0]
    assert storm(version=SINGLE) is None
    assert storm(rule="over_voltage") is None


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0, "V", "0"), (-0.04, "V", "0"), (219.96, "V", "220"), (57.74, "V", "57.7"), (1234567.4, "kW", "1234567"),
        (9.96, "kW", "10"), (4.25, "kW", "4.3"), (-35.4, "kW", "-35"), (0.005, "A", "0.01"), (5.1, "A", "5.1"),
        (0.9, "1", "0.90"), (0.997, "1", "1.00"), (12.5, "h", "12.5"),
    ],
)  # fmt: skip
def test_numbers_have_sensible_digits(value: float, unit: str, said: str) -> None:
    frame = pl.DataFrame({"value": [value], "unit": [unit], "fixed": [unit == "1"]})
    frame = frame.with_columns(digits=wording.digits_of(pl.col("value"), pl.col("unit")))
    assert frame.select(wording.number(pl.col("value"), "digits", "fixed")).item() == said


def test_the_id_is_a_function_of_meter_rule_phase_and_start(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    def ids(**fields: Any) -> str:
        return _told(meter_versions, metering_settings, **fields)["violation_id"]

    known = checks(metering_settings)
    same = {ids(), ids(state="cleared", revision=9, value=1.0, ended_at=T0, at=T0 + timedelta(days=1))}
    others = {ids(rule=c.rule, phase=c.phase) for c in known} | {ids(started_at=T0 + timedelta(microseconds=1))}
    assert len(same) == 1
    assert len(others | same) == len(known) + 1


def test_the_date_is_that_of_the_reading_that_caused_it(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    assert _told(meter_versions, metering_settings, at=T0 + timedelta(seconds=1))["date"] == date(2026, 1, 2)


def test_every_check_has_its_severity_and_unit(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    changes = [_change(metering_settings, c.rule, c.phase) for c in checks(metering_settings)]
    told = tell(pl.concat(changes), meter_versions, metering_settings)
    severity = dict(told.select("rule", "severity").iter_rows())
    warned = {"over_capacity": "warning", "low_power_factor": "warning"}
    assert {"over_voltage": "critical", "under_voltage": "critical", **warned}.items() <= severity.items()
    assert not {name for name in VIOLATIONS.names if told[name].null_count() and not VIOLATIONS.column(name).nullable}


def test_severity_is_that_of_the_rule_set_that_judged(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    milder = {"id": "over_voltage", "version": "milder", "effective_from": date(2026, 6, 1), "severity": "info"}
    both = replace(metering_settings, rules=rulebook([milder], ()))
    assert _told(meter_versions, both)["severity"] == "critical"
    assert _told(meter_versions, both, ruleset="milder")["severity"] == "info"
    assert _told(meter_versions, both, ruleset="no longer there")["severity"] == "info"


def test_rows_are_told_in_order_of_time_from_any_chunks(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    times = [T0 + timedelta(minutes=m) for m in (3, 1, 2)]
    pieces = [_change(metering_settings, at=at) for at in times]
    chunked = pl.concat([pieces[0], pieces[0].clear(), *pieces[1:]], rechunk=False)
    assert tell(chunked, meter_versions, metering_settings)["at"].to_list() == sorted(times)
    assert tell(chunked.clear(), meter_versions, metering_settings).schema == VIOLATIONS.schema


def test_of_one_violation_the_last_row_is_the_current_one(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    """A late reading, of a time before the reading that raised it, withdraws it: consumers keep what they read last."""
    raised = _change(metering_settings, at=T0 + timedelta(minutes=3))
    withdrawn = _change(metering_settings, state="withdrawn", revision=1, at=T0 + timedelta(minutes=1))
    for changes in (pl.concat([raised, withdrawn]), pl.concat([withdrawn, raised])):
        assert tell(changes, meter_versions, metering_settings)["state"].to_list() == ["raised", "withdrawn"]
