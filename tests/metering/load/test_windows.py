"""15-minute windows: by hand, against SQL that shares no code with them, with doubled, missing and huge readings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.load.windows import latest, windows
from metering.tables.lake import MEASURED, MOST_KW, REGISTERS
from metering.tables.schema import TIMESTAMP

Frame = pl.DataFrame
Row = dict[str, Any]

ZONE = "Asia/Shanghai"
T0 = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64),
        "log_offset": pl.Int64, "source_row": pl.Int32,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    """Four meters: 1-min 3p4w, 1-min 3p3w, 5-min 1p and 15-min 3p4w; Un 220 V, registers of 6 digits."""
    kinds = {"A": ("3p4w", 60), "B": ("3p3w", 60), "C": ("1p", 300), "D": ("3p4w", 900)}
    meters = {m: {"customer_no": "C1", "wiring": wiring, "interval_s": s} for m, (wiring, s) in kinds.items()}
    return make_meter_versions(make_customers({"C1": {}}), meters)


def _frame(rows: list[Row]) -> Frame:
    """Readings from {minute, meter (0..3), ...}; the offset is the place in the list."""
    full = [
        {
            **dict.fromkeys(MEASURED),
            "meter": row.get("meter", 0),
            "version": row.get("meter", 0),
            "ts": T0 + timedelta(minutes=row["minute"]),
            "log_offset": number,
            "source_row": 0,
            **{name: value for name, value in row.items() if name not in ("minute", "meter")},
        }
        for number, row in enumerate(rows)
    ]
    return pl.DataFrame(full, schema=SCHEMA)


def _one(rows: list[Row], meter_versions: Frame, end: int = 15) -> Row:
    """The window that ends `end` minutes after T0."""
    found = windows(latest(_frame(rows)), meter_versions, ZONE).filter(
        pl.col("window_end") == T0 + timedelta(minutes=end)
    )
    assert found.height == 1
    return found.row(0, named=True)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_window_by_hand(meter_versions: Frame) -> None:
    rows: list[Row] = [
        {"minute": 0, "import_kwh": 100.0, "export_kwh": 7.0, "import_kvarh": 50.0, "export_kvarh": 3.0, "p_kw": 999.0},
        {"minute": 1, "p_kw": 60.0, "q_kvar": 30.0, "ua_v": 220.0, "ub_v": 236.0, "uc_v": 200.0},
        {"minute": 2, "p_kw": 120.0, "q_kvar": -60.0, "ua_v": 222.0, "ub_v": 100.0, "uc_v": 203.0},
        {
            "minute": 15, "p_kw": -30.0, "q_kvar": 0.0, "ua_v": None, "ub_v": 230.0, "uc_v": 230.0,
            "import_kwh": 103.0, "export_kwh": 7.5, "import_kvarh": 51.0, "export_kvarh": 3.25,
        },
    ]  # fmt: skip
    got = _one(rows, meter_versions)
    expected = {
        "meter_id": "A", "customer_no": "C1", "n": 3, "n_expected": 15,
        "p_mean_kw": 50.0, "p_max_kw": 120.0, "p_min_kw": -30.0, "q_mean_kvar": -10.0,
        "energy_kwh": 2.5, "energy_basis": "registers", "import_kvarh": 1.0, "export_kvarh": 0.25,
        "q_import_kvarh": 0.5, "q_export_kvarh": 1.0,
        "ua_mean_v": 221.0, "u_min_v": 100.0, "u_max_v": 236.0,
        # 8 voltages, of which 100 V is under 0.70 Un: 7 monitored; 236 is over 1.07 Un, 200 and 203 under 0.93 Un.
        "u_monitored_min": 7.0, "u_over_min": 1.0, "u_under_min": 2.0,
    }  # fmt: skip
    assert {name: got[name] for name in expected} == expected
    assert got["u_dev_min_pct"] == pytest.approx((100 - 220) / 220 * 100)
    assert got["u_dev_max_pct"] == pytest.approx((236 - 220) / 220 * 100)
    assert got["pf"] == pytest.approx(50 / math.hypot(50, 10))
    assert got["uc_mean_v"] == pytest.approx(211.0)


def test_a_window_holds_its_end_and_not_its_start(meter_versions: Frame) -> None:
    ends = windows(latest(_frame([{"minute": m} for m in (0, 0.001, 15, 15.001, 30)])), meter_versions, ZONE)[
        "window_end"
    ]
    assert ends.to_list() == [T0 + timedelta(minutes=m) for m in (0, 15, 30)]


@pytest.mark.parametrize(("meter", "expected"), [(0, 15), (2, 3), (3, 1)])
def test_readings_due_follow_the_interval(meter_versions: Frame, meter: int, expected: int) -> None:
    assert _one([{"minute": 15, "meter": meter}], meter_versions)["n_expected"] == expected


def test_without_edges_energy_is_the_power_of_the_readings_present(meter_versions: Frame) -> None:
    readings: list[Row] = [{"minute": m, "p_kw": 60.0, "import_kwh": 100.0 + m, "export_kwh": 0.0} for m in range(16)]
    assert _one(readings, meter_versions)["energy_kwh"] == 15.0
    assert _one(readings, meter_versions)["energy_basis"] == "registers"
    for gone in (0, 15):
        got = _one([r for r in readings if r["minute"] != gone], meter_versions)
        assert got["energy_basis"] == "power"
        assert got["energy_kwh"] == pytest.approx(15.0 if gone == 0 else 14.0)
    assert _one([{**r, "import_kwh": None} for r in readings], meter_versions)["energy_kwh"] == pytest.approx(15.0)
    five = [{"minute": m, "p_kw": 60.0, "meter": 2} for m in (5, 10)]
    assert _one(five, meter_versions)["energy_kwh"] == pytest.approx(10.0)


def test_without_power_or_edges_there_is_no_energy(meter_versions: Frame) -> None:
    got = _one([{"minute": 3, "ua_v": 220.0}], meter_versions)
    assert (got["energy_kwh"], got["energy_basis"], got["q_import_kvarh"], got["pf"]) == (None, None, None, None)
    assert (got["n"], got["p_mean_kw"], got["ub_mean_v"]) == (1, None, None)


def test_an_export_register_that_is_lost_at_an_edge_is_not_taken_for_none(meter_versions: Frame) -> None:
    edges: list[Row] = [{"minute": 0, "import_kwh": 0.0}, {"minute": 15, "import_kwh": 9.0, "p_kw": 4.0}]
    assert _one(edges, meter_versions)["energy_kwh"] == 9.0  # a meter without one
    for at in (0, 1):
        one_side = [{**edge, "export_kwh": 1.0} if i == at else edge for i, edge in enumerate(edges)]
        assert _one(one_side, meter_versions)["energy_basis"] == "power"


def test_registers_roll_over_and_restart(meter_versions: Frame) -> None:
    def energy(start: float, end: float) -> Row:
        return _one(
            [{"minute": 0, "import_kwh": start}, {"minute": 15, "import_kwh": end, "p_kw": 60.0}], meter_versions
        )

    assert energy(999_990.0, 5.0)["energy_kwh"] == 15.0
    assert energy(500_000.0, 5.0)["energy_basis"] == "power"


def test_the_edge_is_the_same_meters_at_the_very_start(meter_versions: Frame) -> None:
    other = [{"minute": 0, "import_kwh": 1.0, "meter": 0}, {"minute": 15, "import_kwh": 2.0, "meter": 1}]
    assert _one(other, meter_versions)["energy_kwh"] is None
    for minute, known in ((-0.5, True), (-0.95, False)):  # of the slot that ends at the start, or of the one before it
        near = [{"minute": minute, "import_kwh": 1.0}, {"minute": 15, "import_kwh": 2.0}]
        assert (_one(near, meter_versions)["energy_kwh"] == 1.0) is known


def test_of_two_readings_of_one_time_the_later_in_its_source_counts(meter_versions: Frame) -> None:
    rows: list[Row] = [
        {"minute": 0, "import_kwh": 0.0}, {"minute": 15, "p_kw": 1.0, "import_kwh": 1.0},
        {"minute": 0, "import_kwh": 4.0}, {"minute": 15, "p_kw": 5.0, "import_kwh": 9.0},
    ]  # fmt: skip
    for shuffled in (_frame(rows), _frame(rows)[::-1]):
        got = windows(latest(shuffled), meter_versions, ZONE).row(-1, named=True)
        assert (got["n"], got["p_mean_kw"], got["energy_kwh"]) == (1, 5.0, 5.0)


def test_within_one_message_the_later_row_counts(meter_versions: Frame) -> None:
    rows: list[Row] = [
        {"minute": 15, "p_kw": float(i), "log_offset": offset, "source_row": row}
        for i, (offset, row) in enumerate([(7, 2), (7, 0), (6, 9), (7, 1)])
    ]
    assert _one(rows, meter_versions)["p_mean_kw"] == 0.0


def test_the_later_null_counts_too(meter_versions: Frame) -> None:
    assert _one([{"minute": 15, "p_kw": 5.0}, {"minute": 15}], meter_versions)["p_mean_kw"] is None


def test_three_wire_meters_have_no_phase_b_and_single_phase_ones_only_a(meter_versions: Frame) -> None:
    voltages = {"ua_v": 221.0, "ub_v": 1.0, "uc_v": 222.0}
    three_wire, single = (_one([{"minute": 15, "meter": m, **voltages}], meter_versions) for m in (1, 2))
    names = ("ua_mean_v", "ub_mean_v", "uc_mean_v", "u_min_v", "u_max_v", "u_monitored_min")
    assert [three_wire[n] for n in names] == [221.0, None, 222.0, 221.0, 222.0, 2.0]
    assert [single[n] for n in names] == [221.0, None, None, 221.0, 221.0, 5.0]


def test_limits_themselves_are_not_outside(meter_versions: Frame) -> None:
    names = ("u_lower_v", "u_upper_v", "u_band_lower_v", "u_band_upper_v")
    lower, upper, band_low, band_high = (meter_versions[name][0] for name in names)
    at = _one([{"minute": 1, "ua_v": lower}, {"minute": 2, "ua_v": upper}], meter_versions)
    assert (at["u_monitored_min"], at["u_over_min"], at["u_under_min"]) == (2.0, 0.0, 0.0)
    band = _one([{"minute": 1, "ua_v": band_low}, {"minute": 2, "ua_v": band_high}], meter_versions)
    assert (band["u_monitored_min"], band["u_over_min"], band["u_under_min"]) == (2.0, 1.0, 1.0)
    out = _one(
        [{"minute": 1, "ua_v": math.nextafter(band_low, 0)}, {"minute": 2, "ua_v": band_high + 0.001}], meter_versions
    )
    assert out["u_monitored_min"] == 0.0


def test_results_that_are_not_finite_are_null(meter_versions: Frame) -> None:
    huge: list[Row] = [{"minute": m, "p_kw": 1.7e308, "q_kvar": -1.7e308, "ua_v": 1.7e308} for m in range(1, 16)]
    got = _one(huge, meter_versions)
    assert (got["p_mean_kw"], got["energy_kwh"], got["q_export_kvarh"], got["ua_mean_v"]) == (None, None, None, None)
    assert (got["p_max_kw"], got["u_max_v"], got["n"]) == (None, None, 15)
    assert "voltage of 1.7e+308 V" in got["reason"]
    assert all(math.isfinite(v) for v in got.values() if isinstance(v, float))


@pytest.mark.parametrize("p_kw", [1.7e298, -1.7e298, MOST_KW * 1.01, 2 * 7920.001, -2 * 7920.001])
def test_a_power_that_no_meter_can_have_is_told_and_not_counted(meter_versions: Frame, p_kw: float) -> None:
    """The meter's rating is 3 x 220 V x 6 A x 2000 = 7920 kW."""
    got = _one([{"minute": m, "p_kw": p_kw, "q_kvar": p_kw} for m in range(1, 16)], meter_versions)
    names = ("p_mean_kw", "q_mean_kvar", "pf", "energy_kwh", "energy_basis", "q_import_kvarh", "q_export_kvarh")
    assert {got[name] for name in (*names, "p_max_kw", "p_min_kw")} == {None}
    assert got["n"] == 15
    assert got["reason"].startswith("active power of ")
    assert "reactive power of " in got["reason"]
    large = _one([{"minute": m, "p_kw": 2 * 7920.0} for m in range(1, 16)], meter_versions)
    assert (large["energy_kwh"], large["reason"]) == (pytest.approx(7920.0 / 2), None)


