"""15-minute windows: by hand, against SQL that shares no code with them, with doubled, missing and huge readings."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from metering.load.windows import latest, windows
from metering.tables.lake import MOST_KW
from tests.metering.load.readings import T0, ZONE, Frame, Row, frame


def _one(rows: list[Row], four_meters: Frame, end: int = 15) -> Row:
    """The window that ends `end` minutes after T0."""
    found = windows(latest(frame(rows)), four_meters, ZONE).filter(pl.col("window_end") == T0 + timedelta(minutes=end))
    assert found.height == 1
    return found.row(0, named=True)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_window_by_hand(four_meters: Frame) -> None:
    rows: list[Row] = [
        {"minute": 0, "import_kwh": 100.0, "export_kwh": 7.0, "import_kvarh": 50.0, "export_kvarh": 3.0, "p_kw": 999.0},
        {"minute": 1, "p_kw": 60.0, "q_kvar": 30.0, "ua_v": 220.0, "ub_v": 236.0, "uc_v": 200.0},
        {"minute": 2, "p_kw": 120.0, "q_kvar": -60.0, "ua_v": 222.0, "ub_v": 100.0, "uc_v": 203.0},
        {
            "minute": 15, "p_kw": -30.0, "q_kvar": 0.0, "ua_v": None, "ub_v": 230.0, "uc_v": 230.0,
            "import_kwh": 103.0, "export_kwh": 7.5, "import_kvarh": 51.0, "export_kvarh": 3.25,
        },
    ]  # fmt: skip
    got = _one(rows, four_meters)
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


def test_a_window_holds_its_end_and_not_its_start(four_meters: Frame) -> None:
    ends = windows(latest(frame([{"minute": m} for m in (0, 0.001, 15, 15.001, 30)])), four_meters, ZONE)["window_end"]
    assert ends.to_list() == [T0 + timedelta(minutes=m) for m in (0, 15, 30)]


@pytest.mark.parametrize(("meter", "expected"), [(0, 15), (2, 3), (3, 1)])
def test_readings_due_follow_the_interval(four_meters: Frame, meter: int, expected: int) -> None:
    assert _one([{"minute": 15, "meter": meter}], four_meters)["n_expected"] == expected


def test_without_edges_energy_is_the_power_of_the_readings_present(four_meters: Frame) -> None:
    readings: list[Row] = [{"minute": m, "p_kw": 60.0, "import_kwh": 100.0 + m, "export_kwh": 0.0} for m in range(16)]
    assert _one(readings, four_meters)["energy_kwh"] == 15.0
    assert _one(readings, four_meters)["energy_basis"] == "registers"
    for gone in (0, 15):
        got = _one([r for r in readings if r["minute"] != gone], four_meters)
        assert got["energy_basis"] == "power"
        assert got["energy_kwh"] == pytest.approx(15.0 if gone == 0 else 14.0)
    assert _one([{**r, "import_kwh": None} for r in readings], four_meters)["energy_kwh"] == pytest.approx(15.0)
    five = [{"minute": m, "p_kw": 60.0, "meter": 2} for m in (5, 10)]
    assert _one(five, four_meters)["energy_kwh"] == pytest.approx(10.0)


def test_without_power_or_edges_there_is_no_energy(four_meters: Frame) -> None:
    got = _one([{"minute": 3, "ua_v": 220.0}], four_meters)
    assert (got["energy_kwh"], got["energy_basis"], got["q_import_kvarh"], got["pf"]) == (None, None, None, None)
    assert (got["n"], got["p_mean_kw"], got["ub_mean_v"]) == (1, None, None)


def test_an_export_register_that_is_lost_at_an_edge_is_not_taken_for_none(four_meters: Frame) -> None:
    edges: list[Row] = [{"minute": 0, "import_kwh": 0.0}, {"minute": 15, "import_kwh": 9.0, "p_kw": 4.0}]
    assert _one(edges, four_meters)["energy_kwh"] == 9.0  # a meter without one
    for at in (0, 1):
        one_side = [{**edge, "export_kwh": 1.0} if i == at else edge for i, edge in enumerate(edges)]
        assert _one(one_side, four_meters)["energy_basis"] == "power"


def test_registers_roll_over_and_restart(four_meters: Frame) -> None:
    def energy(start: float, end: float) -> Row:
        return _one([{"minute": 0, "import_kwh": start}, {"minute": 15, "import_kwh": end, "p_kw": 60.0}], four_meters)

    assert energy(999_990.0, 5.0)["energy_kwh"] == 15.0
    assert energy(500_000.0, 5.0)["energy_basis"] == "power"


def test_the_edge_is_the_same_meters_at_the_very_start(four_meters: Frame) -> None:
    other = [{"minute": 0, "import_kwh": 1.0, "meter": 0}, {"minute": 15, "import_kwh": 2.0, "meter": 1}]
    assert _one(other, four_meters)["energy_kwh"] is None
    for minute, known in ((-0.5, True), (-0.95, False)):  # of the slot that ends at the start, or of the one before it
        near = [{"minute": minute, "import_kwh": 1.0}, {"minute": 15, "import_kwh": 2.0}]
        assert (_one(near, four_meters)["energy_kwh"] == 1.0) is known


def test_of_two_readings_of_one_time_the_later_in_its_source_counts(four_meters: Frame) -> None:
    rows: list[Row] = [
        {"minute": 0, "import_kwh": 0.0}, {"minute": 15, "p_kw": 1.0, "import_kwh": 1.0},
        {"minute": 0, "import_kwh": 4.0}, {"minute": 15, "p_kw": 5.0, "import_kwh": 9.0},
    ]  # fmt: skip
    for shuffled in (frame(rows), frame(rows)[::-1]):
        got = windows(latest(shuffled), four_meters, ZONE).row(-1, named=True)
        assert (got["n"], got["p_mean_kw"], got["energy_kwh"]) == (1, 5.0, 5.0)


def test_within_one_message_the_later_row_counts(four_meters: Frame) -> None:
    rows: list[Row] = [
        {"minute": 15, "p_kw": float(i), "log_offset": offset, "source_row": row}
        for i, (offset, row) in enumerate([(7, 2), (7, 0), (6, 9), (7, 1)])
    ]
    assert _one(rows, four_meters)["p_mean_kw"] == 0.0


def test_the_later_null_counts_too(four_meters: Frame) -> None:
    assert _one([{"minute": 15, "p_kw": 5.0}, {"minute": 15}], four_meters)["p_mean_kw"] is None


def test_three_wire_meters_have_no_phase_b_and_single_phase_ones_only_a(four_meters: Frame) -> None:
    voltages = {"ua_v": 221.0, "ub_v": 1.0, "uc_v": 222.0}
    three_wire, single = (_one([{"minute": 15, "meter": m, **voltages}], four_meters) for m in (1, 2))
    names = ("ua_mean_v", "ub_mean_v", "uc_mean_v", "u_min_v", "u_max_v", "u_monitored_min")
    assert [three_wire[n] for n in names] == [221.0, None, 222.0, 221.0, 222.0, 2.0]
    assert [single[n] for n in names] == [221.0, None, None, 221.0, 221.0, 5.0]


def test_limits_themselves_are_not_outside(four_meters: Frame) -> None:
    names = ("u_lower_v", "u_upper_v", "u_band_lower_v", "u_band_upper_v")
    lower, upper, band_low, band_high = (four_meters[name][0] for name in names)
    at = _one([{"minute": 1, "ua_v": lower}, {"minute": 2, "ua_v": upper}], four_meters)
    assert (at["u_monitored_min"], at["u_over_min"], at["u_under_min"]) == (2.0, 0.0, 0.0)
    band = _one([{"minute": 1, "ua_v": band_low}, {"minute": 2, "ua_v": band_high}], four_meters)
    assert (band["u_monitored_min"], band["u_over_min"], band["u_under_min"]) == (2.0, 1.0, 1.0)
    out = _one(
        [{"minute": 1, "ua_v": math.nextafter(band_low, 0)}, {"minute": 2, "ua_v": band_high + 0.001}], four_meters
    )
    assert out["u_monitored_min"] == 0.0


def test_results_that_are_not_finite_are_null(four_meters: Frame) -> None:
    huge: list[Row] = [{"minute": m, "p_kw": 1.7e308, "q_kvar": -1.7e308, "ua_v": 1.7e308} for m in range(1, 16)]
    got = _one(huge, four_meters)
    assert (got["p_mean_kw"], got["energy_kwh"], got["q_export_kvarh"], got["ua_mean_v"]) == (None, None, None, None)
    assert (got["p_max_kw"], got["u_max_v"], got["n"]) == (None, None, 15)
    assert "voltage of 1.7e+308 V" in got["reason"]
    assert all(math.isfinite(v) for v in got.values() if isinstance(v, float))


@pytest.mark.parametrize("p_kw", [1.7e298, -1.7e298, MOST_KW * 1.01, 2 * 7920.001, -2 * 7920.001])
def test_a_power_that_no_meter_can_have_is_told_and_not_counted(four_meters: Frame, p_kw: float) -> None:
    """The meter's rating is 3 x 220 V x 6 A x 2000 = 7920 kW."""
    got = _one([{"minute": m, "p_kw": p_kw, "q_kvar": p_kw} for m in range(1, 16)], four_meters)
    names = ("p_mean_kw", "q_mean_kvar", "pf", "energy_kwh", "energy_basis", "q_import_kvarh", "q_export_kvarh")
    assert {got[name] for name in (*names, "p_max_kw", "p_min_kw")} == {None}
    assert got["n"] == 15
    assert got["reason"].startswith("active power of ")
    assert "reactive power of " in got["reason"]
    large = _one([{"minute": m, "p_kw": 2 * 7920.0} for m in range(1, 16)], four_meters)
    assert (large["energy_kwh"], large["reason"]) == (pytest.approx(7920.0 / 2), None)


