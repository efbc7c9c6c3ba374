"""A simulated fleet is what it says: its violations are its labels, its registers the integral of its power."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import duckdb
import polars as pl
import pytest

from metering.events.catalogue import default_rules, rulebook
from metering.registry.parse import parse_registry
from metering.settings import MeteringSettings
from metering.simulation import LABELS, Fleet, draw_fleet, run, simulate
from metering.simulation.loads import moments
from metering.tables.lake import REGISTERS
from metering.tables.warehouse import CUSTOMERS, METERS

START = date(2026, 3, 6)  # a Friday, so that two days hold a weekend's start
SINCE = date(2025, 1, 1)
RULES = tuple(rule.id for rule in default_rules().rules if rule.fault)


def fleet_of(count: int, settings: MeteringSettings, interval_s: int = 60, seed: int = 3) -> Fleet:
    return draw_fleet(count, seed, interval_s, SINCE, settings)


def run_all(fleet: Fleet, settings: MeteringSettings, days: int, interval_s: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    slices = list(simulate(fleet, START, days, interval_s, settings))
    return pl.concat([s.readings for s in slices]), pl.concat([s.labels for s in slices])


@pytest.fixture(scope="module")
def fleet(metering_settings: MeteringSettings) -> Fleet:
    return fleet_of(40, metering_settings)


@pytest.fixture(scope="module")
def simulated(fleet: Fleet, metering_settings: MeteringSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    return run_all(fleet, metering_settings, 2, 60)


VIOLATIONS = """
with known as (
    select r.meter_id, ts, p_kw as p, q_kvar as q, sqrt(p_kw * p_kw + q_kvar * q_kvar) as s, m.nominal_v as un,
           m.rated_a as ib, m.max_a as im, contract_capacity_kva as cap, contract_demand_kw as demand, pf_standard,
           case wiring when '3p4w' then 3 when '3p3w' then sqrt(3) else 1 end * nominal_v * pt_ratio * ct_ratio / 1000
               as kva_per_a,
           list_max([ua_v, ub_v, uc_v]) as u_max, list_min([ua_v, ub_v, uc_v]) as u_min,
           list_max([ia_a, ib_a, ic_a]) as i_max, list_min([ia_a, ib_a, ic_a]) as i_min,
           [{phase: 'a', u: ua_v, i: ia_a, other: list_max([ib_a, ic_a])},
            {phase: 'b', u: ub_v, i: ib_a, other: list_max([ia_a, ic_a])},
            {phase: 'c', u: uc_v, i: ic_a, other: list_max([ia_a, ib_a])}] as phases
    from readings r join (select distinct on (meter_id) * from meters) m using (meter_id)
    join customers c using (customer_no)
), whole as (
    select *, u_max < 0.6 * un and i_max > 0.05 * ib as lost, u_max < 0.6 * un and i_max < 0.005 * ib as off,
           not (lost or off) and len(list_filter(phases, lambda x: x.u < 0.6 * un and x.i < 0.005 * ib)) > 0 as dead,
           if(u_max > 0.6 * un, (u_max - u_min) / u_max, 0) as u_unbalance,
           if(i_max > 0.05 * ib, (i_max - i_min) / i_max, 0) as i_unbalance,
           if(s > 0.05 * cap, abs(p) / s, null) as pf
    from known
), by_phase as (
    select * exclude phase, phase.* from (select *, unnest(phases) as phase from whole) where phase.u is not null
), values as (
    select meter_id, ts, phase, unnest([
        {kind: 'over_voltage', bad: u > 1.2 * un},
        {kind: 'under_voltage', bad: u < 0.78 * un and not (u < 0.6 * un and i < 0.005 * ib) and not (lost or off)},
        {kind: 'voltage_loss', bad: u < 0.78 * un and i > 0.005 * ib and not (lost or off)},
        {kind: 'phase_loss', bad: u < 0.6 * un and i < 0.005 * ib and not (lost or off)},
        {kind: 'current_loss', bad: u > 0.7 * un and i < 0.005 * ib and other > 0.05 * ib},
        {kind: 'open_current', bad: u > 0.6 * un and i < 0.005 * ib and i_max > 0.005 * ib},
        {kind: 'over_current', bad: i > 1.2 * im}
    ], recursive := true) from by_phase
    union all
    select meter_id, ts, 'total', unnest([
        {kind: 'total_voltage_loss', bad: lost},
        {kind: 'power_off', bad: off},
        {kind: 'overload', bad: s > 1.2 * im * kva_per_a},
        {kind: 'reverse_power', bad: -p > 0.005 * ib * kva_per_a},
        {kind: 'demand_limit', bad: p > demand},
        {kind: 'over_capacity', bad: s > cap},
        {kind: 'voltage_unbalance', bad: u_unbalance > 0.3 and u_unbalance <= 0.9 and not dead},
        {kind: 'voltage_unbalance_severe', bad: u_unbalance > 0.9 and not dead},
        {kind: 'current_unbalance', bad: i_unbalance > 0.3 and i_unbalance <= 0.9 and not dead},
        {kind: 'current_unbalance_severe', bad: i_unbalance > 0.9 and not dead},
        {kind: 'low_power_factor', bad: pf < pf_standard},
        {kind: 'power_factor_under_limit', bad: pf < 0.3},
        {kind: 'reactive_under_compensation', bad: pf < 0.8 and q > 0},
        {kind: 'reactive_over_compensation', bad: pf < 0.8 and q < 0}
    ], recursive := true) from whole
), runs as (
    select *, ts - interval $interval second * row_number() over of_one as run
    from values where bad window of_one as (partition by meter_id, kind, phase order by ts)
)
select meter_id, kind, phase, min(ts) - interval $interval second as started_at, max(ts) as ended_at
from runs group by meter_id, kind, phase, run
having count(*) * $interval >= if(kind in ('demand_limit', 'over_capacity', 'low_power_factor',
    'reactive_under_compensation', 'reactive_over_compensation'), 900, 60)
