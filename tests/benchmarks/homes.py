"""Kilowatch as a contender: a new home for each run, `kilowatch stream` on it, its metrics and its answer.

Here: the product's own command as a process. Not here: its rivals (`contenders`), what is measured in which row.
"""

from __future__ import annotations

import shutil
import socket
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import psutil

from tests.benchmarks.data import Load
from tests.benchmarks.measure import KILOWATCH, LONGEST_S, Cost, process

TOPICS = ("readings", "windows", "violations", "compliance", "load_control", "rejected")


@dataclass
class Home:
    """A home for `load` in `path`; `settings` are lines for its kilowatch.toml, `topics` the names in them."""

    path: Path
    load: Load
    settings: str = ""
    topics: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: set[int] | None = None

    def __post_init__(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self.load.write_registry(self.path)
        (self.path / "kilowatch.toml").write_text(self.settings, "utf-8")
        self.port = free_port()

    @property
    def log(self) -> Path:
        return self.path / "process.log"

    def files(self, source: Path, *options: str) -> Cost:
        """Run the stream over files, to their end."""
        return process(
            [KILOWATCH, "stream", "--home", self.path, "--source", source, *options],
            environment={"KILOWATCH_STREAM__METRICS_PORT": "-1", **self.environment}, log=self.log, cores=self.cores,
        )  # fmt: skip

    def kafka(self, *options: str) -> Cost:
        """Run the stream on Kafka until it has taken all of the load, then end it by SIGTERM."""
        return self.until(lambda: self.metric("kilowatch_readings_received_total") >= self.load.received, *options)

    def until(self, done: Callable[[], bool], *options: str, longest_s: float = LONGEST_S) -> Cost:
        """Run the stream on Kafka until `done`, which is asked now and then; then end it by SIGTERM."""
        return process(
            [KILOWATCH, "stream", "--home", self.path, "--kafka", *options],
            environment={"KILOWATCH_STREAM__METRICS_PORT": str(self.port), **self.environment},
            done=done, log=self.log, cores=self.cores, longest_s=longest_s,
        )  # fmt: skip

    def cpu_s(self) -> float:
        """CPU time of the running stream so far, all its processes; 0 while none runs."""
        streams = [child for child in psutil.Process().children() if child.name() == "kilowatch"]
        running = [process for stream in streams for process in (stream, *stream.children(recursive=True))]
        return sum(sum(process.cpu_times()[:2]) for process in running)

    def metrics(self) -> dict[str, float]:
        """All metrics of the running stream, by name and labels; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def metric(self, name: str) -> float:
        return self.metrics().get(name, 0.0)

    def committed(self) -> int:
        """Readings in the lake: what a stream that is ended now has for good."""
        parts = list(self.path.glob("lake/readings/*/*.parquet"))
        return int(pl.scan_parquet(parts).select(pl.len()).collect().item()) if parts else 0

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def result_topics(prefix: str, readings: str) -> dict[str, str]:
    """Names of topics for results of its own, and for the log of all runs, `readings`."""
    return {name: f"{prefix}.{name}" for name in TOPICS} | {"readings": readings}


def topic_settings(address: str, topics: Mapping[str, str], partitions: int) -> str:
    """A kilowatch.toml for `address` with topics of these names."""
    names = "".join(f'{name} = "{topic}"\n' for name, topic in topics.items())
    return f'bootstrap_servers = "{address}"\n[topics]\npartitions = {partitions}\n{names}'


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


def stages(metrics: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds by stage, as the stream itself counts them."""
    head = 'kilowatch_stage_cpu_seconds_total{stage="'
    return {name[len(head) : -2]: value for name, value in metrics.items() if name.startswith(head)}


def most_workers() -> int:
    """How many processes this `kilowatch stream` can run."""
    from orchestration.cli.stream import command

    kind = next(option.type for option in command.params if option.name == "workers")
    return getattr(kind, "max", None) or 1_000_000