def test_an_energy_that_is_null_has_no_basis(four_meters: Frame) -> None:
    got = _one([{"minute": m, "p_kw": 1.7e308} for m in range(1, 16)], four_meters)
    assert (got["energy_kwh"], got["energy_basis"]) == (None, None)


def test_registers_too_far_apart_leave_energy_to_power(four_meters: Frame) -> None:
    edges: list[Row] = [{"minute": 0, "import_kwh": -1.7e308}, {"minute": 15, "import_kwh": 1.7e308, "p_kw": 60.0}]
    got = _one(edges, four_meters)
    assert (got["energy_kwh"], got["energy_basis"]) == (1.0, "power")


def test_zero_has_no_sign(four_meters: Frame) -> None:
    got = _one([{"minute": 15, "p_kw": -0.0, "q_kvar": -0.0}], four_meters)
    for name in ("p_mean_kw", "energy_kwh", "q_import_kvarh", "q_export_kvarh"):
        assert got[name] == 0.0
    assert got["pf"] is None
    assert math.copysign(1, got["q_export_kvarh"]) == 1.0


def test_a_meter_that_only_counts_what_is_drawn_is_not_implausible_for_what_is_fed_back(four_meters: Frame) -> None:
    def energy(powers: list[float], used: float, **more: float) -> Row:
        edge = {"minute": 0, "p_kw": 0.0, "import_kwh": 100.0, **more}
        rows = [edge, *({"minute": n, "p_kw": p} for n, p in enumerate(powers, 1))]
        return _one([*rows[:-1], {**rows[-1], "import_kwh": 100.0 + used, **more}], four_meters)

    mixed = [1200.0] * 8 + [-1000.0] * 7
    assert (energy(mixed, 160.0)["energy_kwh"], energy(mixed, 160.0)["reason"]) == (160.0, None)
    assert energy([-600.0] * 15, 0.0)["energy_kwh"] == 0.0
    assert energy(mixed, 160.0, export_kwh=5.0)["energy_basis"] == "power"  # a meter that counts both
    assert energy([120.0] * 15, 100.0)["energy_basis"] == "power"