order by all
"""
"""Section 8 of the domain handbook, with what section 13 changes."""


def violations(readings: pl.DataFrame, fleet: Fleet, interval_s: int) -> pl.DataFrame:
    """By plain SQL: every run of readings beyond a limit that lasts as long as its rule's hold time."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name, frame in (("readings", readings), ("meters", fleet.meters), ("customers", fleet.customers)):
            connection.register(name, frame)
        return connection.sql(VIOLATIONS.replace("$interval", str(interval_s))).pl()


def expected(labels: pl.DataFrame) -> list[tuple[str, str, str, datetime, datetime]]:
    ruled = labels.filter(pl.col("kind").is_in(RULES))
    return sorted(ruled.select("meter_id", "kind", "phase", "started_at", "ended_at").rows())


def same_instants(rows: list[tuple[str, str, str, datetime, datetime]]) -> list[tuple[str | datetime, ...]]:
    return sorted((*row[:3], *(at.astimezone(UTC) for at in row[3:])) for row in rows)


def test_violations_are_the_labels_and_nothing_else(
    fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame], metering_settings: MeteringSettings
) -> None:
    readings, labels = simulated
    found = violations(readings, fleet, 60)
    assert found["kind"].n_unique() > len(RULES) / 2
    assert same_instants(found.rows()) == same_instants(expected(labels))


@pytest.mark.parametrize("interval_s", [300, 900])
def test_longer_intervals_hold_long_enough(metering_settings: MeteringSettings, interval_s: int) -> None:
    fleet = fleet_of(100, metering_settings, interval_s)
    readings, labels = run_all(fleet, metering_settings, 7, interval_s)
    found = violations(readings, fleet, interval_s)
    assert set(found["kind"]) == set(RULES)
    assert same_instants(found.rows()) == same_instants(expected(labels))