def test_an_energy_that_is_null_has_no_basis(meter_versions: Frame) -> None:
    got = _one([{"minute": m, "p_kw": 1.7e308} for m in range(1, 16)], meter_versions)
    assert (got["energy_kwh"], got["energy_basis"]) == (None, None)


def test_registers_too_far_apart_leave_energy_to_power(meter_versions: Frame) -> None:
    edges: list[Row] = [{"minute": 0, "import_kwh": -1.7e308}, {"minute": 15, "import_kwh": 1.7e308, "p_kw": 60.0}]
    got = _one(edges, meter_versions)
    assert (got["energy_kwh"], got["energy_basis"]) == (1.0, "power")


def test_zero_has_no_sign(meter_versions: Frame) -> None:
    got = _one([{"minute": 15, "p_kw": -0.0, "q_kvar": -0.0}], meter_versions)
    for name in ("p_mean_kw", "energy_kwh", "q_import_kvarh", "q_export_kvarh"):
        assert got[name] == 0.0
    assert got["pf"] is None
    assert math.copysign(1, got["q_export_kvarh"]) == 1.0


def test_a_meter_that_only_counts_what_is_drawn_is_not_implausible_for_what_is_fed_back(meter_versions: Frame) -> None:
    def energy(powers: list[float], used: float, **more: float) -> Row:
        edge = {"minute": 0, "p_kw": 0.0, "import_kwh": 100.0, **more}
        rows = [edge, *({"minute": n, "p_kw": p} for n, p in enumerate(powers, 1))]
        return _one([*rows[:-1], {**rows[-1], "import_kwh": 100.0 + used, **more}], meter_versions)

    mixed = [1200.0] * 8 + [-1000.0] * 7
    assert (energy(mixed, 160.0)["energy_kwh"], energy(mixed, 160.0)["reason"]) == (160.0, None)
    assert energy([-600.0] * 15, 0.0)["energy_kwh"] == 0.0
    assert energy(mixed, 160.0, export_kwh=5.0)["energy_basis"] == "power"  # a meter that counts both
    assert energy([120.0] * 15, 100.0)["energy_basis"] == "power"