def test_a_reading_of_nothing_but_zeros_tells_nothing(four_meters: Frame) -> None:
    zeros = {"p_kw": 0.0, "q_kvar": 0.0, "import_kwh": 0.0, "ua_v": 0.0, "ub_v": 0.0, "uc_v": 0.0}
    well = {"p_kw": 400.0, "q_kvar": 50.0, "import_kwh": 5000.0, "ua_v": 220.0, "ub_v": 220.0, "uc_v": 220.0}
    rows = [{"minute": 0, "meter": 3, **well}, {"minute": 15, "meter": 3, **zeros}]
    window = _one(rows, four_meters)
    assert (window["energy_kwh"], window["energy_basis"], window["p_mean_kw"]) == (None, None, None)
    assert window["u_monitored_min"] == 0
    assert "nothing but zeros" in window["reason"]
    dark = {**zeros, "import_kwh": 5000.0}  # a power failure is none of that
    assert _one([rows[0], {"minute": 15, "meter": 3, **dark}], four_meters)["energy_kwh"] == 0.0


def test_a_span_of_many_years_keeps_order(four_meters: Frame) -> None:
    rows = [{"minute": m, "p_kw": float(i)} for i, m in enumerate((60 * 24 * 365 * 50, 15, 15))]
    got = windows(latest(frame(rows)), four_meters, ZONE)
    assert got["p_mean_kw"].to_list() == [2.0, 0.0]


def test_nothing_gives_nothing(four_meters: Frame) -> None:
    assert windows(latest(frame([])), four_meters, ZONE).is_empty()


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
