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
                  **dict.fromkeys(("import_kwh", "export_kwh", "import_kvarh", "export_kvarh"), pl.Float64),
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