def test_a_reading_of_nothing_but_zeros_tells_nothing(meter_versions: Frame) -> None:
    zeros = {"p_kw": 0.0, "q_kvar": 0.0, "import_kwh": 0.0, "ua_v": 0.0, "ub_v": 0.0, "uc_v": 0.0}
    well = {"p_kw": 400.0, "q_kvar": 50.0, "import_kwh": 5000.0, "ua_v": 220.0, "ub_v": 220.0, "uc_v": 220.0}
    rows = [{"minute": 0, "meter": 3, **well}, {"minute": 15, "meter": 3, **zeros}]
    window = _one(rows, meter_versions)
    assert (window["energy_kwh"], window["energy_basis"], window["p_mean_kw"]) == (None, None, None)
    assert window["u_monitored_min"] == 0
    assert "nothing but zeros" in window["reason"]
    dark = {**zeros, "import_kwh": 5000.0}  # a power failure is none of that
    assert _one([rows[0], {"minute": 15, "meter": 3, **dark}], meter_versions)["energy_kwh"] == 0.0


def test_a_span_of_many_years_keeps_order(meter_versions: Frame) -> None:
    rows = [{"minute": m, "p_kw": float(i)} for i, m in enumerate((60 * 24 * 365 * 50, 15, 15))]
    got = windows(latest(_frame(rows)), meter_versions, ZONE)
    assert got["p_mean_kw"].to_list() == [2.0, 0.0]


