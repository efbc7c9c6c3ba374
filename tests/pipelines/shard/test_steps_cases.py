"""Register rules over what people in the field have reported: each wrong value is one event, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.warehouse import METERS
from metering.tabular.convert import from_text, replay
from metering.tabular.mapping import parse_mapping
from tests.pipelines.flow.flows import METER, customers_of
from tests.pipelines.turns import Turns

RULES = ("register_decrease", "runaway", "energy_mismatch", "stopped")
CASE = {"nominal_v": 230.0, "pt_ratio": 1.0, "ct_ratio": 100.0, "max_a": 10.0}
Said = list[tuple[str, str, str, str, str | None, str]]


@pytest.fixture(scope="module")
def told(
    shared_cases: Path, metering_settings: MeteringSettings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Said]:
    """What register rules have said in the end, of a case's readings: meter, rule, register, local start and end,
    state. `intervals_s`: of T-1 and T-2.
    """
    home = tmp_path_factory.mktemp("home")

    def of(case: str, *intervals_s: int, step: int = 50) -> Said:
        meters = [
            {**METER, **CASE, "meter_id": f"T-{number}", "interval_s": interval_s}
            for number, interval_s in enumerate(intervals_s, 1)
        ]
        rows = METERS.conform(pl.DataFrame(meters))
        index = MeterIndex.of(meter_versions(customers_of(), rows, metering_settings))
        turns = Turns(index, metering_settings, home)
        log: list[dict[str, Any]] = [json.loads(line) for line in (shared_cases / case).read_text("utf-8").splitlines()]
        log.sort(key=lambda reading: reading["ts"])
        for start in range(0, len(log), step):
            ended = {0} if start + step >= len(log) else ()
            turns.turn([(0, reading) for reading in log[start : start + step]], ended=ended)
        found = turns.final()["violations"].filter(pl.col("rule").is_in(RULES))
        local = [
            pl.col(name).dt.convert_time_zone("Asia/Shanghai").dt.strftime("%d %H:%M")
            for name in ("started_at", "ended_at")
        ]
        return found.select("meter_id", "rule", "phase", *local, "state").sort("started_at", "meter_id").rows()

    return of


def test_a_register_that_shows_0_or_all_ones_once(told: Callable[..., Said]) -> None:
    assert told("23-register-glitch.ndjson", 900, 900) == [
        ("T-1", "register_decrease", "import_kwh", "02 04:45", "02 05:15", "cleared"),
        ("T-2", "runaway", "import_kwh", "02 04:45", "02 05:15", "cleared"),
    ]


def test_a_register_that_is_repeated_stopped(told: Callable[..., Said]) -> None:
    found = told("29-repeated-register.ndjson", 900, 900)
    assert {row[1:3] for row in found} == {("stopped", "import_kwh")}


@pytest.mark.parametrize(
    ("case", "intervals_s"),
    [
        ("26-event-push.ndjson", (900, 900)), ("26b-now-every-5-min.ndjson", (900,)),
        ("27-every-9.9-s.ndjson", (10, 900)),
        ("28-three-seconds-late.ndjson", (900, 900)), ("15-half-hour-and-hour.ndjson", (1800, 3600)),
        ("37-short-and-long-day.ndjson", (900,)),
    ],
)  # fmt: skip
def test_registers_that_are_sane_raise_nothing(
    case: str, intervals_s: tuple[int, ...], told: Callable[..., Said]
) -> None:
    assert told(case, *intervals_s, step=400) == []


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("step", [7, 1000])
def test_files_of_interval_energies_have_no_step_between_them(
    step: int, restarts: bool, shared_cases: Path, metering_settings: MeteringSettings, tmp_path: Path
) -> None:
    """A day, its afternoon corrected by a file that comes later, and the next day: each sums its energies from 0 on."""
    mapping = parse_mapping((shared_cases / "33.toml").read_text("utf-8"), "Asia/Shanghai")

    def readings(case: str, since: str, day: str = "2026-03-01") -> list[dict[str, Any]]:
        lines = (shared_cases / case).read_text("utf-8").replace("2026-03-01", day).splitlines()
        rows = [line for line in lines[1:] if line >= f"{day} {since}"]
        done = replay(from_text("\n".join([lines[0], *rows]) + "\n", mapping), mapping).readings
        return [{**row, "ts": row["ts"].isoformat()} for row in done.drop_nulls("p_kw").to_dicts()]

    log = [*readings("33-first.csv", "00"), *readings("33-corrected.csv", "12")]
    log += readings("33-first.csv", "00", "2026-03-02")
    assert len({row["register_chain"] for row in log}) == 3
    meters = METERS.conform(pl.DataFrame([{**METER, **CASE, "meter_id": "T-1", "interval_s": 900}]))
    turns = Turns(MeterIndex.of(meter_versions(customers_of(), meters, metering_settings)), metering_settings, tmp_path)
    for start in range(0, len(log), step):
        ended = {0} if start + step >= len(log) else ()
        turns.turn([(0, reading) for reading in log[start : start + step]], ended=ended)
        if restarts:
            turns.restart()
    found = turns.final()["violations"].filter(pl.col("rule").is_in(RULES))
    assert found.is_empty(), found
    assert turns.final()["windows"]["energy_kwh"].sum() > 19_000


def test_a_register_that_is_reset_each_day_went_back_and_one_that_rolls_over_did_not(
    told: Callable[..., Said],
) -> None:
    assert told("30-daily-reset-and-rollover.ndjson", 900, 900) == [
        ("T-1", "register_decrease", "import_kwh", "02 23:45", "03 00:00", "cleared"),
    ]
