"""Where the stream's CPU goes: stages, by the functions that they are made of.

Here: which function begins which stage, and splitting a profile by them. Not here: running the stream under one
(`contenders.profiled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = (
    "start-up", "poll", "join", "parse", "registry join", "windows", "rules", "compliance", "state", "state snapshot",
    "lake", "topics", "rest",
)  # fmt: skip
BEGINS = {
    ("pipelines/sources/kafka.py", "poll"): "poll",
    ("pipelines/sources/files.py", "poll"): "poll",
    ("metering/readings/decode.py", "decode"): "join",
    ("metering/readings/json_lines.py", "parse"): "parse",
    ("metering/readings/columnar.py", "decode_arrow_messages"): "parse",
    ("metering/readings/columnar.py", "decode_frame"): "parse",
    ("metering/readings/admission.py", "judge"): "registry join",
    ("metering/registry/index.py", "code"): "registry join",
    ("pipelines/shard/advance.py", "advance"): "state",
    ("pipelines/shard/windows.py", "step"): "windows",
    ("pipelines/shard/events.py", "step"): "rules",
    ("pipelines/shard/events.py", "evict"): "rules",
    ("pipelines/shard/compliance.py", "step"): "compliance",
    ("pipelines/flow/batch_result.py", "placed"): "lake",
    ("pipelines/flow/batch_result.py", "tables_of"): "lake",
    ("sinks/lake/parts.py", "parts"): "lake",
    ("sinks/lake/commits.py", "commit"): "lake",
    ("pipelines/shard/state.py", "dump"): "state snapshot",
    ("pipelines/flow/outbox.py", "_put"): "topics",
    ("pipelines/flow/outbox.py", "_settled"): "topics",
}

Stats = Mapping[Any, tuple[int, int, float, float, Mapping[Any, tuple[int, int, float, float]]]]


def split(stats: Stats, total_s: float, startup_s: float) -> dict[str, float]:
    """Seconds of each of STAGES, from a profile's cumulative times: a stage has what the stages within it have not."""
    seconds = dict.fromkeys(STAGES, 0.0)
    stage_of = {function: stage for function in stats if (stage := _stage(function)) is not None}
    for function, stage in stage_of.items():
        cumulative = stats[function][3]
        seconds[stage] += cumulative
        outer = _enclosing(function, stats, stage_of)
        if outer is not None:
            seconds[outer] -= cumulative
    seconds["start-up"] = startup_s
    seconds["rest"] = max(0.0, total_s - sum(seconds.values()))
    return {stage: round(max(0.0, value), 4) for stage, value in seconds.items()}


def _stage(function: tuple[str, int, str]) -> str | None:
    path, _, name = function
    return next((stage for (end, begins), stage in BEGINS.items() if name == begins and path.endswith(end)), None)


def _enclosing(function: Any, stats: Stats, stage_of: Mapping[Any, str]) -> str | None:
    """The stage that calls it, directly or through functions of none; every stage here has at most one."""
    seen, waiting = {function}, list(stats[function][4])
    while waiting:
        caller = waiting.pop()
        if caller in stage_of:
            return stage_of[caller]
        if caller not in seen:
            seen.add(caller)
            waiting += list(stats.get(caller, (0, 0, 0.0, 0.0, {}))[4])
    return None
