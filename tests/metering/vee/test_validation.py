"""Every validation: what it finds, what it lets pass, and that its row of the settings decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.tables.batch import REGISTER_ENDS
from metering.tables.warehouse import METER_DAILY
from metering.vee.findings import FINDINGS, MeterDay
from metering.vee.meter_curve import START
from metering.vee.validation import CHECKS, findings_of_day, findings_of_readings, repeated

DAY = date(2026, 7, 1)
MIDNIGHT = datetime(2026, 6, 30, 16, tzinfo=UTC)
METER = "371502048813"
POINTS = {
    "meter_id": pl.String, "window_end": pl.Datetime("us", "UTC"), "p_kw": pl.Float64, "import_kwh": pl.Float64,
    "export_kwh": pl.Float64, "import_kvarh": pl.Float64, "export_kvarh": pl.Float64,
    **dict.fromkeys(REGISTER_ENDS, pl.Float64), "chain": pl.UInt32, "n": pl.Int32, "n_expected": pl.Int32,
    "window_reason": pl.String, "quarter": pl.Int64, "due_min": pl.Float64, "covered_min": pl.Float64,
    "p_mean_kw": pl.Float64, "register_modulus": pl.Float64, "step_most_kw": pl.Float64, "step_tolerance": pl.Float64,
    "step_count_kwh": pl.Float64,
}  # fmt: skip


def points(p_kw: list[float | None], meter: str = METER, **columns: Any) -> pl.DataFrame:
    """A meter's quarter-hours; columns that are lists hold one value for each."""
    count = len(p_kw)
    given = {
        "meter_id": meter, "p_kw": p_kw,
        "window_end": [MIDNIGHT + timedelta(minutes=15 * (k + 1)) for k in range(count)],
        "import_kwh": [None if p is None else p / 4 for p in p_kw], "export_kwh": 0.0, "chain": 0, "n": 1,
        "n_expected": 1, "quarter": [*range(count)], "due_min": 15.0, "covered_min": 15.0, "register_modulus": 1e6,
        "step_most_kw": 1e4, "step_tolerance": 0.2, "step_count_kwh": 1.0, **columns,
    }  # fmt: skip
    data = {k: v if isinstance(v, list) else [v] * count for k, v in given.items()}
    return pl.DataFrame({name: data.get(name, [None] * count) for name in POINTS}, schema=POINTS)


def past(kwh: list[float], meter: str = METER, **columns: Any) -> pl.DataFrame:
    """Days before, the newest last."""
    dates = [DAY - timedelta(days=n) for n in range(len(kwh), 0, -1)]
    frame = pl.DataFrame({"date": dates, "energy_kwh": kwh})
    given = {"points": 96, "known_points": 96, "repeated_points": 1, "zero_days": 0, "export_kwh": 0.0, **columns}
    return METER_DAILY.conform(frame, meter_id=meter, customer_no="A", **given)


def day_of(of_day: pl.DataFrame, history: pl.DataFrame | None = None, **start: float) -> MeterDay:
    row = {"meter_id": METER, "window_end": MIDNIGHT, "chain": 0, **start}
    at_start = pl.DataFrame([{name: row.get(name) for name in START.names()}], schema=START)
    return MeterDay(
        day=DAY,
        points=of_day,
        start=at_start if start else at_start.clear(),
        meters=of_day.select("meter_id").unique().with_columns(multiplier=pl.lit(20.0), register_modulus=pl.lit(1e6)),
        history=METER_DAILY.empty() if history is None else history,
        min_history_days=5,
        alike=frozenset(DAY - timedelta(days=n) for n in range(1, 40)),
    )


