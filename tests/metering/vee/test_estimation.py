"""What a gap is filled with, and that it agrees with the registers, against a plain account of one meter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS
from metering.vee.meter_curve import START, Beside, meter_curve, reaching

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)
MIDNIGHT = datetime(2026, 6, 30, 16, tzinfo=UTC)
METER = "371502048813"
FIRST_KWH = 81_234.5
QUARTERS = 96


@dataclass(frozen=True)
class Quarter:
    """A quarter-hour as it really was: what was used, whether its reading came, whether with its register."""

    used_kwh: float
    came: bool = True
    read: bool = True


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(make_customers({"A": {}}), {METER: {"customer_no": "A"}})


def registers(day: list[Quarter], first_kwh: float = FIRST_KWH) -> list[float]:
    """The register at the end of every quarter-hour."""
    shown = [first_kwh]
    for quarter in day:
        shown.append(shown[-1] + quarter.used_kwh)
    return shown[1:]


def windows_of(
    day: list[Quarter], first: datetime = MIDNIGHT, first_kwh: float = FIRST_KWH, **columns: float
) -> pl.DataFrame:
    """What the readings that came become: energy of the registers where both edges were read, else of power."""
    shown, known = registers(day, first_kwh), True
    rows = []
    for n, quarter in enumerate(day):
        both = known and quarter.read and quarter.came
        known = quarter.read and quarter.came
        if quarter.came:
            rows.append(
                {
                    "window_end": first + timedelta(minutes=15 * (n + 1)),
                    "p_mean_kw": quarter.used_kwh * 4,
                    "energy_kwh": quarter.used_kwh,
                    "energy_basis": "registers" if both else "power",
                    "import_kwh_end": shown[n] if quarter.read else None,
                }
            )
    names = ("window_end", "p_mean_kw", "energy_kwh", "energy_basis", "import_kwh_end")
    frame = pl.DataFrame(rows, schema={name: BATCH_WINDOWS.schema[name] for name in names})
    given = {"n": 1, "n_expected": 1, "revision": 0, "covered_min": 15.0, "u_max_v": 220.0, **columns}
    return BATCH_WINDOWS.conform(frame, meter_id=METER, customer_no="A", date=DAY, **given)


def at_start(kwh: float | None = FIRST_KWH, p_kw: float | None = None) -> pl.DataFrame:
    row = {"meter_id": METER, "window_end": MIDNIGHT, "chain": 0, "import_kwh_end": kwh, "p_mean_kw": p_kw}
    return pl.DataFrame([{name: row.get(name) for name in START.names()}], schema=START)


def filled(
    day: list[Quarter], versions: pl.DataFrame, settings: MeteringSettings, near: pl.DataFrame | None = None
) -> list[dict[str, object]]:
    beside = replace(Beside.nothing(), start=at_start())
    if near is not None:
        beside = replace(beside, windows=near)
    curve, _ = meter_curve(windows_of(day), versions, DAY, settings, beside)
    return curve.to_dicts()


def account(day: list[Quarter], linear_points: int) -> list[float | None]:
    """What each quarter-hour holds [kWh], from the handbook: measured, or drawn straight, then scaled to the register
    between the readings of it. Without a neighbour or over longer gaps there is no shape, and the rest of the register
    goes there evenly."""
    shape: list[float | None] = [q.used_kwh if q.came else None for q in day]
    n = 0
    while n < len(day):
        if day[n].came:
            n += 1
            continue
        end = n
        while end < len(day) and not day[end].came:
            end += 1
        if n > 0 and end < len(day) and end - n <= linear_points:
            low, high = day[n - 1].used_kwh, day[end].used_kwh
            for k in range(n, end):
                shape[k] = low + (high - low) * (k - n + 1) / (end - n + 1)
        n = end
    held = list(shape)
    marks = [-1, *(k for k, q in enumerate(day) if q.came and q.read)]
    shown = [FIRST_KWH, *registers(day)]
    for a, b in pairwise(marks):
        unknown = [k for k in range(a + 1, b + 1) if not day[k].came]
        if not unknown:
            continue
        left = max(shown[b + 1] - shown[a + 1] - sum(day[k].used_kwh for k in range(a + 1, b + 1) if day[k].came), 0.0)
        drawn = [w for k in unknown if (w := shape[k]) is not None]
        mean = sum(drawn) / len(drawn) if drawn else 1.0
        weights = [mean if (w := shape[k]) is None else w for k in unknown]
        total = sum(weights)
        for k, weight in zip(unknown, weights, strict=True):
            held[k] = left * weight / total if total > 0 else left / len(unknown)
    return held


@st.composite
def days(draw: st.DrawFn) -> list[Quarter]:
    used = draw(st.lists(st.floats(0.01, 1500), min_size=QUARTERS, max_size=QUARTERS))
    lost = draw(st.lists(st.tuples(st.integers(0, 95), st.integers(1, 30)), max_size=4))
    mute = draw(st.sets(st.integers(0, 95), max_size=12))
    gone = {k for first, length in lost for k in range(first, min(first + length, QUARTERS))}
    return [Quarter(u, came=k not in gone, read=k not in mute) for k, u in enumerate(used)]


@given(day=days(), gap_min=st.sampled_from([0, 30, 120]))
def test_a_days_quarter_hours_against_a_plain_account(
    metering_settings: MeteringSettings, versions: pl.DataFrame, day: list[Quarter], gap_min: int
) -> None:
    settings = replace(metering_settings, vee=replace(metering_settings.vee, linear_gap_min=gap_min))
    rows = filled(day, versions, settings)
    assert [row["point"] for row in rows] == list(range(1, QUARTERS + 1))
    expected = account(day, gap_min // 15)
    for row, quarter, held in zip(rows, day, expected, strict=True):
        if held is None:
            assert (row["energy_kwh"], row["p_kw"], row["status"]) == (None, None, "missing")
        else:
            assert row["energy_kwh"] == pytest.approx(held, rel=1e-9, abs=1e-6)
            assert row["p_kw"] == pytest.approx(held * 4, rel=1e-9, abs=1e-5)
            assert (row["status"] == "estimated") == (not quarter.came)
        assert (row["reason"] is None) == (row["status"] == "validated")
    shown = [FIRST_KWH, *registers(day)]
    marks = [0, *(k + 1 for k, q in enumerate(day) if q.came and q.read)]
    for a, b in pairwise(marks):  # a gap's sum is the register's difference over it
        assert sum(float(str(row["energy_kwh"])) for row in rows[a:b]) == pytest.approx(
            shown[b] - shown[a], rel=1e-9, abs=1e-6
        )


def test_a_short_gap_is_drawn_straight_and_says_so(metering_settings: MeteringSettings, versions: pl.DataFrame) -> None:
    silent = [Quarter(k, read=False) for k in (10.0, *[20.0, 30.0, 40.0], *[50.0] * 92)]
    day = [replace(q, came=n not in {1, 2, 3}) for n, q in enumerate(silent)]
    rows = filled(day, versions, metering_settings)
    assert [row["energy_kwh"] for row in rows[:5]] == pytest.approx([10, 20, 30, 40, 50])
    assert {(row["status"], row["rule"], row["reason"]) for row in rows[1:4]} == {
        ("estimated", "linear", "no power for 45 min: straight line between the neighbours")
    }


def test_a_long_gap_follows_the_mean_of_days_of_its_kind(
    metering_settings: MeteringSettings, versions: pl.DataFrame
) -> None:
    """2026-07-01 is a Wednesday: five workdays before it count, not the weekend between them, nor older ones."""
    past = []
    for back in range(1, 12):
        first = MIDNIGHT - timedelta(days=back)
        weekday = (DAY - timedelta(days=back)).weekday()
        level = 1000.0 if weekday > 4 else 100.0 + back
        used = [level + k for k in range(QUARTERS)]
        past.append(windows_of([Quarter(u, read=False) for u in used], first))
    day = [Quarter(7.0, came=not 40 <= k < 60, read=False) for k in range(QUARTERS)]
    rows = filled(day, versions, metering_settings, pl.concat(past))
    # Tuesday 1, Monday 2, Friday 5, Thursday 6, Wednesday 7 days before
    mean = 100 + (1 + 2 + 5 + 6 + 7) / 5
    assert [row["energy_kwh"] for row in rows[40:60]] == pytest.approx([mean + k for k in range(40, 60)])
    assert rows[40]["reason"] == "no power for 300 min: mean of 5 reference days"
    scaled = [replace(q, read=True) for q in day]
    kept = filled(scaled, versions, metering_settings, pl.concat(past))
    assert sum(float(str(row["energy_kwh"])) for row in kept[40:60]) == pytest.approx(7.0 * 20)
    ratio = [float(str(a["energy_kwh"])) / (mean + k) for k, a in enumerate(kept[40:60], 40)]
    assert ratio == pytest.approx([ratio[0]] * 20)
    assert kept[40]["reason"] == "no power for 300 min: mean of 5 reference days, scaled to the registers"


@pytest.mark.parametrize("side", [39, 42])
def test_nothing_is_drawn_across_a_power_failure(
    metering_settings: MeteringSettings, versions: pl.DataFrame, side: int
) -> None:
    """One quarter-hour beside a gap without voltage in any phase: where registers tell, they count; else nothing."""
    day = [Quarter(0.0 if k in {40, 41} else 25.0, came=k not in {40, 41}, read=False) for k in range(QUARTERS)]

    def with_failure(quarters: list[Quarter]) -> list[dict[str, object]]:
        windows = windows_of(quarters)
        fails = pl.col("window_end") == MIDNIGHT + timedelta(minutes=15 * (side + 1))
        dark = windows.with_columns(pl.when(fails).then(3.0).otherwise("u_max_v").alias("u_max_v"))
        beside = replace(Beside.nothing(), start=at_start())
        return meter_curve(dark, versions, DAY, metering_settings, beside)[0].to_dicts()

    rows = with_failure(day)
    assert [row["energy_kwh"] for row in rows[40:42]] == [None, None]
    assert rows[40]["reason"] == "no power for 30 min: supply had failed, and nothing is estimated across that"
    known = with_failure([replace(q, read=True) for q in day])
    assert [row["energy_kwh"] for row in known[40:42]] == [0.0, 0.0]
    assert known[40]["status"] == "estimated"


def test_a_gap_over_midnight_is_shared_out_the_same_from_both_of_its_days(
    metering_settings: MeteringSettings, versions: pl.DataFrame
) -> None:
    evening = [Quarter(30.0 + k % 7, came=k < 90) for k in range(QUARTERS)]
    morning = [Quarter(50.0 + k % 5, came=k >= 10) for k in range(QUARTERS)]
    at_midnight = FIRST_KWH + sum(q.used_kwh for q in evening)
    first = windows_of(evening)
    second = windows_of(morning, MIDNIGHT + timedelta(days=1), at_midnight)
    # the register at midnight was not read, so the first window after the gap knows only power
    ours, theirs = (
        meter_curve(own, versions, day, metering_settings, replace(Beside.nothing(), start=start, windows=near))[0]
        for own, day, start, near in (
            (first, DAY, at_start(), second),
            (second, DAY + timedelta(days=1), at_start().clear(), first),
        )
    )
    assert reaching(first, versions, DAY, metering_settings, None) == [METER]
    shared = ours["energy_kwh"].to_list()[90:] + theirs["energy_kwh"].to_list()[:10]
    register = sum(q.used_kwh for q in evening[90:]) + sum(q.used_kwh for q in morning[:10])
    assert sum(shared) == pytest.approx(register, rel=1e-9)
    assert {*ours["status"][90:], *theirs["status"][:10]} == {"estimated"}


def test_partial_and_spread_quarter_hours_stand_for_all_of_them(
    metering_settings: MeteringSettings, versions: pl.DataFrame
) -> None:
    day = [Quarter(25.0, read=False)] * QUARTERS
    windows = windows_of(day).with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(6.0).otherwise("covered_min").alias("covered_min"),
        pl.when(pl.int_range(pl.len()) == 3).then(10.0).otherwise("energy_kwh").alias("energy_kwh"),
        pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("spread")).otherwise("energy_basis").alias("energy_basis"),
    )
    rows = meter_curve(windows, versions, DAY, metering_settings, Beside.nothing())[0].to_dicts()
    assert (rows[3]["p_kw"], rows[3]["energy_kwh"], rows[3]["status"]) == (100.0, 25.0, "estimated")
    assert rows[3]["reason"] == "readings of 6.0 of 15.0 min stand for all of it"
    assert (rows[5]["energy_kwh"], rows[5]["status"], rows[5]["rule"]) == (25.0, "estimated", "spread")
    assert rows[4]["status"] == "validated"


@pytest.mark.parametrize("shown", [0.0, 999_999.0, 1.8e17])
def test_a_register_that_glitches_once_is_bridged_by_those_beside_it(
    metering_settings: MeteringSettings, versions: pl.DataFrame, shown: float
) -> None:
    """A meter without power: neither step is energy, and what both quarter-hours used is the registers' difference."""
    day = [Quarter(30.0 + k % 4) for k in range(QUARTERS)]
    k = pl.int_range(pl.len())
    windows = windows_of(day).with_columns(
        pl.lit(None, pl.Float64).alias("p_mean_kw"),
        pl.when(k == 50).then(shown).otherwise("import_kwh_end").alias("import_kwh_end"),
        pl.when(k.is_in([50, 51])).then(None).otherwise("energy_kwh").alias("energy_kwh"),
        pl.when(k.is_in([50, 51])).then(None).otherwise("energy_basis").alias("energy_basis"),
    )
    beside = replace(Beside.nothing(), start=at_start())
    rows = meter_curve(windows, versions, DAY, metering_settings, beside)[0].to_dicts()
    assert {row["status"] for row in rows[50:52]} == {"estimated"}
    assert sum(row["energy_kwh"] for row in rows[50:52]) == pytest.approx(day[50].used_kwh + day[51].used_kwh)
    assert sum(row["energy_kwh"] for row in rows) == pytest.approx(sum(q.used_kwh for q in day))