def test_nothing_gives_nothing(meter_versions: Frame) -> None:
    assert windows(latest(_frame([])), meter_versions, ZONE).is_empty()


def test_snapshots_of_power_say_nothing_of_the_energy_between_them(
    make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]
) -> None:
    rows: list[Row] = [
        {"minute": 0, "import_kwh": 100.0, "p_kw": 999.0},
        {"minute": 15, "import_kwh": 103.0, "p_kw": 9e3},
    ]
    customers = make_customers({"C1": {}})

    def window(**given: str) -> Row:
        return _one(rows, make_meter_versions(customers, {"A": {"customer_no": "C1", "interval_s": 900, **given}}))

    snapshot, mean = window(sampling="snapshot"), window()
    assert (snapshot["energy_kwh"], snapshot["energy_basis"]) == (3.0, "registers")
    assert (mean["energy_kwh"], mean["energy_basis"]) == (2250.0, "power")


# --- an independent oracle ------------------------------------------------------------------------------------------

ORACLE = """
with r as (  -- the later of two readings of one time
  select * from readings
  qualify row_number() over (partition by meter, ts order by log_offset desc, source_row desc) = 1
), e as (
  select r.*, f.*, epoch_us(ts) as us, (ceil(epoch_us(ts) / 9e8) * 900000000)::bigint as w,
    case when wiring = '1p' then 1 when wiring = '3p3w' then 2 else 3 end as phases,
    case when wiring = '1p' then [ua_v] when wiring = '3p3w' then [ua_v, uc_v] else [ua_v, ub_v, uc_v] end as u
  from r join meter_versions f on f.row = r.version
), g as (
  select meter, w, count(*) as n, count(p_kw) as p_n, ceil(900 / any_value(interval_s)) as n_expected,
    avg(p_kw) as p_mean, max(p_kw) as p_max, min(p_kw) as p_min, avg(q_kvar) as q_mean,
    sum(p_kw) * any_value(interval_s) / 3600 as p_kwh,
    sum(greatest(q_kvar, 0)) filter (q_kvar is not null) * any_value(interval_s) / 3600 as q_import,
    sum(greatest(-q_kvar, 0)) filter (q_kvar is not null) * any_value(interval_s) / 3600 as q_export,
    avg(u[1]) as ua, avg(case wiring when '3p4w' then ub_v end) as ub,
    avg(case when wiring <> '1p' then uc_v end) as uc,
    min(list_min(u)) as u_min, max(list_max(u)) as u_max,
    sum(len(list_filter(u, lambda x : x between 154 and 264))) * any_value(interval_s) / 60 as monitored,
    sum(len(list_filter(u, lambda x : x > u_upper_v and x <= 264))) * any_value(interval_s) / 60 as over,
    sum(len(list_filter(u, lambda x : x < u_lower_v and x >= 154))) * any_value(interval_s) / 60 as under
  from e group by meter, w
), edges as (
  select g.*, case when g.p_n = g.n_expected then g.p_kwh end as whole_kwh,
    s.import_kwh as ie0, t.import_kwh as ie1, s.export_kwh as ee0, t.export_kwh as ee1,
    s.import_kvarh as iq0, t.import_kvarh as iq1, s.export_kvarh as eq0, t.export_kvarh as eq1
  from g left join r s on s.meter = g.meter and epoch_us(s.ts) = g.w - 900000000
         left join r t on t.meter = g.meter and epoch_us(t.ts) = g.w
), d as (
  select *, step(ie0, ie1) as ie, step(ee0, ee1) as ee, step(iq0, iq1) as iq, step(eq0, eq1) as eq from edges
), net as (  -- 20 kWh are one count of the register: 0.01 kWh x 2000
  select *, case when abs(kwh - whole_kwh) > greatest(0.2 * abs(whole_kwh), 20)
      and not coalesce(ee0 is null and ee1 is null and kwh > whole_kwh and p_min < 0, false)
    then null else kwh end as registered
  from (select *, ie - case when ee0 is null and ee1 is null then 0 else ee end as kwh from d)
)
select meter, w, n, n_expected::int, p_mean, p_max, p_min, q_mean,
  coalesce(registered, p_kwh) as energy,
  case when registered is not null then 'registers' when p_kwh is not null then 'power' end as basis,
  iq, eq, q_import, q_export, ua, ub, uc, u_min, u_max, monitored, over, under,
  case when p_mean <> 0 or q_mean <> 0 then abs(p_mean) / sqrt(p_mean ** 2 + q_mean ** 2) end as pf
from net order by meter, w
"""
ON_BY = """
create macro on_by(a, b) as case when b >= a then b - a when b - a + 1e6 <= 1e5 then b - a + 1e6 end
"""
STEP = """
create macro step(a, b) as case when on_by(a, b) <= 1.2 * 7920 / 4 and greatest(a, b) < 1e6 then on_by(a, b) end
"""
COLUMNS = (
    "n", "n_expected", "p_mean_kw", "p_max_kw", "p_min_kw", "q_mean_kvar", "energy_kwh", "energy_basis", "import_kvarh",
    "export_kvarh", "q_import_kvarh", "q_export_kvarh", "ua_mean_v", "ub_mean_v", "uc_mean_v", "u_min_v", "u_max_v",
    "u_monitored_min", "u_over_min", "u_under_min", "pf",
)  # fmt: skip


