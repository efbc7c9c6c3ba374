"""Load control of turns: the same in the end however the log is cut and whenever a plan is learned of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from metering.control.baseline import baselines, customer_load
from metering.control.execution import executed
from metering.control.plans import ANSWERS, holding, targets
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.control import LOAD_CONTROL
from metering.tables.lake import WINDOWS
from metering.tables.warehouse import CUSTOMERS, METERS
from tests.metering.control.account import plans_of
from tests.pipelines.flow.flows import CUSTOMER, METER
from tests.pipelines.turns import Turns

DAY = date(2026, 3, 18)  # a Wednesday
MIDNIGHT = datetime(2026, 3, 17, 16, tzinfo=UTC)  # in Shanghai
BEFORE = 4
METERS_OF = {"330300000001": ("C1", 5), "330300000002": ("C1", 15), "330300000003": ("C2", 5)}
CONTENT = [name for name in LOAD_CONTROL.names if name != "revision"]

Plan = dict[str, Any]
Log = list[dict[str, Any]]


@pytest.fixture(scope="module")
def index(metering_settings: MeteringSettings) -> MeterIndex:
    return _index({"contract_demand_kw": 900.0}, metering_settings)


def _index(customer: dict[str, Any], metering_settings: MeteringSettings) -> MeterIndex:
    customers = [{**CUSTOMER, "customer_no": no, **customer} for no in ("C1", "C2")]
    meters = [
        {**METER, "meter_id": name, "customer_no": customer, "interval_s": 60 * step}
        for name, (customer, step) in METERS_OF.items()
    ]
    registry = CUSTOMERS.conform(pl.DataFrame(customers)), METERS.conform(pl.DataFrame(meters))
    return MeterIndex.of(meter_versions(*registry, metering_settings))


@pytest.fixture(scope="module")
def make_turns(
    index: MeterIndex, metering_settings: MeteringSettings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Turns]:
    home = tmp_path_factory.mktemp("nowhere")
    return lambda: Turns(index, metering_settings, home)


def plan(hour: float, revision: int = 1, **changed: Any) -> Plan:
    """A plan for the morning of DAY, issued at an hour of it."""
    given: Plan = {
        "plan_id": "P-1", "revision": revision, "from": _at(10), "to": _at(12), "issued_at": _at(hour),
        "customers": ["C1", "C2"], "cap_kw": 700,
    }  # fmt: skip
    return {k: v for k, v in {**given, **changed}.items() if v is not None}


def _at(hour: float) -> str:
    return (MIDNIGHT + timedelta(hours=hour)).isoformat()


ANNOUNCED, TIGHTENED = plan(-10), plan(10.6, 2, cap_kw=None, reduction_kw={"C1": 500, "C2": 100})
WITHDRAWN = plan(11.4, 3, state="withdrawn")
SCENARIO = [ANNOUNCED, TIGHTENED, WITHDRAWN]


def log_of(seed: int, lateness: bool = False) -> Log:
    """Readings in order of arrival: workdays before, one of them with a gap, and the day of the plan."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, dict[str, Any]]] = []
    for meter, (_, step) in METERS_OF.items():
        level = rng.uniform(300, 500)
        for minute in range(step, (BEFORE * 24 + 13) * 60 + 1, step):
            if rng.random() < 0.0005:
                continue
            day, of_day = divmod(minute, 1440)
            held = day == BEFORE and 600 < of_day <= 720
            p_kw = level + 20 * day + of_day / 10 - (rng.choice((0, 150, 300)) if held else 0)
            ts = MIDNIGHT + timedelta(minutes=minute - BEFORE * 1440)
            late = rng.choice((8.0, 25.0, 3000.0)) if lateness and rng.random() < 0.01 else rng.random()
            arrivals.append((minute + late, rng.random(), {"meter_id": meter, "ts": ts.isoformat(), "p_kw": p_kw}))
    return [reading for *_, reading in sorted(arrivals, key=lambda item: item[:2])]


def run(
    turns: Turns, log: Log, plans: Sequence[tuple[int, Plan]], cuts: Sequence[int] = (), restarts: bool = False
) -> dict[str, pl.DataFrame]:
    """What counts in the end; each plan comes before the reading that it names."""
    ends = sorted({*cuts, *(at for at, _ in plans if 0 < at < len(log)), len(log)})
    for start, stop in pairwise([0, *ends]):
        if heard := [plan for at, plan in plans if start == at or (start == 0 and at <= 0)]:
            turns.hear("load_control_plans", heard)
        turns.turn([(0, reading) for reading in log[start:stop]], ended={0} if stop == len(log) else ())
        if restarts:
            turns.restart()
    if heard := [plan for at, plan in plans if at >= len(log)]:
        turns.hear("load_control_plans", heard)
        turns.turn([])
    return turns.final()


