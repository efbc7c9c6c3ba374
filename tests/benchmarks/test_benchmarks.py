"""The benchmark's own parts on tiny inputs: its data, its checks of answers, its arithmetic, its pages."""

from __future__ import annotations

import json
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest

from metering.events.catalogue import rulebook
from tests.benchmarks import drift, feed, record, report, scaling
from tests.benchmarks.answers import check_energy, check_lake, check_violations, check_windows, windows_of
from tests.benchmarks.bench import CONTENDERS
from tests.benchmarks.data import (
    CAPACITY_KVA,
    FIELDS,
    IMPLAUSIBLE_MS,
    MIDNIGHT,
    NOMINAL_V,
    RULES,
    Load,
    arrow_messages,
    lines,
    ndjson,
)
from tests.benchmarks.homes import Home, stages
from tests.benchmarks.measure import KILOWATCH, ROOT, ContenderError, Cost, Result, alternate, process
from tests.benchmarks.profile import BEGINS, STAGES, split
from tests.benchmarks.rivals import LOCK
from tests.benchmarks.rows import daily, late, pace, rules
from tests.benchmarks.targets import BY_NAME, ROWS, Target

TINY = Load(meters=400, minutes=180)


def test_a_load_is_the_same_however_it_is_cut(tmp_path: Path) -> None:
    whole = pl.concat(TINY.frames())
    assert whole.columns == [*FIELDS, "arrived_ms"]
    assert whole.height == TINY.received
    assert whole.equals(pl.concat(TINY.frames(rows=777)))
    assert pl.concat(TINY.readings_in_time()).equals(pl.concat(TINY.readings_in_time(rows=777)))
    text = ndjson(TINY, tmp_path).read_bytes()
    assert text.splitlines() == [value for _, value in lines(TINY)]
    messages = [(key, pl.read_ipc_stream(value)) for key, value in arrow_messages(TINY, rows=50)]
    order = ("meter_id", "ts", "p_kw")
    arrived = pl.concat(frame for _, frame in messages)
    assert arrived.sort(order).equals(whole.select(FIELDS).sort(order))
    assert all(frame.height <= 50 for _, frame in messages)
    homes = pl.concat(frame.select("meter_id").unique().with_columns(key=pl.lit(key)) for key, frame in messages)
    assert homes.unique().height == TINY.meters, "a meter always goes through one head-end"


def test_a_load_is_like_life() -> None:
    came = pl.concat(TINY.frames())
    usable = came.filter(pl.col("ts") >= IMPLAUSIBLE_MS)
    assert came["arrived_ms"].is_sorted()
    assert not came["ts"].drop_nulls().is_sorted()
    assert came["meter_id"].str.len_chars().unique().to_list() == [12]
    assert came.height - usable.height == TINY.wrong > 0
    once = usable.unique(("meter_id", "ts"), keep="first")
    assert once.height == TINY.readings
    assert usable.height == TINY.accepted > TINY.readings
    waited_ms = once["arrived_ms"] - once["ts"]
    assert (waited_ms > TINY.spread_s * 1000).mean() == pytest.approx(0.02, abs=0.005)
    assert (waited_ms <= TINY.spread_s * 1000 + 120_000).all()
    broken = once.filter((pl.col("ua_v") > 1.2 * NOMINAL_V) | (pl.col("ua_v") < 0.78 * NOMINAL_V)
                         | (pl.col("p_kw") > CAPACITY_KVA) | (pl.col("q_kvar") > pl.col("p_kw")))  # fmt: skip
    assert broken.height / once.height == pytest.approx(0.01, abs=0.005)
    assert set(TINY.violations()["rule"]) == set(RULES)


def test_registers_hold_what_power_says_and_begin_anew_with_a_new_meter(tmp_path: Path) -> None:
    readings = pl.concat(TINY.readings_in_time()).sort("meter_id", "ts")
    step = readings.with_columns(step=pl.col("import_kwh").diff().over("meter_id")).drop_nulls("step")
    odd = step.filter((pl.col("step") - pl.col("p_kw") / 60).abs() > 0.002)
    assert (odd["step"] < 0).all()
    TINY.write_registry(tmp_path)
    meters = pl.read_csv(tmp_path / "registry" / "meters.csv", schema_overrides={"meter_id": pl.String})
    exchanged = meters.filter(pl.len().over("meter_id") == 2)["meter_id"].unique().sort()
    assert odd["meter_id"].to_list() == exchanged.to_list()
    assert odd["ts"].unique().to_list() == [round(MIDNIGHT.timestamp() * 1000) + 60_000]