def _random_rows(seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows: list[Row] = []
    for meter, step in enumerate((1, 1, 5, 15)):
        registers = {name: rng.choice((0.0, 999_980.0, 400_000.0)) for name in REGISTERS}
        for minute in range(0, 240, step):
            for name in REGISTERS:
                registers[name] = (registers[name] + rng.random() * step * (2 if name == "import_kwh" else 1)) % 1e6
                if rng.random() < 0.01:
                    registers[name] = rng.choice((0.0, 990_000.0, 2e6))
            if rng.random() < 0.1:
                continue
            values = {
                "p_kw": rng.uniform(-50, 170), "q_kvar": rng.uniform(-100, 100), **registers,
                **{u: rng.choice((rng.uniform(195, 245), 100.0, 300.0, 220.0)) for u in ("ua_v", "ub_v", "uc_v")},
            }  # fmt: skip
            holes = {name for name in values if rng.random() < 0.04}
            row = {"minute": minute, "meter": meter, **{n: None if n in holes else v for n, v in values.items()}}
            rows.append(row)
            if rng.random() < 0.05:
                rows.append({**row, "p_kw": rng.uniform(0, 10), "import_kwh": None})
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_windows_equal_sql(meter_versions: Frame, sql: Callable[..., list[tuple[Any, ...]]], seed: int) -> None:
    readings = _frame(_random_rows(seed))
    got = windows(latest(readings), meter_versions, ZONE)
    sql(ON_BY)
    sql(STEP)
    known = meter_versions.select("wiring", "interval_s", "u_lower_v", "u_upper_v").with_row_index("row")
    expected = sql(ORACLE, readings=readings, meter_versions=known)
    assert got.select("meter", pl.col("window_end").to_physical()).rows() == [row[:2] for row in expected]
    assert {"registers", "power"} <= set(got["energy_basis"])
    for at, name in enumerate(COLUMNS, start=2):
        ours, theirs = got[name].to_list(), [row[at] for row in expected]
        assert ours == [
            v if v is None or isinstance(v, str) else pytest.approx(v, rel=1e-9, abs=1e-9) for v in theirs
        ], name


# --- determinism ----------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_neither_order_nor_cut_nor_other_meters_change_a_window(
    meter_versions: Frame, seed: int, data: st.DataObject
) -> None:
    readings = _frame(_random_rows(seed))
    whole = windows(latest(readings), meter_versions, ZONE)
    shuffled = readings.sample(fraction=1, shuffle=True, seed=seed)
    cut = data.draw(st.integers(0, shuffled.height))
    pieces = pl.concat([shuffled[cut:], shuffled[:cut]], rechunk=False)
    assert windows(latest(pieces), meter_versions, ZONE).equals(whole)
    alone = [windows(latest(readings.filter(pl.col("meter") == meter)), meter_versions, ZONE) for meter in range(4)]
    assert pl.concat(alone).equals(whole)


