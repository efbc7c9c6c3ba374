"""Values of register steps: glitches, rollover, gaps, exchanges, and steps against power."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.catalogue import checks
from metering.events.judge import END, START, judge
from metering.settings import MeteringSettings
from metering.tables.lake import CHAIN, REGISTERS
from metering.tables.schema import TIMESTAMP

Row = dict[str, Any]
Said = dict[str, list[int | None]]
START_AT = datetime(2026, 3, 2, tzinfo=UTC)
KWH = 100.0
"""At 400 kW in a quarter-hour; the meter can make 207 kWh in it (230 V, 10 A, ratio 100)."""
METER = {"nominal_v": 230.0, "pt_ratio": 1.0, "ct_ratio": 100.0, "max_a": 10.0}
NAMES = ("register_decrease", "runaway", "energy_mismatch", "stopped")


@pytest.fixture(scope="module")
def said(
    make_customers: Callable[..., Any], make_meter_versions: Callable[..., Any], metering_settings: MeteringSettings
) -> Callable[..., Said]:
    """What rules say to a meter's readings, by rule (of one register): START, END, 0, or None, a reading each.

    Readings: registers, a list of {column: value}, None where none came; every `interval_s`, at 400 kW.
    """

    def of(
        readings: Sequence[float | Row | None], register: str = "import_kwh", p_kw: float | None = 400.0,
        versions: Sequence[Row] = (), **meter: Any,
    ) -> Said:  # fmt: skip
        interval_s = meter.get("interval_s", 900)
        rows = []
        for number, given in enumerate(readings):
            if given is not None:
                ts = START_AT + timedelta(seconds=interval_s * number)
                row = given if isinstance(given, dict) else {register: given}
                rows.append({"meter": 0, "ts": ts, "p_kw": p_kw, **row})
        customers = make_customers({"C1": {}})
        facts = pl.concat(
            make_meter_versions(customers, {"330000000001": {"customer_no": "C1", **METER, **meter, **version}})
            for version in (versions or [{}])
        ).with_columns(chain=pl.int_range(max(1, len(versions)), dtype=pl.UInt32))
        schema = {"meter": pl.UInt32, "ts": TIMESTAMP, "p_kw": pl.Float64,
                  **dict.fromkeys((*REGISTERS, CHAIN), pl.Float64),
                  "version": pl.UInt32}  # fmt: skip
        frame = pl.DataFrame([{"version": 0, **row} for row in rows], schema=schema)
        mine = {c.code: c.rule for c in checks(metering_settings) if c.rule in NAMES and c.phase == register}
        codes = pl.Series(list(mine), dtype=pl.UInt32)
        judged = judge(frame, facts, metering_settings, codes)
        found: Said = {rule: [None] * len(readings) for rule in mine.values()}
        for code, ts, verdict in judged.select("code", "ts", "verdict").iter_rows():
            found[mine[code]][(ts - START_AT) // timedelta(seconds=interval_s)] = verdict
        return found

    return of


def steady(*wrong: tuple[int, float | Row | None], n: int = 8, start: float = 120_000.0) -> list[float | Row | None]:
    readings: list[float | Row | None] = [start + KWH * number for number in range(n)]
    for at, what in wrong:
        readings[at] = what
    return readings


def starts(found: Said) -> dict[str, list[int]]:
    at = {rule: [n for n, verdict in enumerate(said) if verdict == START] for rule, said in found.items()}
    return {rule: places for rule, places in at.items() if places}


def ends(found: Said, rule: str) -> list[int]:
    return [n for n, verdict in enumerate(found[rule]) if verdict == END]


def test_sane_registers_say_nothing_else(said: Callable[..., Said]) -> None:
    found = said(steady())
    assert starts(found) == {}
    assert all(ends(found, rule) == list(range(1, 8)) for rule in NAMES)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (0.0, "register_decrease"), (-1.0, "register_decrease"), (120_150.0, "register_decrease"),
        (1.8446744073709552e17, "runaway"), (999_999.0, "runaway"), (4_294_967_295.0, "runaway"),
        (120_700.0, "runaway"), (120_375.0, "energy_mismatch"), (120_200.0, "stopped"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("p_kw", [400.0, None])
def test_one_wrong_value_is_one_event_that_ends_with_the_next_sane_step(
    value: float, rule: str, p_kw: float | None, said: Callable[..., Said]
) -> None:
    found = said(steady((3, value)), p_kw=p_kw)
    if p_kw is None and rule in ("energy_mismatch", "stopped"):
        assert starts(found) == {}  # nothing tells
        return
    assert starts(found) == {rule: [3]}
    assert [n for n in ends(found, rule) if n > 3] == [5, 6, 7]


@pytest.mark.parametrize("p_kw", [400.0, None])
@pytest.mark.parametrize("chains", [(7.0, 8.0), (7.0, None), (None, 8.0)])
def test_between_registers_of_two_chains_there_is_no_step(
    chains: tuple[float | None, float | None], p_kw: float | None, said: Callable[..., Said]
) -> None:
    """A later file sums its energies from 0 on."""
    readings = [{"import_kwh": 100.0 * n, "register_chain": chain} for chain in chains for n in range(1, 5)]
    found = said([*readings[:3], None, *readings[3:]], p_kw=p_kw)
    assert starts(found) == {}
    assert [found[rule][5] for rule in NAMES] == [None] * 4
    assert ends(found, "register_decrease") == [1, 2, 4, 6, 7, 8]
    again = [{**reading, "register_chain": chains[0]} for reading in readings]
    assert starts(said([*again[:3], None, *again[3:]], p_kw=p_kw))["register_decrease"] == [5]


def test_two_wrong_values_in_a_row_and_their_way_back_are_one_event(said: Callable[..., Said]) -> None:
    found = said(steady((3, 0.0), (4, 0.0)))
    assert starts(found)["register_decrease"] == [3]
    assert "runaway" not in starts(found)
    assert ends(found, "register_decrease")[-2:] == [6, 7]


def test_a_reset_is_one_decrease_after_which_it_counts_on(said: Callable[..., Said]) -> None:
    readings = [120_000.0, 120_100.0, 5.0, 105.0, 205.0, 305.0]
    found = said(readings)
    assert starts(found) == {"register_decrease": [2]}
    assert ends(found, "register_decrease") == [1, 3, 4, 5]


def test_a_register_that_rolls_over_goes_on(said: Callable[..., Said]) -> None:
    assert starts(said([(999_750.0 + KWH * n) % 1e6 for n in range(8)])) == {}
    assert starts(said([(99_750.0 + KWH * n) % 1e5 for n in range(8)], register_digits=5)) == {}


@pytest.mark.parametrize("register", ["export_kwh", "import_kvarh", "export_kvarh"])
def test_every_register_is_looked_at(register: str, said: Callable[..., Said]) -> None:
    found = said([500.0, 510.0, 0.0, 530.0, 540.0], register, p_kw=None)
    assert starts(found)["register_decrease"] == [2]


def test_across_missing_readings_only_what_no_power_explains_is_told(said: Callable[..., Said]) -> None:
    gone: list[tuple[int, float | Row | None]] = [(3, None), (4, None)]
    assert starts(said(steady(*gone))) == {}
    assert starts(said(steady(*gone, (5, 120_200.0), (6, 120_300.0), (7, 120_400.0)))) == {}  # no power, no standstill
    assert starts(said(steady(*gone, (5, 120_100.0), (6, 120_200.0), (7, 120_300.0)))) == {"register_decrease": [5]}
    assert starts(said(steady(*gone, (5, 121_300.0), (6, 121_400.0), (7, 121_500.0)))) == {"runaway": [5]}


def test_an_exchange_and_another_ratio_lead_over_no_seam(said: Callable[..., Said]) -> None:
    old = [{"import_kwh": 120_000.0 + KWH * n, "version": 0} for n in range(3)]
    new = [{"import_kwh": 3.0 + KWH * n, "version": 1} for n in range(4)]
    found = said([*old, *new], versions=[{}, {"ct_ratio": 200.0}])
    assert starts(found) == {}
    assert ends(found, "register_decrease") == [1, 2, 4, 5, 6]


def test_a_minute_is_too_short_for_a_count_but_a_quarter_hour_is_not(said: Callable[..., Said]) -> None:
    """3 kW is 0.75 kWh in a quarter-hour, less than a count: no standstill; 30 kW is 7.5, though 0.5 in a minute."""
    stands = [1000.0] * 46
    assert starts(said(stands, p_kw=3.0, interval_s=60)) == {}
    found = said(stands, p_kw=30.0, interval_s=60)
    assert starts(found) == {"stopped": [15, 30, 45]}


@pytest.mark.parametrize(
    ("kwh", "rule"),
    [(0.0, "stopped"), (79.0, "energy_mismatch"), (81.0, None), (119.0, None), (121.0, "energy_mismatch")],
)
def test_against_power_on_both_sides_of_the_limit(kwh: float, rule: str | None, said: Callable[..., Said]) -> None:
    found = said([1000.0 + kwh * n for n in range(6)])
    assert starts(found) == ({rule: [1, 2, 3, 4, 5]} if rule else {})


def test_ten_times_of_what_power_says_ran_away(said: Callable[..., Said]) -> None:
    found = said([1000.0 + 150.0 * n for n in range(4)], p_kw=59.0)
    assert starts(found) == {"runaway": [1, 2, 3]}
    found = said([1000.0 + 150.0 * n for n in range(4)], p_kw=61.0)
    assert starts(found) == {"energy_mismatch": [1, 2, 3]}


def test_where_power_says_nothing_to_speak_of_nothing_is_said(said: Callable[..., Said]) -> None:
    assert starts(said([1000.0 + 5.0 * n for n in range(4)], p_kw=0.03)) == {}


def test_a_step_over_more_than_a_week_says_nothing(said: Callable[..., Said]) -> None:
    week = 7 * 24
    readings: list[float | Row | None] = [1000.0, *[None] * week, 5.0, 6.0]
    assert starts(said(readings, p_kw=None, interval_s=3600)) == {}
    assert starts(said([1000.0, *[None] * (week - 1), 5.0, 6.0], p_kw=None, interval_s=3600)) == {
        "register_decrease": [week]
    }