def test_the_batch_contenders_agree_with_the_load(tmp_path: Path) -> None:
    source, expected = ndjson(TINY, tmp_path), windows_of(TINY, tmp_path)
    assert expected.height == TINY.windows
    for script in ("duckdb_batch.py", "polars_batch.py"):
        out = tmp_path / f"{script}.parquet"
        cost = process([sys.executable, CONTENDERS / script, source, out], log=tmp_path / "log")
        assert cost.cpu_s > 0
        assert cost.peak_bytes > 1_000_000
        check_windows(expected, pl.read_parquet(out), script)
    process([sys.executable, CONTENDERS / "duckdb_batch.py", source, tmp_path / "plain.parquet", "--plain"])
    with pytest.raises(ContenderError, match="differ"):
        check_windows(expected, pl.read_parquet(tmp_path / "plain.parquet"), "doubled ones twice")


def test_wrong_answers_do_not_count(tmp_path: Path) -> None:
    expected = windows_of(TINY, tmp_path)
    check_windows(expected, expected.reverse(), "itself")
    for wrong in (
        expected.head(-1),
        pl.concat([expected, expected.head(1)]),
        expected.with_columns(pl.col("p_max_kw") + (pl.int_range(pl.len()) == 3).cast(pl.Float64) * 0.001),
        expected.with_columns(u_min_v=pl.lit(None, pl.Float64)),
    ):
        with pytest.raises(ContenderError):
            check_windows(expected, wrong, "wrong")
    violations = TINY.violations().with_columns(
        violation_id=pl.col("meter_id") + pl.col("rule"), revision=pl.lit(0), state=pl.lit("raised")
    )
    assert violations.height > 3
    check_violations(TINY.violations(), violations, "itself")
    for wrong in (
        violations.head(-1),
        violations.with_columns(ended_at=pl.col("started_at")),
        violations.with_columns(state=pl.lit("withdrawn")),
    ):
        with pytest.raises(ContenderError):
            check_violations(TINY.violations(), wrong, "wrong")


def test_kilowatch_finds_what_the_load_holds(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", TINY)
    expected = windows_of(TINY, tmp_path)
    home.files(ndjson(TINY, tmp_path))
    check_lake(TINY, expected, home.path)
    check_energy(tmp_path / f"{TINY.name}.ndjson", home.path)
    for window in sorted(home.path.glob("lake/windows/*/*.parquet"))[:1]:
        rows = pl.read_parquet(window)
        rows.with_columns(energy_kwh=pl.col("energy_kwh") * 1.01).write_parquet(window)
        with pytest.raises(ContenderError, match="energies"):
            check_energy(tmp_path / f"{TINY.name}.ndjson", home.path)
        rows.write_parquet(window)
    part = next(home.path.glob("lake/readings/*/*.parquet"))
    pl.read_parquet(part).head(-1).write_parquet(part)
    with pytest.raises(ContenderError, match="readings"):
        check_lake(TINY, expected, home.path)


def test_the_profile_covers_all_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home", TINY)
    out = tmp_path / "stages.json"
    monkeypatch.setenv("KILOWATCH_STREAM__BATCH_ROWS", "20000")  # watching begins with the second batch
    cost = process([sys.executable, CONTENDERS / "profiled.py", home.path, out, ndjson(TINY, tmp_path)], log=home.log)
    found = json.loads(out.read_text("utf-8"))
    assert tuple(found) == STAGES
    assert sum(found.values()) == pytest.approx(cost.cpu_s, rel=0.3)
    for stage in ("start-up", "poll", "parse", "registry join", "windows", "rules", "state snapshot", "lake"):
        assert found[stage] > 0, stage


@pytest.mark.parametrize(("path", "function"), BEGINS)
def test_a_stage_begins_with_a_function_that_there_is(path: str, function: str) -> None:
    assert f"def {function}(" in (ROOT / path).read_text("utf-8")


def test_a_stage_has_what_the_stages_within_it_have_not() -> None:
    decode, helper, parse = (
        ("metering/readings/decode.py", 1, "decode"),
        ("x.py", 2, "help"),
        ("metering/readings/json_lines.py", 3, "parse"),
    )
    stats = {
        decode: (1, 1, 0.1, 5.0, {}),
        helper: (1, 1, 0.1, 4.0, {decode: (1, 1, 0.1, 4.0)}),
        parse: (1, 1, 0.1, 3.0, {helper: (1, 1, 0.1, 3.0)}),
    }
    found = split(stats, total_s=10.0, startup_s=1.0)
    assert (found["join"], found["parse"], found["start-up"], found["rest"]) == (2.0, 3.0, 1.0, 4.0)


def test_the_daily_batch_and_its_sql_agree(tmp_path: Path) -> None:
    load = Load(meters=120, minutes=1440, interval_min=15, start=MIDNIGHT)
    home = Home(tmp_path / "home", load)
    pl.concat(load.frames()).select(FIELDS).write_parquet(tmp_path / "day.parquet")
    home.files(tmp_path / "day.parquet")
    process([sys.executable, CONTENDERS / "daily_kilowatch.py", home.path, daily.DAY], log=home.log)
    out = tmp_path / "sql.duckdb"
    process([sys.executable, CONTENDERS / "daily_sql.py", home.path, daily.DAY, out], log=home.log)
    daily.compare(home.path / "warehouse.duckdb", out)


def test_costs_and_failures_of_processes(tmp_path: Path) -> None:
    busy = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    assert 0.3 <= process([sys.executable, "-c", busy]).cpu_s < 3
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert process([sys.executable, "-c", child]).cpu_s >= 0.3, "children's time counts"
    with pytest.raises(ContenderError, match="so it goes"):
        process([sys.executable, "-c", "raise SystemExit('so it goes')"], log=tmp_path / "log")
    waiting = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(60)"
    with pytest.raises(ContenderError, match="not finish in time"):
        process([sys.executable, "-c", waiting], done=lambda: False, longest_s=0.5)
    asked = iter((False, False, False, False, False, True))
    assert process([sys.executable, "-c", waiting], done=lambda: next(asked)).wall_s < 60


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        return lambda: order.append(name) or Cost(len(order), 1.0, 1)

    found = alternate({"a": contender("a"), "b": contender("b")}, {"a": 3, "b": 1}, 10, lambda _: None)
    assert order == ["a", "b", "a", "a"]
    assert found["a"].cpu_s == 3.0
    assert found["a"].per_cpu_s == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    ("value", "most", "verdict"),
    [(0.5, False, "met, and the aim"), (0.3, False, "met"), (0.2, False, "not met: 80% of it"),
     (0.1, True, "met, and the aim"), (0.5, True, "not met: 50% of it")],
)  # fmt: skip
def test_verdicts(value: float, most: bool, verdict: str) -> None:
    target = Target("m", "m", 0.25, 0.15 if most else 0.4, most=most)
    assert target.verdict(value) == verdict


