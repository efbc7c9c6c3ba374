"""Homes that were written when each file, and each partition, had a state of its own: they go on by themselves."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.events.catalogue import default_rules, rulebook
from metering.readings.decode import Messages
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import LAKE
from orchestration.home.settings import Settings, load_settings
from orchestration.stream import run as stream_run
from orchestration.stream.rejects_replay import replay_rejects
from pipelines.flow.dataflow import Run, build, run_flow
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks
from pipelines.shard.recovery import rebuild, unreadable
from pipelines.shard.store import naming_of
from pipelines.sources.poll import Batch, OwnShard, Positions, Segment
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader, current
from tests.pipelines.flow.flows import Fixed, final_of, same_in_the_end

TOPIC = "meter.readings.v1"
RULES = ("over_voltage", "under_voltage", "over_capacity", "low_power_factor")
OFF = [{"id": rule, "start": 0} for rule in default_rules().by_id if rule not in RULES]
READ = {"a.ndjson": 65, "b.ndjson": 50, "sub/c.ndjson": 80, "d.ndjson": 0}
"""Lines that had been read of each file."""
SINCE = (
    "energy_basis", "covered_min", "reason", "energy_kwh", "kvar_needed", "projected_power_factor",
    *(f"{span}_{name}" for span in ("day", "month") for name in ("active_kwh", "power_factor")),
)  # fmt: skip
"""Columns that have come since then, or that mean something else by now: registers are held against power."""
LOGGED_MS = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Folder with the homes `files` and `topic`, and all that they were read from, whole."""
    folder = tmp_path / "before"
    with tarfile.open(Path(__file__).parent / "data" / "home-before.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def _tables(home: Path) -> dict[str, pl.DataFrame]:
    lake = LakeReader(home)
    return {name: lake.scan(name).collect() for name in LAKE}


def _kept(before: dict[str, pl.DataFrame], after: dict[str, pl.DataFrame]) -> None:
    for name, rows in before.items():
        key = [*LAKE[name].key, *(["revision"] if "revision" in rows.columns else [])]
        assert rows.join(after[name], on=key, how="anti").is_empty(), f"rows of {name} are gone"


# --- files ------------------------------------------------------------------------------------------------------------


APART = (
    *({"id": rule.id, "flicker_s": 0, "version": rule.version} for rule in default_rules().rules if rule.id in RULES),
    *OFF,
)
"""The rules that there were when the homes were written; nothing comes back as the same violation, as it was then."""


def _settings(home: Path, rules: Sequence[Mapping[str, Any]] = APART) -> Settings:
    rows = [[f"{key} = {json.dumps(value)}" for key, value in row.items()] for row in rules]
    (home / "kilowatch.toml").write_text("\n".join(line for row in rows for line in ("[[rules]]", *row)), "utf-8")
    settings = load_settings(home)
    return settings.model_copy(update={"stream": replace(settings.stream, metrics_port=-1)})


def _stream_files(home: Path, telemetry: Path, rules: Sequence[Mapping[str, Any]] = APART) -> Run:
    run = Run()
    stream_run.stream_files(home, _settings(home, rules), telemetry, run)
    return run


def test_files_go_on_as_one_log(before: Path, tmp_path: Path) -> None:
    home, telemetry = before / "files", before / "telemetry"
    first = _tables(home)
    assert first["readings"].height + first["rejects"].height == sum(READ.values())
    left = sum(path.read_bytes().count(b"\n") for path in telemetry.rglob("*.ndjson")) - sum(READ.values())
    run = _stream_files(home, telemetry)
    assert run.metrics.readings + run.metrics.rejects == left
    after = _tables(home)
    _kept(first, after)
    new = pl.concat([after[name].select("source", "source_offset", "log_offset") for name in ("readings", "rejects")])
    new = new.filter(pl.col("log_offset").is_not_null()).sort("source", "source_offset")
    top = new.filter(pl.col("source") != "sub/c.ndjson")
    assert top["log_offset"].to_list() == list(range(115, 115 + top.height))
    assert new.filter(source="sub/c.ndjson")["log_offset"].to_list() == list(range(80, 80 + new.height - top.height))
    clean = tmp_path / "clean"
    shutil.copytree(home / "registry", clean / "registry")
    _stream_files(clean, telemetry)
    same_in_the_end(home, clean, SINCE)
    revised = after["windows"].filter(pl.col("revision") > 0)
    assert revised.height > 0, "windows closed at the end of a file go on in their revisions"
    again = _stream_files(home, telemetry)
    assert again.metrics.readings == 0
    assert all(rows.equals(after[name]) for name, rows in _tables(home).items())


def test_what_was_open_then_ends_under_its_own_name(before: Path, tmp_path: Path) -> None:
    """Also where it would be the same as one before it by now."""
    home, telemetry = before / "files", before / "telemetry"
    clean = tmp_path / "clean"
    shutil.copytree(home / "registry", clean / "registry")
    ends = []
    for folder in (home, clean):
        _stream_files(folder, telemetry, rules=OFF)
        rows = current(LakeReader(folder).scan("violations"), ("violation_id",)).collect()
        ends.append(rows.filter(pl.col("state") != "withdrawn"))
    still = [rows.filter(pl.col("ended_at").is_null()).select("meter_id", "rule", "phase").rows() for rows in ends]
    assert sorted(still[0]) == sorted(still[1])
    assert ends[0].height > ends[1].height, "some came back soon"


def test_files_started_anew_go_on_where_they_were(before: Path) -> None:
    """Each start before anything new has come."""
    home, telemetry = before / "files", before / "telemetry"
    whole = {path: path.read_bytes() for path in telemetry.rglob("*.ndjson")}
    for path, data in whole.items():
        rows = READ[path.relative_to(telemetry).as_posix()]
        path.write_bytes(b"".join(data.splitlines(keepends=True)[:rows]))
    first = _tables(home)
    for _ in range(2):
        assert _stream_files(home, telemetry).metrics.readings == 0
        assert all(rows.height == first[name].height for name, rows in _tables(home).items())
    for path, data in whole.items():
        path.write_bytes(data)
    run = _stream_files(home, telemetry)
    assert run.metrics.readings + run.metrics.rejects == sum(data.count(b"\n") for data in whole.values()) - sum(
        READ.values()
    )
    final_of(home)


def _knows(home: Path, meter: str) -> None:
    meters = home / "registry" / "meters.csv"
    lines = meters.read_text("utf-8").splitlines()
    meters.write_text("\n".join([*lines, lines[1].replace("M0", meter)]) + "\n", "utf-8")


def test_rejects_of_files_are_read_again_before_any_of_them_is_streamed_on(before: Path, tmp_path: Path) -> None:
    """Where no stream runs, with a meter that the registry knows by now."""
    home, telemetry = before / "files", before / "telemetry"
    _knows(home, "M9")
    told = replay_rejects(home, _settings(home), lambda _, __: None)
    assert told.filter(reason="unknown_meter").select("replayed", "open").rows() == [(5, 0)]
    _stream_files(home, telemetry)
    clean = tmp_path / "clean"
    shutil.copytree(home / "registry", clean / "registry")
    _stream_files(clean, telemetry)
    same_in_the_end(home, clean, SINCE)


# --- a topic ----------------------------------------------------------------------------------------------------------


class _Partitions:
    """A topic's partitions as logs, polled together, about as many messages of each as `step`."""

    stale_since = None

    def __init__(self, logs: Sequence[Sequence[bytes]], step: int) -> None:
        self._logs, self._step = logs, step
        self._next: list[int] = []

    def worker_of(self, shard: str, workers: int) -> int | None:  # noqa: ARG002 - a source's signature
        return 0

    def open(self, worker: int, workers: int, positions: Positions) -> _Partitions:  # noqa: ARG002
        self._next = [(positions(f"{TOPIC}-{p}") or {"offset": 0})["offset"] for p in range(len(self._logs))]
        return self

    def poll(self) -> list[Batch]:
        values: list[bytes] = []
        offsets: list[int] = []
        segments = []
        for partition, log in enumerate(self._logs):
            first, last = self._next[partition], min(self._next[partition] + self._step, len(log))
            if first == last:
                continue
            self._next[partition] = last
            values += log[first:last]
            offsets += range(first, last)
            segments.append(Segment(f"{TOPIC}-{partition}", TOPIC, partition, last - first, {"offset": last}))
        content = Messages(values, offsets, [LOGGED_MS] * len(values), [b"k"] * len(values))
        return [Batch(content, tuple(segments))]

    @property
    def finished(self) -> bool:
        return self._next == [len(log) for log in self._logs]

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        return OwnShard(f"{TOPIC}-{partition}", over=False) if source == TOPIC else None

    def close(self) -> None: ...


def _stream_topic(home: Path, source: _Partitions, index: MeterIndex, settings: MeteringSettings) -> Run:
    """As `kilowatch stream` starts: a state that cannot be read is made anew first."""
    run, owner = Run(), take(home)
    try:
        sinks = Sinks(LakeReader(home), CommitLog(home, owner))
        naming = naming_of(index, settings)
        if unreadable(sinks.commits, naming):
            rebuild(sinks.lake, sinks.commits, naming, settings, 8)
        figures = StreamSettings(settings, windows_kept=8, commit_interval_s=1e9, commit_rows=10**9)
        run_flow(build(source, sinks, figures, Fixed(index), run), run)
    finally:
        owner.release()
    return run


@pytest.mark.parametrize("steps", [(10**6,), (7,), (1, 10**6)], ids=str)
def test_a_topic_goes_on(
    before: Path, tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, steps: tuple[int, ...]
) -> None:
    metering_settings = replace(metering_settings, rules=rulebook(APART, ()))
    logs = [(before / f"partition-{p}.ndjson").read_bytes().splitlines() for p in (0, 1)]
    home = before / "topic"
    first = _tables(home)
    taken = sum(first[name].height for name in ("readings", "rejects"))
    assert taken == 177
    run = Run()
    for step in steps:
        run = _stream_topic(home, _Partitions(logs, step), index, metering_settings)
    after = _tables(home)
    _kept(first, after)
    assert after["readings"].height + after["rejects"].height == sum(map(len, logs))
    if len(steps) == 1:
        assert run.metrics.readings + run.metrics.rejects == sum(map(len, logs)) - taken
    _stream_topic(tmp_path / "clean", _Partitions(logs, 10**6), index, metering_settings)
    same_in_the_end(home, tmp_path / "clean", SINCE)