def test_latest_is_sorted_and_keeps_every_column(meter_versions: Frame) -> None:
    readings = _frame(_random_rows(5))
    kept = latest(readings)
    assert kept.columns == readings.columns
    assert kept.select("meter", "ts").equals(kept.select("meter", "ts").unique().sort("meter", "ts"))
    assert latest(kept).equals(kept)


def test_of_two_readings_of_a_time_the_later_in_its_partition_counts_and_of_two_partitions_the_later_logged() -> None:
    places = [(0, 900, 10), (0, 901, 20), (1, 3, 30), (1, 2, 40)]  # partition, offset, minute it was logged at
    rows = _frame([{"minute": 1, "p_kw": float(n), "log_offset": at} for n, (_, at, _) in enumerate(places)])
    rows = rows.with_columns(
        pl.Series("source_partition", [partition for partition, _, _ in places], pl.Int32),
        logged_at=pl.Series([T0 + timedelta(minutes=minute) for _, _, minute in places], dtype=SCHEMA["ts"]),
    )
    assert latest(rows)["p_kw"].to_list() == [2.0]  # not offset 901, nor what was logged last but came before
    assert latest(rows.filter(pl.col("source_partition") == 0))["p_kw"].to_list() == [1.0]
    assert latest(rows.with_columns(logged_at=pl.lit(T0)))["p_kw"].to_list() == [2.0]  # the higher partition