def _recorded() -> dict[str, Any]:
    contender = Result("kilowatch", 1000, (Cost(1.0, 2.0, 2**20),)).as_dict()
    row = {
        "date": "2026-01-01", "load": "a load", "contenders": [contender], "stages": dict.fromkeys(STAGES, 1.0),
        "figures": {"lake_bytes_per_reading": 50.0}, "notes": ["A note."], "skipped": {"quix streams": "no reason"},
    }  # fmt: skip
    rows = {r.name: {**row, "measures": {t.measure: 1.5 for t in r.targets}} for r in ROWS}
    machine = {"cpu": "a core", "cores": 2, "memory_gib": 8, "system": "Linux"}
    return {
        "rows": rows,
        "before": {"file": {"measures": {"of_duckdb": 0.123}}},
        "quick": {},
        "machine": machine,
        "versions": {"polars": "2"},
    }


def test_the_report_tells_every_row() -> None:
    known = _recorded()
    text = report.performance(known)
    for row in ROWS:
        assert row.work in text
        assert f"make bench ROWS={row.name}" in text
    assert "quix streams was left out: no reason." in text
    assert "| parse | 1.00 |" in text
    assert "| 0.12 | **1.50** |" in text, "before, and now"
    del known["rows"]["live"]
    assert "not measured" in report.performance(known)


