"""How the stream runs: its figures, and what it is given from outside.

Here: every setting of the stream, declared once with its meaning and bounds. Not here: reading settings or the registry
from files (`orchestration`), the figures of rules (`metering.settings`).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings


class Registry(Protocol):
    """The registry in force. A changed one is a new index; a bad one never is."""

    def index(self) -> MeterIndex: ...


@dataclass(frozen=True, slots=True)
class ResultTopics:
    """Names of the topics that results go to."""

    windows: str
    violations: str
    compliance: str
    load_control: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """The section `[stream]` of the settings: what is said of each figure goes to the docs, its bounds are checked.

    Defaults are those of `orchestration/home/defaults.toml`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    lateness_s: Annotated[int, Field(ge=0)] = 300
    """the watermark is the highest time seen less this"""
    future_tolerance_s: Annotated[int, Field(ge=0)] = 300
    """readings further ahead of the log's own time are rejected"""
    gap_intervals: Annotated[float, Field(gt=0)] = 1.5
    """a longer silence, in reporting intervals, ends a run"""
    windows_kept: Annotated[int, Field(ge=1)] = 4
    """closed windows kept in memory for late readings; older ones are read from the lake"""
    silent_days: Annotated[float, Field(ge=1)] = 7
    """a meter not heard for so long leaves memory; it is read back when it speaks again"""
    live_days: Annotated[float, Field(ge=0)] = 1
    """partitions whose newest reading is no older are live: while nothing comes the clock tells what is due; 0: none"""
    batch_rows: Annotated[int, Field(ge=1)] = 100_000
    """largest micro-batch; under backlog bigger is cheaper"""
    poll_ms: Annotated[int, Field(ge=1)] = 50
    """how long a poll waits for a first message: the floor of latency when live"""
    linger_ms: Annotated[int, Field(ge=0, le=1000)] = 150
    """a poll that has found something waits this long for more from all partitions"""
    commit_interval_s: Annotated[float, Field(gt=0)] = 10
    """lake parts, state and offsets are committed together, this often"""
    commit_rows: Annotated[int, Field(ge=1)] = 1_000_000
    """or after so many readings"""
    stalled_after_s: Annotated[float, Field(ge=3)] = 15
    """a stream without a sign of life for so long is taken over from at a second start"""
    metrics_port: Annotated[int, Field(ge=-1, le=65535)] = 9108
    """Prometheus on loopback; 0: any free port; -1: off"""
    registry_check_s: Annotated[float, Field(gt=0)] = 20
    """how often a changed registry is looked for"""

    @property
    def silent_s(self) -> float:
        """`silent_days` in seconds, by the time of the data."""
        return self.silent_days * 86_400


@dataclass(frozen=True, slots=True)
class StreamSettings(StreamOptions):
    """All figures that a stream goes by: the options, the core's own, and how it waits for brokers.

    Brokers have `flush_s` to settle the results of a batch, and are asked again after `retry_s`, while nothing more is
    read; at a stop they have `last_flush_s`. What is due by the clock is looked for every `look_s`, once
    the source has been read without a break for so long.
    """

    metering: MeteringSettings
    _: KW_ONLY
    flush_s: float = 2.0
    retry_s: float = 1.0
    last_flush_s: float = 5.0
    tick_s: float = 0.5
    look_s: float = 10.0

    @classmethod
    def of(cls, metering: MeteringSettings, options: StreamOptions) -> StreamSettings:
        return cls(metering, **{field.name: getattr(options, field.name) for field in fields(StreamOptions)})
