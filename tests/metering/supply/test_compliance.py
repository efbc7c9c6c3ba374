"""Supply compliance day-to-date and month-to-date: by hand, in any order and split, revised and taken away."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.supply import compliance
from metering.supply.compliance import DAYS_SCHEMA, contributions, forget, forgotten, recalled
from metering.tables.lake import COMPLIANCE, MOST_KWH, WINDOWS

Frame = pl.DataFrame
MIDNIGHT = datetime(2026, 1, 30, 16, tzinfo=UTC)  # 00:00 of 31 January in Shanghai


def advance(*given: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return compliance.advance(*given, timezone="Asia/Shanghai")


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    return make_meter_versions(make_customers({"C1": {}}), {"A": {"customer_no": "C1"}, "B": {"customer_no": "C1"}})


def _windows(*rows: dict[str, Any]) -> Frame:
    """Closed windows of meter 0 from {at: minutes since local midnight, ...}."""
    full = [
        {
            "meter_id": "A", "customer_no": "C1", "n": 1, "n_expected": 15, "revision": 0, "meter": row.get("meter", 0),
            "version": row.get("meter", 0), "window_end": MIDNIGHT + timedelta(minutes=row["at"]),
            **{name: value for name, value in row.items() if name not in ("at", "meter")},
        }
        for row in rows
    ]  # fmt: skip
    schema = {**WINDOWS.schema, "meter": pl.UInt32(), "version": pl.UInt32()}
    return pl.DataFrame(full, schema=schema)


def _days() -> Frame:
    return pl.DataFrame(schema=DAYS_SCHEMA)


def _added(windows: Frame, settings: MeteringSettings, count: int = 1) -> Frame:
    return contributions(windows, settings).with_columns(pl.lit(count, pl.Int32).alias("count"))


def _none() -> Frame:
    return pl.DataFrame(schema=DAYS_SCHEMA)


def _current(rows: Frame) -> Frame:
    return rows.sort("revision", maintain_order=True).unique(["meter_id", "date"], keep="last").sort("meter_id", "date")


def test_a_day_and_a_month_by_hand(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    windows = _windows(
        {"at": 0, "u_monitored_min": 45.0, "u_over_min": 5.0, "u_under_min": 4.0, "energy_kwh": 30.0,
         "import_kvarh": 40.0},
        {"at": 15, "u_monitored_min": 15.0, "u_over_min": 3.0, "u_under_min": 0.0, "energy_kwh": 4.0,
         "import_kvarh": 1.0, "export_kvarh": 2.0, "q_import_kvarh": 99.0, "q_export_kvarh": 99.0},
        {"at": 1440, "energy_kwh": -1.0, "q_import_kvarh": 0.5, "q_export_kvarh": 0.25},
        {"at": 1455},
    )  # fmt: skip
    days, rows = advance(_days(), _added(windows, metering_settings), _none(), meter_versions)
    assert rows.schema == COMPLIANCE.schema
    got = {row["date"]: row for row in rows.iter_rows(named=True)}
    assert list(got) == [date(2026, 1, 30), date(2026, 1, 31), date(2026, 2, 1)]
    second = got[date(2026, 1, 31)]
    expected = {
        "as_of": MIDNIGHT + timedelta(minutes=1440), "customer_no": "C1",
        "day_monitored_min": 15.0, "day_over_min": 3.0, "day_under_min": 0.0, "day_qualification_rate": 80.0,
        "day_active_kwh": 3.0, "day_import_kvarh": 1.5, "day_export_kvarh": 2.25,
        "month_monitored_min": 60.0, "month_over_min": 8.0, "month_under_min": 4.0, "month_qualification_rate": 80.0,
        "month_active_kwh": 33.0, "month_import_kvarh": 41.5, "month_export_kvarh": 2.25, "revision": 2,
    }  # fmt: skip
    assert {name: second[name] for name in expected} == expected
    assert second["day_power_factor"] == pytest.approx(3.0 / (3.0**2 + 3.75**2) ** 0.5)
    assert got[date(2026, 1, 30)]["day_power_factor"] == pytest.approx(0.6)
    # Q / t - P / t tan(phi) of the 31 days of January that have passed, at a standard of 0.90
    assert second["kvar_needed"] == pytest.approx((43.75 - 33.0 * 0.4843221) / 744, abs=1e-6)
    assert second["projected_power_factor"] == second["month_power_factor"] == pytest.approx(33 / 54.8, abs=1e-3)
    third = got[date(2026, 2, 1)]  # a new month, without anything measured
    assert (third["month_monitored_min"], third["month_qualification_rate"], third["revision"]) == (0.0, None, 0)
    assert (third["day_power_factor"], third["month_active_kwh"]) == (None, 0.0)
    assert days.schema == DAYS_SCHEMA


def test_a_day_says_anew_what_its_months_later_days_stand_at(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    ends = [*(-1440 * day for day in (5, 3, 1)), 1455]
    first = _windows(*({"at": at, "energy_kwh": 1.0} for at in ends))
    days, _ = advance(_days(), _added(first, metering_settings), _none(), meter_versions)
    _, rows = advance(
        days, _added(_windows({"at": -1440 * 3 - 15, "energy_kwh": 7.0}), metering_settings), _none(), meter_versions
    )
    assert rows.select("date", "day_active_kwh", "month_active_kwh", "revision").rows() == [
        (date(2026, 1, 27), 8.0, 9.0, 2), (date(2026, 1, 29), 1.0, 10.0, 3)
    ]  # fmt: skip


def test_a_revised_window_takes_the_place_of_what_it_said(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    before = _windows({"at": 15, "energy_kwh": 5.0, "u_monitored_min": 14.0})
    after = _windows({"at": 15, "energy_kwh": 6.5, "u_monitored_min": 15.0})
    days, _ = advance(_days(), _added(before, metering_settings), _none(), meter_versions)
    days, rows = advance(
        days, _added(after, metering_settings), contributions(before, metering_settings), meter_versions
    )
    assert rows.select("day_active_kwh", "day_monitored_min", "revision").rows() == [(6.5, 15.0, 1)]
    direct, _ = advance(_days(), _added(after, metering_settings, count=2), _none(), meter_versions)
    assert days.equals(direct)


def test_a_day_alone_has_the_same_figures_as_among_others(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    """Polars divides one row by a number otherwise than many."""
    rng = random.Random(1)
    for _ in range(50):
        windows = _windows(
            *({"at": 1440 * day, "u_monitored_min": rng.randrange(900) / 60, "energy_kwh": rng.uniform(0, 900)}
              for day in (0, 1))
        )  # fmt: skip
        together = advance(_days(), _added(windows, metering_settings), _none(), meter_versions)[1]
        last = advance(_days(), _added(windows[1:], metering_settings), _none(), meter_versions)[1]
        figures = ["day_monitored_min", "day_active_kwh"]
        assert together[1].select(figures).equals(last.select(figures))
        assert together["day_active_kwh"].to_list() == [round(kwh, 6) for kwh in windows["energy_kwh"]]


def test_nothing_added_tells_nothing(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    days, _ = advance(_days(), _added(_windows({"at": 15}), metering_settings), _none(), meter_versions)
    same, rows = advance(days, _none(), _none(), meter_versions)
    assert same.equals(days)
    assert rows.is_empty()


@pytest.mark.parametrize("absurd", [1.7e298, -1.7e298, MOST_KWH * 1.01])
def test_absurd_figures_are_not_counted(
    meter_versions: Frame, metering_settings: MeteringSettings, absurd: float
) -> None:
    """As a lake of before holds them: three windows of 1.7e298 kWh once gave -4.6e12."""
    sane = [{"at": 15 * n, "meter": n % 2, "energy_kwh": 10.0, "import_kvarh": 2.0} for n in range(8)]
    huge = [{"at": 15 * n, "energy_kwh": absurd, "import_kvarh": absurd, "export_kvarh": absurd} for n in (9, 11, 13)]
    added = _added(_windows(*sane, *huge), metering_settings)
    days, rows = advance(_days(), added, _none(), meter_versions)
    expected = _added(_windows(*sane, *({"at": row["at"]} for row in huge)), metering_settings)
    assert rows.equals(advance(_days(), expected, _none(), meter_versions)[1])
    mended = _windows(*({**row, "energy_kwh": 1.0, "import_kvarh": 0.0, "export_kvarh": 0.0} for row in huge))
    taken = contributions(_windows(*huge), metering_settings)
    _, rows = advance(days, _added(mended, metering_settings), taken, meter_versions)
    last = _current(rows).filter(pl.col("meter_id") == "A").row(-1, named=True)
    assert (last["month_active_kwh"], last["day_active_kwh"], last["month_import_kvarh"]) == (43.0, 33.0, 8.0)


def test_the_largest_month_there_can_be_does_not_wrap(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    rows = [{"at": -15 * n, "energy_kwh": MOST_KWH, "import_kvarh": -MOST_KWH} for n in range(30 * 96)]
    _, told = advance(_days(), _added(_windows(*rows), metering_settings), _none(), meter_versions)
    last = told.sort("date").row(-1, named=True)
    assert last["month_active_kwh"] == pytest.approx(MOST_KWH * 30 * 96)
    assert last["month_import_kvarh"] == pytest.approx(-MOST_KWH * 30 * 96)


def _random_windows(seed: int) -> list[Frame]:
    """Windows of two meters over 40 days, some of them revised: each entry is one emission."""
    rng = random.Random(seed)
    rows = []
    for _ in range(60):
        rows.append(
            {
                "at": 15 * rng.randrange(-96 * 20, 96 * 20), "meter": rng.randrange(2),
                "energy_kwh": 1.7e298 if rng.random() < 0.1 else rng.random() * 1e4,
                "import_kvarh": rng.choice((None, rng.random())), "q_import_kvarh": rng.random(),
                "u_monitored_min": float(rng.randrange(46)), "u_over_min": rng.choice((0.0, 0.1)), "u_under_min": 0.0,
            }
        )  # fmt: skip
    return [_windows(row) for row in rows]


def _run(
    emissions: list[Frame], cuts: list[int], meter_versions: Frame, settings: MeteringSettings
) -> tuple[Frame, Frame]:
    days, rows, said = _days(), [COMPLIANCE.empty()], dict[tuple[int, datetime], Frame]()
    for start, stop in zip([0, *cuts], [*cuts, len(emissions)], strict=True):
        newest: dict[tuple[int, datetime], tuple[Frame, int]] = {}
        for window in emissions[start:stop]:
            key = (window["meter"][0], window["window_end"][0])
            newest[key] = (window, newest[key][1] + 1 if key in newest else 1)
        added = [_added(window, settings, count) for window, count in newest.values()]
        removed = [contributions(said[key], settings) for key in newest if key in said]
        days, fresh = advance(days, pl.concat([_none(), *added]), pl.concat([_none(), *removed]), meter_versions)
        said.update({key: window for key, (window, _) in newest.items()})
        rows.append(fresh)
    return days.sort("meter", "date"), _current(pl.concat(rows))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_in_any_split_the_same_to_the_bit(
    meter_versions: Frame, metering_settings: MeteringSettings, seed: int, data: st.DataObject
) -> None:
    emissions = _random_windows(seed)
    emissions += [window.with_columns(energy_kwh=pl.col("energy_kwh") + 1) for window in emissions[::7]]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(emissions) - 1), max_size=20)))
    whole, split = (_run(emissions, c, meter_versions, metering_settings) for c in ([], cuts))
    assert split[0].equals(whole[0])
    assert split[1].equals(whole[1])


def test_in_any_order_the_same_sums(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    emissions = _random_windows(1)
    last = {(w["meter"][0], w["window_end"][0]): w for w in emissions}
    once = list(last.values())
    whole = _run(once, [], meter_versions, metering_settings)
    for seed in range(3):
        shuffled = random.Random(seed).sample(once, len(once))
        assert _run(shuffled, list(range(1, len(once))), meter_versions, metering_settings)[0].equals(whole[0])


def _days_at(settings: MeteringSettings, meter_versions: Frame, *ats: int, meter: int = 0) -> Frame:
    """Days of windows that end so many days after 30 January."""
    windows = _windows(*({"at": 1440 * at, "meter": meter, "energy_kwh": 1.0} for at in ats))
    return advance(_days(), _added(windows, settings), _none(), meter_versions)[0].sort("meter", "date")


def test_days_before_yesterday_are_settled(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    days = _days_at(metering_settings, meter_versions, -4, -2, -1, 0, 1)  # 26, 28, 29, 30, 31 January
    kept = forget(days, date(2026, 1, 30)).sort("date")
    assert kept.select("date", "active_mwh", "count", "settled").rows() == [
        (date(2026, 1, 28), 2_000_000, 2, True),
        *((date(2026, 1, day), 1_000_000, 1, False) for day in (29, 30, 31)),
    ]
    assert forget(kept, date(2026, 1, 30)).equals(kept)


def test_what_is_told_does_not_depend_on_what_is_settled(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    days = _days_at(metering_settings, meter_versions, -4, -2, -1, 0, 1)
    more = _added(_windows({"at": -1455, "energy_kwh": 3.0}), metering_settings)  # of 29 January
    rows = [advance(d, more, _none(), meter_versions)[1] for d in (days, forget(days, date(2026, 1, 30)))]
    assert rows[0].height == 3
    assert rows[0].equals(rows[1])


def test_a_month_that_is_over_is_dropped_once_it_is_settled(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    days = _days_at(metering_settings, meter_versions, -20, 0, 1, 2, 3, 4)  # 10, 30, 31 January, 1 to 3 February
    third, fourth = (forget(days, date(2026, 2, day)).sort("date") for day in (2, 3))
    assert third["date"].to_list() == [date(2026, 2, day) for day in (1, 2, 3)]
    assert fourth.select("date", "settled").rows()[0] == (date(2026, 2, 1), True)
    first = forget(days, date(2026, 2, 1)).sort("date")
    assert first.select("date", "settled").rows()[:2] == [(date(2026, 1, 30), True), (date(2026, 1, 31), False)]


def test_a_meter_behind_the_others_keeps_its_own_last_days(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    behind = _days_at(metering_settings, meter_versions, -4, -3, -2)
    kept = forget(behind, date(2026, 3, 1)).sort("date")
    assert kept["settled"].to_list() == [True, False, False]


def test_which_months_have_to_be_read_again(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    days = forget(
        _days_at(metering_settings, meter_versions, 0, 2, 4, 5, 6), date(2026, 2, 4)
    )  # settled up to 1 February

    def needed(touched: date, left_until: date | None = None, meter: int = 0) -> list[date]:
        asked = pl.DataFrame({"meter": [meter], "date": [touched]}, schema={"meter": pl.UInt32, "date": pl.Date})
        return forgotten(days, asked, left_until)["month"].to_list()

    assert needed(date(2026, 2, 2)) == []
    assert needed(date(2026, 2, 1)) == [date(2026, 2, 1)]
    assert needed(date(2026, 1, 31)) == [date(2026, 1, 1)]  # before the newest
    assert needed(date(2026, 3, 1)) == []
    assert needed(date(2026, 3, 1), left_until=date(2026, 3, 2)) == [date(2026, 3, 1)]
    assert needed(date(2026, 2, 3), meter=1) == []  # never heard of, and nobody has left
    assert needed(date(2026, 2, 3), date(2026, 2, 1), meter=1) == [date(2026, 2, 1)]
    assert needed(date(2026, 2, 3), date(2026, 1, 31), meter=1) == []


def test_months_read_again_take_the_place_of_what_is_settled(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    days = _days_at(metering_settings, meter_versions, 0, 2, 4, 5, 6)
    settled = forget(days, date(2026, 2, 4))
    february = days.filter(pl.col("date") >= date(2026, 2, 1))
    assert recalled(settled, february).sort("date").equals(february)