def test_scaling_is_computed_from_what_was_measured() -> None:
    known = _recorded()
    figures = scaling.measured(known)
    assert figures is not None
    small, *_, large = (scaling.needs(fleet, figures) for fleet in scaling.FLEETS)
    assert small["lake_bytes_day"] == 10_000 / 60 * 86_400 * 50
    assert large["state_bytes"] == 100_000_000 * 1.5
    assert large["processes"] == -(-100_000_000 / 900 * scaling.HEADROOM // 1000)
    assert "100,000,000 meters" in scaling.page(known)
    assert "Nothing is measured" in scaling.page({"rows": {}})


def test_the_pages_are_current(tmp_path: Path) -> None:
    known = record.load()
    assert (record.DOCS / "performance.md").read_text("utf-8") == report.performance(known), "run `make bench`"
    assert (record.DOCS / "scaling.md").read_text("utf-8") == scaling.page(known)
    record.merge({"file": {"measures": {}}}, "quick", path=tmp_path / "some.json")
    assert record.load(tmp_path / "some.json")["quick"] == {"file": {"measures": {}}}
    assert set(known["rows"]) <= set(BY_NAME)


def test_drift_is_marked() -> None:
    assert drift.line("file", "of_duckdb", 0.40, 0.30).endswith("-25%  <--")
    assert not drift.line("file", "of_duckdb", 0.40, 0.39).endswith("<--")
    assert "-" in drift.line("file", "of_duckdb", None, 0.39)


def test_stages_are_read_from_the_stream_s_own_metrics() -> None:
    assert stages({'kilowatch_stage_cpu_seconds_total{stage="poll"}': 2.5, "kilowatch_x": 1.0}) == {"poll": 2.5}


def test_the_rivals_are_pinned_with_hashes_and_no_registry_is_named() -> None:
    lock = LOCK.read_text("utf-8")
    pinned = [line for line in lock.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert {line.partition("==")[0] for line in pinned} >= {"quixstreams", "bytewax", "orjson"}
    assert all(line.rstrip().endswith("\\") for line in pinned)
    assert "://" not in lock
    assert KILOWATCH.exists()


def test_a_feed_knows_which_reading_makes_a_change_known() -> None:
    load = Load(meters=400, minutes=60, burst_min=2, spread_s=60)
    rows = pl.concat(load.frames()).select("meter_id", "ts", "arrived_ms", "ua_v")
    changes = feed.changes(load, rows)
    expected = load.violations()
    told = [change for of_row in changes.values() for change in of_row]
    assert 0.9 * expected.height < sum(state == "raised" for _, _, state in told) <= expected.height
    for row, of_row in changes.items():
        meter, ua_v = rows["meter_id"][row], rows["ua_v"][row]
        for of_meter, _, state in of_row:
            assert of_meter == meter
            assert (abs(ua_v / NOMINAL_V - 1) > 0.2) == (state == "raised")
            assert rows["arrived_ms"][row] - rows["ts"][row] <= 60_000


def test_waits_are_from_sending_to_reading_and_none_may_be_missing() -> None:
    class Told:
        def __init__(self, **at: dict[feed.Change, float]) -> None:
            self.__dict__.update(at)

    changes = [(f"{number}", "then", "raised") for number in range(200)]
    sent: Any = Told(sent={change: float(number) for number, change in enumerate(changes)})
    read: Any = Told(read={change: number + 0.25 for number, change in enumerate(changes)})
    assert feed.waits_ms(sent, read, 0.0).tolist() == [250.0] * 200
    assert len(feed.waits_ms(sent, read, 50.0)) == 150
    read.read = dict(list(read.read.items())[:190])
    with pytest.raises(ContenderError, match="10 of 200"):
        feed.waits_ms(sent, read, 0.0)
    with pytest.raises(ContenderError, match="nothing was sent"):
        feed.waits_ms(cast(Any, Told(sent={})), read, 0.0)


def test_the_pace_begins_at_a_window_s_edge_and_is_not_ahead_of_the_clock() -> None:
    for before_min in (pace.BEFORE_MIN, late.BEFORE_MIN):
        load = pace.pace_load(before_min, 240)
        begins = load.start + timedelta(minutes=before_min)
        assert load.start.timestamp() % 900 == 0
        assert timedelta() <= datetime.now(UTC) - begins < timedelta(minutes=16)
        assert load.minutes == before_min + 4


def test_late_readings_are_held_back_once_of_each_meter() -> None:
    load = Load(meters=200, minutes=1500)
    for kind, rows in late.held_back(load, 5).items():
        assert rows.height == rows["meter_id"].n_unique() == 5
        (ts,) = rows["ts"].unique()
        assert round(load.end.timestamp() * 1000) - ts == late.KINDS[kind] * 60_000


def test_the_last_ten_minutes_are_compared_with_the_first(tmp_path: Path) -> None:
    paced = object.__new__(pace.Paced)
    paced.looks = [(60.0 * n, 6.0 * n) for n in range(20)]
    assert paced.cores == pytest.approx(0.1)
    assert paced.later_pct is None
    paced.looks += [(60.0 * n, 6.0 * 19 + 9.0 * (n - 19)) for n in range(20, 31)]
    assert paced.later_pct == pytest.approx(50)


def test_made_up_rules_are_rows_of_their_own() -> None:
    rows = tomllib.loads(rules.made_up(21))["rules"]
    assert len({row["id"] for row in rows}) == 21


def test_four_rules_are_left_of_the_catalogue() -> None:
    rows = tomllib.loads(rules.switched_off(RULES))["rules"]
    assert [rule.id for rule in rulebook(rows, ()).in_use] == list(RULES)