def batch(
    found: dict[str, pl.DataFrame], plans: Sequence[Plan], index: MeterIndex, settings: MeteringSettings
) -> pl.DataFrame:
    """What batch work makes of the final windows."""
    windows = found[WINDOWS.name].with_columns(index.code(found[WINDOWS.name]["meter_id"]))
    windows = windows.with_columns(index.version_of_window(windows["meter"], windows["window_end"]))
    versions = index.meter_versions
    asked = targets(plans_of(*plans), pl.DataFrame(schema=ANSWERS), versions, "last_5")
    keys = windows.join(versions.select("meter_id", "customer_no").unique(), on="meter_id").select(
        "customer_no", "window_end"
    )
    held = holding(asked, keys.unique())
    load = customer_load(windows, versions)
    base = baselines(held, load.filter(pl.col("window_end") <= MIDNIGHT), asked, versions, settings)
    return executed(held, load, base, versions, settings)


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    final = found.filter(pl.col("state") == "final").sort(LOAD_CONTROL.key)
    assert final.select(CONTENT).equals(wanted.select(CONTENT)), (final, wanted)


@settings(max_examples=3, phases=(Phase.generate,))
@given(seed=st.integers(0, 1000), lateness=st.booleans(), restarts=st.booleans(), data=st.data())
def test_it_ends_the_same_however_the_log_is_cut_and_whenever_plans_are_learned_of(
    seed: int,
    lateness: bool,
    restarts: bool,
    data: st.DataObject,
    make_turns: Callable[[], Turns],
    index: MeterIndex,
    metering_settings: MeteringSettings,
) -> None:
    log = log_of(seed, lateness)
    whole = run(make_turns(), log, [(0, one) for one in SCENARIO])
    wanted = batch(whole, SCENARIO, index, metering_settings)
    assert set(wanted["plan_revision"]) == {1, 2}
    assert wanted["compliant"].drop_nulls().len() >= 5  # without whole days before there may be no baseline
    same(whole["load_control"], wanted)
    positions = st.integers(len(log) * 3 // 4, len(log) + 1)
    cuts = data.draw(st.lists(positions, max_size=6))
    cut = run(make_turns(), log, [(0, one) for one in SCENARIO], [at for at in cuts if at < len(log)], restarts)
    for name, rows in whole.items():
        assert rows.equals(cut[name]), name
    learned = [(data.draw(positions), one) for one in SCENARIO]
    found = run(make_turns(), log, learned, [at for at in cuts if at < len(log)], restarts)
    assert found["windows"].equals(whole["windows"])
    same(found["load_control"], wanted)
    compared, again = (_violations(tables).drop("revision") for tables in (whole, found))
    assert again.equals(compared)


@pytest.mark.parametrize("seed", [119, 130])
def test_what_late_readings_raise_and_take_back_does_not_depend_on_cuts(
    seed: int, make_turns: Callable[[], Turns]
) -> None:
    """Of days of the baseline, of windows under the plan; some raise a violation that the next one withdraws."""
    log, rng = log_of(seed, lateness=True), random.Random(seed)
    plans = [(0, one) for one in SCENARIO]
    cuts = sorted(rng.sample(range(len(log) * 3 // 4, len(log)), rng.randint(1, 6)))
    whole, cut = run(make_turns(), log, plans), run(make_turns(), log, plans, cuts)
    assert all(rows.equals(cut[name]) for name, rows in whole.items())
    assert whole["violations"].filter(pl.col("rule").str.starts_with("load_control"))["revision"].max() >= 2


def _violations(found: dict[str, pl.DataFrame]) -> pl.DataFrame:
    rows = found["violations"]
    return rows.filter(pl.col("rule") == "load_control_violation", pl.col("state") != "withdrawn")


# --- running windows ------------------------------------------------------------------------------------------------


def _reading(meter: str, hour: float, p_kw: float) -> dict[str, Any]:
    return {"meter_id": meter, "ts": _at(hour), "p_kw": p_kw}


def _live(results: Any) -> list[tuple[Any, ...]]:
    columns = ("state", "actual_kw", "projected_kw", "cap_kw", "headroom_kw", "compliant", "plan_revision")
    return results.load_control_live.select(columns).rows()


def test_a_running_window_is_followed_and_so_is_its_plan(make_turns: Callable[[], Turns]) -> None:
    turns = make_turns()
    turns.turn([(0, _reading("330300000003", 10 - n / 12, 500.0)) for n in range(24, -1, -1)])
    turns.hear("load_control_plans", [plan(-10, customers=["C2"])])
    assert _live(turns.turn([(0, _reading("330300000003", 10 + 1 / 12, 600.0))])) == [
        ("live", 600.0, 600.0, 700.0, 100.0, True, 1)
    ]
    assert _live(turns.turn([(0, _reading("330300000003", 10 + 1 / 12, 600.0))])) == [], "nothing new"
    warned = turns.turn([(0, _reading("330300000003", 10 + 2 / 12, 840.0))])
    assert _live(warned) == [("live", 720.0, 760.0, 700.0, -60.0, False, 1)]
    (told,) = warned.violations.to_dicts()
    assert (told["rule"], told["state"], told["value"], told["limit_value"]) == (
        "load_control_warning", "raised", 760.0, 700.0,
    )  # fmt: skip
    assert told["message_zh"] == (
        "有序用电（P-1）：Rolling mill预计 10:15 止 15 分钟平均负荷 760 kW，将超出指标 700 kW。"
        "建议：余下 5 分钟平均负荷压到 660 kW 以内。"
    )
    turns.restart()
    turns.hear("load_control_plans", [plan(10.2, 2, customers=["C2"], cap_kw=800)])
    eased = turns.turn([])
    assert _live(eased) == [("live", 720.0, 760.0, 800.0, 40.0, True, 2)]
    assert [row["state"] for row in eased.violations.to_dicts()] == ["cleared"]
    turns.hear("load_control_plans", [plan(10.21, 3, customers=["C2"], state="withdrawn")])
    assert [row[0] for row in _live(turns.turn([]))] == ["withdrawn"]
    assert turns.turn([(0, _reading("330300000003", 11, 900.0))]).load_control.is_empty()


def test_projected_demand_above_the_contract_is_told(make_turns: Callable[[], Turns]) -> None:
    turns = make_turns()
    quiet = ((1, 700.0), (2, 850.0), (3, 1000.0))
    assert turns.turn([(0, _reading("330300000003", 9 + n / 12, p)) for n, p in quiet]).violations.is_empty()
    (told,) = turns.turn([(0, _reading("330300000003", 9 + 4 / 12, 1000.0))]).violations.to_dicts()
    assert (told["rule"], told["state"], told["limit_value"], told["severity"]) == (
        "demand_warning", "raised", 900.0, "warning",
    )  # fmt: skip
    assert told["message_zh"] == (
        "Rolling mill预计 09:30 止 15 分钟需量 1000 kW，将超出合同需量 900 kW。"
        "建议：余下 10 分钟平均负荷压到 850 kW 以内。"
    )
    over = turns.turn([(0, _reading("330300000003", 9 + n / 12, 500.0)) for n in (5, 6)])
    assert over.violations["state"].to_list() == ["cleared"]


def test_a_customer_without_all_of_its_meters_has_rows_but_no_verdict(make_turns: Callable[[], Turns]) -> None:
    turns = make_turns()
    turns.hear("load_control_plans", [plan(-10)])
    turns.turn([(0, _reading("330300000001", 10 + n / 12, 900.0)) for n in range(1, 12)])
    rows = turns.final()["load_control"]
    assert rows.select("customer_no", "meters", "meters_due", "compliant").unique().rows() == [("C1", 1, 2, None)]
    rows = turns.final()["violations"].filter(pl.col("rule").str.starts_with("load_control"))
    assert rows["rule"].to_list() == ["load_control_warning"], "the one that is known is above the cap by itself"
    assert rows["message_zh"].str.ends_with("（2 块主表中 1 块有数据，其余未计入。）").all()


def test_several_workers_speak_once_for_a_customer(make_turns: Callable[[], Turns]) -> None:
    """The one that hears the first meter; the other's windows come from the lake, once they are there."""
    first, second = make_turns(), make_turns()
    for turns, meter in ((first, "330300000001"), (second, "330300000002")):
        turns.alone = False
        turns.hear("load_control_plans", [plan(-10, customers=["C1"])])
        turns.turn([(0, _reading(meter, 9.75 + n / 12, 300.0)) for n in range(12)])
    assert second.final()["load_control"].is_empty()
    assert first.final()["load_control"].select("meters", "meters_due").unique().rows() == [(1, 2)]
    first.tables += [
        {name: rows if name == "windows" else rows.clear() for name, rows in tables.items()} for tables in second.tables
    ]
    first.turn([(0, _reading("330300000001", 10.75 + n / 12, 300.0)) for n in range(6)])
    rows = first.final()["load_control"].filter(pl.col("window_end") <= MIDNIGHT + timedelta(hours=10.5))
    assert rows.select("meters", "actual_kw", "compliant").unique().rows() == [(2, 600.0, True)]


def test_projected_apparent_power_above_the_capacity_in_use_is_told(
    metering_settings: MeteringSettings, tmp_path: Path
) -> None:
    """1,000 kVA of contract, 400 of them suspended; the power factor makes the difference. The rule is switched on."""
    alarms = dict(metering_settings.control.alarms)
    assert alarms["capacity_warning"].start == 0
    alarms["capacity_warning"] = replace(alarms["capacity_warning"], start=1.0)
    metering_settings = replace(metering_settings, control=replace(metering_settings.control, alarms=alarms))
    registry = _index({"contract_capacity_kva": 1000.0, "suspended_kva": 400.0}, metering_settings)
    turns = Turns(registry, metering_settings, tmp_path)
    told = []
    for n, (p_kw, q_kvar) in enumerate(((500.0, 100.0), (595.0, None), (550.0, 200.0)), 1):
        reading = {**_reading("330300000003", 9 + n / 12, p_kw), "q_kvar": q_kvar}
        told += turns.turn([(0, reading)]).violations.to_dicts()
    assert told == []
    told = turns.turn([(0, {**_reading("330300000003", 9 + 4 / 12, 550.0), "q_kvar": 300.0})]).violations.to_dicts()
    (row,) = [each for each in told if each["rule"] == "capacity_warning"]
    assert (row["state"], row["limit_value"], row["unit"], row["quantity"]) == ("raised", 600.0, "kVA", "s")
    assert row["message_zh"] == (
        "Rolling mill预计 09:30 止 15 分钟平均视在功率 626 kVA，将超出运行容量 600 kVA。"
        "建议：余下 10 分钟平均压到 587 kVA 以内。"
    )
    turns.restart()
    over = turns.turn(
        [(0, {**_reading("330300000003", 9 + n / 12, 100.0), "q_kvar": 0.0}) for n in (5, 6, 7)]
    ).violations
    assert over.filter(pl.col("rule") == "capacity_warning")["state"].to_list() == ["cleared"]


def test_a_silent_main_meter_does_not_silence_its_customer(make_turns: Callable[[], Turns]) -> None:
    """What the other one draws alone is above the contract demand; what is less does not end the warning."""
    turns = make_turns()
    quiet = turns.turn([(0, _reading("330300000001", 9 + n / 12, 850.0)) for n in (1, 2)]).violations
    assert quiet.is_empty()
    warnings = pl.col("rule") == "demand_warning"
    more = turns.turn([(0, _reading("330300000001", 9 + n / 12, 1000.0)) for n in (3, 4, 5)]).violations
    (told,) = more.filter(warnings).to_dicts()
    assert (told["rule"], told["state"], told["customer_no"]) == ("demand_warning", "raised", "C1")
    assert told["message_zh"].endswith("（2 块主表中 1 块有数据，其余未计入。）")
    turns.restart()
    lower = [(0, _reading("330300000001", 9 + n / 12, 300.0)) for n in (6, 7, 8)]
    assert turns.turn(lower).violations.filter(warnings).is_empty()
    both = [_reading("330300000001", 9.5 + n / 12, 300.0) for n in (3, 4, 5, 6)]
    both += [_reading("330300000002", hour, 90.0) for hour in (9.75, 10.0)]
    cleared = turns.turn([(0, reading) for reading in sorted(both, key=lambda reading: reading["ts"])]).violations
    cleared = cleared.filter(warnings)
    assert cleared["state"].to_list() == ["cleared"]
    assert "主表" not in cleared["message_zh"].item()