@pytest.fixture
def found(metering_settings: MeteringSettings) -> Any:
    """Rule, time (index of the quarter-hour; None: the day) and detail of what the product's own rows find."""

    def find(day: MeterDay, **thresholds: float) -> list[tuple[str, int | None, str]]:
        rows = {
            name: replace(row, threshold=thresholds.get(name, row.threshold))
            for name, row in metering_settings.vee.validation.items()
        }
        findings = findings_of_day(day, replace(metering_settings.vee, validation=rows))
        assert findings.schema == FINDINGS
        assert set(findings["meter_id"]) <= set(day.points["meter_id"])
        index = ((pl.col("window_end") - MIDNIGHT).dt.total_minutes() // 15 - 1).alias("k")
        return sorted(findings.select("rule", index, "detail").rows(), key=str)

    return find


def test_a_plain_day_passes_every_check(found: Any) -> None:
    kwh = [100.0 + k % 9 for k in range(96)]
    shown = [5000.0 + sum(kwh[: k + 1]) for k in range(96)]
    plain = points([4 * e for e in kwh], import_kwh=kwh, import_kwh_end=shown)
    history = past([sum(kwh) * f for f in (0.9, 1.1, 1.0, 0.8, 1.2, 1.0)])
    assert found(day_of(plain, history, import_kwh_end=5000.0)) == []


@pytest.mark.parametrize(("peak", "hit"), [(181.0, True), (180.0, False)])
def test_spike_is_the_highest_against_the_third_highest(found: Any, peak: float, hit: bool) -> None:
    p_kw: list[float | None] = [50.0] * 96
    p_kw[10], p_kw[20], p_kw[30] = 100.0, peak, 170.0
    assert [(rule, k) for rule, k, _ in found(day_of(points(p_kw)))] == ([("spike", 20)] if hit else [])


@given(p_kw=st.lists(st.floats(0, 1e6), min_size=3, max_size=96))
def test_spike_against_plain_sorting(metering_settings: MeteringSettings, p_kw: list[float]) -> None:
    row = metering_settings.vee.validation["spike"]
    ordered = sorted((p for p in p_kw if p > 0), reverse=True)
    expected = len(ordered) >= 3 and ordered[0] / ordered[2] * 100 > row.threshold
    hits = CHECKS["spike"](day_of(points([*p_kw])), row)
    assert hits.height == expected
    if expected:
        assert hits["value"][0] == pytest.approx(ordered[0] / ordered[2] * 100)
        assert hits["window_end"][0] == MIDNIGHT + timedelta(minutes=15 * (p_kw.index(ordered[0]) + 1))


def test_missing_names_each_quarter_hour_that_lacks_slots(found: Any) -> None:
    n, due = [1] * 96, [1] * 96
    n[5], due[5] = 12, 15
    rows = points([100.0] * 96, n=[None if k == 7 else v for k, v in enumerate(n)],
                  n_expected=[None if k == 7 else v for k, v in enumerate(due)])  # fmt: skip
    assert found(day_of(rows)) == [("missing", 5, "12 of 15 readings"), ("missing", 7, "no reading")]


def test_implausible_values_are_named_as_their_windows_tell(found: Any) -> None:
    reasons = [None] * 95 + ["import_kwh: register went back from 121,900 to 0"]
    assert found(day_of(points([100.0] * 96, window_reason=reasons))) == [("implausible", 95, reasons[-1])]


def test_negative_power_is_a_fault_only_of_meters_that_only_import(found: Any) -> None:
    p_kw: list[float | None] = [40.0] * 95 + [-12.0]
    importing = points(p_kw, import_kwh_end=1.0)
    solar = points(p_kw, import_kwh_end=1.0, export_kwh_end=1.0)
    assert found(day_of(importing), sum_check=0.0) == [("negative", 95, "-12.0 kW at a meter that only imports")]
    assert found(day_of(solar), sum_check=0.0) == []


@pytest.mark.parametrize(
    ("kwh", "rule"),
    [(9600.0 * 3.1, "high"), (9600.0 * 2.9, None), (9600.0 * 0.09, "low"), (9600.0 * 0.11, None), (0.0, "zero")],
)  # fmt: skip
def test_a_day_is_compared_with_its_history(found: Any, kwh: float, rule: str | None) -> None:
    day = points([kwh / 24] * 96)
    only = {"dynamic_comparison": 0.0}
    assert [(r, k) for r, k, _ in found(day_of(day, past([9600.0] * 6)), **only)] == ([(rule, None)] if rule else [])
    assert found(day_of(day, past([9600.0] * 4)), **only) == []  # too few days to compare with
    assert found(day_of(day, past([9600.0] * 6, known_points=95)), **only) == []  # nor days with holes


def test_dynamic_comparison_allows_a_meter_what_it_varies_by(found: Any) -> None:
    steady, restless = [1000.0, 1010.0, 990.0, 1000.0, 1005.0], [200.0, 1800.0, 1000.0, 400.0, 1600.0]
    day = points([1200.0 / 24] * 96)
    said = [d for r, _, d in found(day_of(day, past(steady))) if r == "dynamic_comparison"]
    assert said == ["1200.0 kWh, 19.9 standard deviations off 1001.0 kWh"]  # at least 1 % of the mean
    assert found(day_of(day, past(restless))) == []


def test_consecutive_equal_values_are_counted_over_days(found: Any) -> None:
    day = points([250.0] * 96)
    assert found(day_of(day)) == []  # one day
    before = past([6000.0] * 2, repeated_points=96, repeated_kw=250.0)
    assert found(day_of(day, before)) == [("consecutive_equal", None, "250.0 kW for 48.0 h")]
    other = past([6000.0] * 2, repeated_points=96, repeated_kw=251.0)
    assert found(day_of(day, other)) == []
    idle = points([0.0] * 96)
    assert found(day_of(idle, past([0.0] * 2, repeated_points=96, repeated_kw=0.0, zero_days=1))) == []


@given(p_kw=st.lists(st.none() | st.sampled_from([1.0, 2.0]), min_size=1, max_size=12), run=st.integers(1, 9))
def test_repeated_values_against_plain_counting(p_kw: list[float | None], run: int) -> None:
    known = [p for p in p_kw if p is not None]
    before = pl.DataFrame({"meter_id": [METER], "run": [run], "run_kw": [2.0]})
    rows = repeated(points(p_kw), before)
    if not known:
        assert rows.is_empty()
        return
    tail = 0
    while tail < len(known) and known[-1 - tail] == known[-1]:
        tail += 1
    expected = tail + (run if tail == len(known) and known[-1] == 2.0 else 0)
    assert rows.select("repeated_kw", "repeated_points").row(0) == (known[-1], expected)


@pytest.mark.parametrize(("off", "hit"), [(20.5, True), (-20.5, True), (19.5, False)])
def test_sums_are_held_against_the_registers_by_one_multiplier(found: Any, off: float, hit: bool) -> None:
    kwh = [100.0] * 96
    shown = [999_000.0 + 100.0 * (k + 1) for k in range(96)]
    rolled = [value if value < 1e6 else value - 1e6 for value in shown]  # six digits
    kwh[50] += off
    active = points([400.0] * 96, import_kwh=kwh, import_kwh_end=rolled)
    reactive = points([400.0] * 96, import_kvarh=kwh, import_kvarh_end=rolled)
    assert [(r, k) for r, k, _ in found(day_of(active, import_kwh_end=999_000.0))] == (
        [("sum_check", None)] if hit else []
    )
    assert [(r, k) for r, k, _ in found(day_of(reactive, import_kvarh_end=999_000.0))] == (
        [("kvarh_check", None)] if hit else []
    )
    # without the register at the day's start, from the first one on; an exchange ends the comparison
    assert [(r, k) for r, k, _ in found(day_of(active))] == ([("sum_check", None)] if hit else [])
    exchanged = active.with_columns(chain=pl.Series([0] * 40 + [1] * 56, dtype=pl.UInt32))
    assert found(day_of(exchanged, import_kwh_end=999_000.0)) == []


@pytest.mark.parametrize("at", [-1, 0, 47, 95])
@pytest.mark.parametrize("wrong", [0.0, 999_999.0, -5.0, 4_294_967_295.0, None])
def test_sums_are_not_held_against_registers_that_are_not_believed(found: Any, at: int, wrong: float | None) -> None:
    """A wrong value at the day's start, first, midst or end; None: the register starts anew from there."""
    right = [81_000.0 + 100.0 * (k + 1) for k in range(-1, 96)]
    reset = [*right[: at + 1], *(value - 81_000.0 - 100.0 * at for value in right[at + 1 :])]
    shown = reset if wrong is None else [*right[: at + 1], wrong, *right[at + 2 :]]
    for register, kvarh in (("import_kwh", {}), ("import_kvarh", {"import_kwh": [100.0] * 96})):
        day = points([400.0] * 96, **{register: [100.0] * 96, f"{register}_end": shown[1:], **kvarh})
        assert found(day_of(day, **{f"{register}_end": shown[0]})) == []


def test_inactive_counts_days_without_energy(found: Any) -> None:
    idle = points([0.0] * 96)
    assert found(day_of(idle, past([0.0], zero_days=29))) == [("inactive", None, "no energy for 30 days")]
    assert found(day_of(idle, past([0.0], zero_days=28))) == []
    assert found(day_of(points([1.0] * 96), past([0.0], zero_days=29))) == []


def test_readings_that_come_again_or_at_another_rhythm_are_told(metering_settings: MeteringSettings) -> None:
    repeats = pl.DataFrame(
        {"meter_id": [METER], "ts": [MIDNIGHT], "copies": [2]}, schema_overrides={"ts": POINTS["window_end"]}
    )
    rhythms = pl.DataFrame({"meter_id": [METER, "B"], "interval_s": [900, 900], "seems_s": [300, 901]})
    rows = findings_of_readings(repeats, rhythms, metering_settings.vee).select("rule", "severity", "detail").rows()
    assert rows == [
        ("duplicate", "info", "2 readings of one time"),
        ("interval_size", "info", "readings come every 300 s, registered are 900 s"),
    ]


def test_a_row_is_switched_off_by_0_and_a_row_of_ones_own_looks_a_second_time(
    metering_settings: MeteringSettings,
) -> None:
    day = day_of(points([50.0] * 94 + [160.0, 100.0]))
    spike = metering_settings.vee.validation["spike"]
    assert findings_of_day(day, replace(metering_settings.vee, validation={"spike": spike}))["rule"].to_list() == [
        "spike"
    ]
    off = replace(metering_settings.vee, validation={"spike": replace(spike, threshold=0.0)})
    assert findings_of_day(day, off).is_empty()
    own = {"strict": replace(spike, check="spike", threshold=150.0, severity="info")}
    (row,) = findings_of_day(day, replace(metering_settings.vee, validation=own)).to_dicts()
    assert (row["rule"], row["severity"], row["limit"], row["value"]) == ("strict", "info", 150.0, 320.0)
    flat = day_of(points([1.0] * 96))
    assert findings_of_day(flat, replace(metering_settings.vee, validation=own)).is_empty()


def test_every_check_of_the_handbook_has_a_row_with_a_clause(metering_settings: MeteringSettings) -> None:
    rows = metering_settings.vee.validation
    assert set(CHECKS) | {"duplicate", "interval_size"} == {row.check or name for name, row in rows.items()}
    assert all(row.clause and row.meaning and row.unit and row.threshold for row in rows.values())