def test_limits_and_hold_times_come_from_the_settings(metering_settings: MeteringSettings) -> None:
    kept = ("over_voltage", "over_capacity", "low_power_factor")
    rows = [
        {"id": "over_voltage", "start": 1.15, "hold_s": 1800}, {"id": "low_power_factor", "hold_s": 86_400},
        *({"id": name, "start": 0} for name in default_rules().by_id if name not in kept),
    ]  # fmt: skip
    settings = replace(metering_settings, rules=rulebook(rows, ()))
    fleet = fleet_of(50, settings)
    readings, labels = run_all(fleet, settings, 1, 60)
    of_readings = {"reading_missing", "reading_late"}
    of_rules = set(labels["kind"]) - {"register_decrease", "runaway"}
    assert of_rules == {"over_voltage", "over_capacity", "near_miss", *of_readings}
    lasted = labels.filter(pl.col("kind") == "over_voltage").select(pl.col("ended_at") - pl.col("started_at"))
    assert (lasted.to_series() >= timedelta(minutes=30)).all()
    near = labels.filter(pl.col("kind") == "near_miss")
    short = near.filter(pl.col("detail").str.contains("for less than 1800 s"))
    assert short.select(pl.col("ended_at") - pl.col("started_at")).to_series().to_list() == [timedelta(minutes=29)]
    nominal = readings.join(fleet.meters, on="meter_id")
    assert nominal.select((pl.col("ua_v") / pl.col("nominal_v")).min()).item() > 0.85
    assert nominal.select((pl.col("ua_v") / pl.col("nominal_v")).max()).item() < 1.15 * 1.09


def test_near_misses_are_near_and_break_nothing(
    metering_settings: MeteringSettings,
) -> None:
    """Just inside a limit, or a reading less than the hold time: labelled, and no alarm of that rule is due."""
    fleet = fleet_of(100, metering_settings, 300)
    readings, labels = run_all(fleet, metering_settings, 4, 300)
    near = labels.filter(pl.col("kind") == "near_miss").with_columns(rule=pl.col("detail").str.split(" ").list.first())
    inside = near.filter(pl.col("detail").str.contains(" nearly: "))
    short = near.filter(pl.col("detail").str.contains(" for less than "))
    assert inside.height + short.height == near.height
    assert inside["rule"].n_unique() >= 8
    assert set(short["rule"]) >= {"over_capacity", "low_power_factor", "reactive_under_compensation"}
    assert set(short.select(pl.col("ended_at") - pl.col("started_at")).to_series()) == {timedelta(minutes=10)}
    of = labels.select("meter_id", "started_at", rule="kind")
    assert near.join(of, on=["meter_id", "started_at", "rule"], how="semi").is_empty()
    over = inside.filter(pl.col("rule") == "over_voltage").join(fleet.meters.unique("meter_id"), on="meter_id")
    for label in over.iter_rows(named=True):
        struck = readings.filter(
            pl.col("meter_id") == label["meter_id"],
            pl.col("ts") > label["started_at"],
            pl.col("ts") <= label["ended_at"],
        )
        pu = struck[f"u{label['phase']}_v"] / label["nominal_v"]
        assert pu.is_between(1.2 * 0.98, 1.2, closed="none").all()
    assert over.height > 0


def test_gaps_and_late_readings_are_labelled(fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    readings, labels = simulated
    assert labels.schema == LABELS
    rows = readings.with_row_index("row").with_columns(late=pl.col("ts") < pl.col("ts").cum_max())
    gone = labels.filter(pl.col("kind") == "reading_missing")
    again = labels.filter(pl.col("kind") == "correction")
    late = labels.filter(pl.col("kind").is_in(["reading_late", "correction"]))
    assert gone.height > 0
    assert late.height > again.height > 0

    def within(label: dict[str, object]) -> pl.DataFrame:
        after, until = pl.col("ts") > label["started_at"], pl.col("ts") <= label["ended_at"]
        return rows.filter((pl.col("meter_id") == label["meter_id"]) & after & until)

    assert [within(label).height for label in gone.iter_rows(named=True)] == [0] * gone.height
    due = 2 * int((86_400 // fleet.meters["interval_s"]).sum())
    absent, repeated, minutes = (
        int((struck["ended_at"] - struck["started_at"]).dt.total_minutes().sum()) for struck in (gone, again, late)
    )
    assert readings.select("meter_id", "ts").n_unique() == due - absent
    assert readings.height == due - absent + repeated
    assert rows["late"].sum() == sum(within(label)["late"].sum() for label in late.iter_rows(named=True)) == minutes


def test_late_readings_arrive_when_their_label_says(simulated: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    readings, labels = simulated
    rows = readings.with_columns(newest=pl.col("ts").cum_max())
    for label in labels.filter(pl.col("kind") == "reading_late").iter_rows(named=True):
        arrives = datetime.fromisoformat(label["detail"].removeprefix("arrives at "))
        own = rows.filter(pl.col("meter_id") == label["meter_id"], pl.col("ts") == label["ended_at"])
        assert timedelta() <= arrives - own["newest"][0] < timedelta(minutes=1)


def test_registers_are_the_integral_of_power(fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Between any two readings without a gap in between, to the register's last place, over roll-overs too."""
    readings, labels = simulated
    misread = labels.filter(pl.col("kind").is_in(["register_decrease", "runaway"]))["meter_id"]
    flows = {
        "import_kwh": pl.col("p_kw").clip(0),
        "export_kwh": (-pl.col("p_kw")).clip(0),
        "import_kvarh": pl.col("q_kvar").clip(0),
        "export_kvarh": (-pl.col("q_kvar")).clip(0),
    }
    assert tuple(flows) == REGISTERS
    ordered = readings.join(fleet.meters, on="meter_id").sort("meter_id", "ts")
    whole = ordered.filter(pl.len().over("meter_id") == 2 * 1440, ~pl.col("meter_id").is_in(misread.implode()))
    assert whole.height > ordered.height / 2
    for register, flow in flows.items():
        turned = whole.with_columns(
            since=(pl.col(register) - pl.col(register).first().over("meter_id")) % 10.0 ** pl.col("register_digits"),
            integral=((flow * 60 / 3600).cum_sum() - (flow * 60 / 3600).first()).over("meter_id"),
        )
        assert turned.select((pl.col("since") - pl.col("integral")).abs().max()).item() < 2e-4
    used = whole.group_by("meter_id").agg((pl.col(name).last() != pl.col(name).first()).alias(name) for name in flows)
    assert used["import_kwh"].all()
    assert used["export_kvarh"].any()
    fed = labels.filter(pl.col("kind") == "reverse_power", pl.col("meter_id").is_in(used["meter_id"].implode()))
    assert set(used.filter("export_kwh")["meter_id"]) == set(fed["meter_id"])


def test_registers_count_on_through_a_gap(simulated: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    readings, labels = simulated
    gap = labels.filter(pl.col("kind") == "reading_missing").row(0, named=True)
    own = readings.filter(pl.col("meter_id") == gap["meter_id"])
    before = own.filter(pl.col("ts") == gap["started_at"]).row(0, named=True)
    after = own.filter(pl.col("ts") == gap["ended_at"] + timedelta(minutes=1)).row(0, named=True)
    hours = (after["ts"] - before["ts"]).total_seconds() / 3600
    mean_kw = (before["p_kw"] + after["p_kw"]) / 2
    assert after["import_kwh"] - before["import_kwh"] == pytest.approx(mean_kw * hours, rel=0.25)


def test_meter_side_values_say_the_same_as_primary_power(
    fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    readings, labels = simulated
    all_alike = ("over_voltage", "over_capacity", "low_power_factor", "reading_missing", "reading_late")
    gone_wrong = labels.filter(~pl.col("kind").is_in(all_alike))["meter_id"]
    known = readings.filter(~pl.col("meter_id").is_in(gone_wrong.implode())).join(fleet.meters, on="meter_id")
    per_phase = pl.sum_horizontal(pl.col(f"u{phase}_v") * pl.col(f"i{phase}_a") for phase in "abc")
    three_wire = 3**0.5 * (pl.col("ua_v") + pl.col("uc_v")) / 2 * (pl.col("ia_a") + pl.col("ic_a")) / 2
    secondary = pl.when(pl.col("wiring") == "3p3w").then(three_wire).otherwise(per_phase)
    apparent = (pl.col("p_kw").pow(2) + pl.col("q_kvar").pow(2)).sqrt()
    ratio = known.select(secondary * pl.col("pt_ratio") * pl.col("ct_ratio") / 1000 / apparent).to_series()
    assert ratio.is_between(0.99, 1.01).all()
    absent = {"3p4w": (), "3p3w": ("b",), "1p": ("b", "c")}
    for wiring, phases in absent.items():
        own = known.filter(pl.col("wiring") == wiring)
        assert own.height > 0
        for phase in "abc":
            present = own[f"u{phase}_v"].is_not_null() & own[f"i{phase}_a"].is_not_null()
            assert present.all() if phase not in phases else not present.any()


def test_the_registry_is_valid_and_mixed(fleet: Fleet, metering_settings: MeteringSettings) -> None:
    registry = parse_registry(fleet.customers.write_csv(), fleet.meters.write_csv(), metering_settings)
    assert registry.customers.equals(fleet.customers)
    assert registry.meters.equals(fleet.meters)
    assert (fleet.customers.schema, fleet.meters.schema) == (CUSTOMERS.schema, METERS.schema)
    assert set(fleet.meters["wiring"]) == {"3p4w", "3p3w", "1p"}
    assert fleet.customers["industry"].n_unique() == 10
    two = fleet.meters.group_by("customer_no").len().filter(pl.col("len") == 2)["customer_no"]
    assert set(two) == set(fleet.customers.filter("dual_supply")["customer_no"])
    assert fleet.customers["name"].n_unique() == fleet.customers.height


def test_loads_follow_shifts_and_weekends(fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    readings, labels = simulated
    struck = labels.filter(pl.col("kind").is_in(RULES))["meter_id"]
    local = (
        readings.filter(~pl.col("meter_id").is_in(struck.to_list()))
        .join(fleet.meters.join(fleet.customers, on="customer_no"), on="meter_id")
        .filter(pl.col("industry") == "machinery")
        .with_columns(pl.col("ts").dt.convert_time_zone("Asia/Shanghai"))
    )

    def mean(day: int, hour: int) -> float:
        return local.filter(pl.col("ts").dt.day() == day, pl.col("ts").dt.hour() == hour)["p_kw"].mean()

    assert mean(6, 10) > 2.5 * mean(6, 3)  # Friday's shift and night
    assert mean(6, 10) > 1.3 * mean(7, 10)  # Friday and Saturday
    assert mean(6, 10) > 1.2 * mean(6, 12)  # work and lunch


def test_the_same_seed_gives_the_same_whatever_the_slices(
    metering_settings: MeteringSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(15, metering_settings, 300)
    readings, labels = run_all(fleet, metering_settings, 1, 300)
    monkeypatch.setattr(run, "SLICE_ROWS", 90)
    again, labels_again = run_all(fleet_of(15, metering_settings, 300), metering_settings, 1, 300)
    assert readings.equals(again)
    assert labels.equals(labels_again)
    other, _ = run_all(fleet_of(15, metering_settings, 300, seed=4), metering_settings, 1, 300)
    assert not readings["p_kw"].equals(other["p_kw"])


def test_a_larger_fleet_begins_with_the_smaller(metering_settings: MeteringSettings) -> None:
    small, large = fleet_of(12, metering_settings), fleet_of(60, metering_settings)
    assert small.customers.equals(large.customers.head(12))
    assert small.traits.equals(large.traits.head(small.traits.height))


@pytest.mark.parametrize(("day", "quarters"), [(date(2026, 3, 29), 92), (date(2026, 10, 25), 100)])
def test_days_with_a_change_of_clocks_have_their_own_length(
    metering_settings: MeteringSettings, day: date, quarters: int
) -> None:
    settings = replace(metering_settings, timezone="Europe/Paris")
    fleet = fleet_of(5, settings, 900)
    assert sum(s.slots for s in simulate(fleet, day, 1, 900, settings)) == quarters * fleet.meters.height


def test_days_off_are_sundays_and_make_up_workdays_are_worked(metering_settings: MeteringSettings) -> None:
    """Labour Day 2026: Tuesday the 5th is off, Saturday the 9th is worked, Saturday the 16th is as any."""
    noons = [datetime(2026, 5, day, 4, tzinfo=UTC) for day in (5, 6, 9, 16)]
    instants = pl.Series("ts", noons, dtype=pl.Datetime("us", "UTC"))
    days = moments(instants, metering_settings.timezone, metering_settings.holidays, metering_settings.workdays)
    assert days["weekday"].to_list() == [7, 3, 1, 6]
