"""Violations under readings that come later than the state remembers: the past is read back and judged anew.

Here: how far back to look, and what to hold against what was told. Not here: reading the past (`history`), readings
that the state still holds (`judging`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from metering.events import judge
from metering.events.corrections import last_told, revise
from metering.events.lifecycle import CHANGE_SCHEMA, PAIR, STATE_SCHEMA, advance
from metering.load.windows import latest
from metering.tables.schema import no_rows
from pipelines.shard.environment import Environment
from pipelines.shard.state import ROW_SCHEMA

RUN_UP = timedelta(days=1)
"""Judging starts this long before what it is about: longer than any run can last without raising or clearing."""
LOOK_BACK = timedelta(days=62)
"""Violations that have not changed for so long are taken to be over."""
_SETTLED = RUN_UP / 2


def said(rows: pl.DataFrame, pairs: pl.DataFrame, env: Environment) -> pl.DataFrame:
    """What readings say to the checks of some (meter, code) pairs (JUDGED_SCHEMA), one reading for each time."""
    single = latest(rows.select(ROW_SCHEMA.names()))
    judged = judge.judge(single, env.meter_versions, env.settings, pairs["code"].unique())
    return judged.join(pairs, on=PAIR, how="semi", maintain_order="left")


def up_to(ordered: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    """Of the batch (`ordered`) the readings of each meter in `part`, up to its last one's `position` there."""
    until = part.group_by("meter").agg(pl.col("position").max().alias("until"))
    return ordered.join(until, on="meter").filter(pl.col("position") <= pl.col("until"))


def caused_by(part: pl.DataFrame) -> pl.DataFrame:
    """`meter`, and `at`: the time of its last reading in `part`."""
    return part.group_by("meter").agg(pl.col("ts").sort_by("position").last().alias("at"))


@dataclass(frozen=True, slots=True)
class Anew:
    """What judging anew gave: where the pairs stand now, and at the horizon (STATE_SCHEMA), and CHANGE_SCHEMA."""

    now: pl.DataFrame
    base: pl.DataFrame
    changes: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Past:
    """Of meters with readings older than the state: all their readings since well before those, and what was told."""

    rows: pl.DataFrame
    told: pl.DataFrame

    @classmethod
    def of(cls, forgotten: pl.DataFrame, env: Environment, told: pl.DataFrame | None = None) -> Past:
        """The past that readings (`meter`, `ts`) need which the state has forgotten; empty where there are none.

        `told`: what was told of their meters, where that is known already.
        """
        oldest = forgotten["ts"].min()
        if not isinstance(oldest, datetime):
            return cls(no_rows(ROW_SCHEMA), no_rows(CHANGE_SCHEMA))
        meters = forgotten["meter"].unique()
        told = env.history.violations(meters, oldest - LOOK_BACK) if told is None else told
        starts = forgotten.group_by("meter").agg(pl.col("ts").min().alias("late"))
        since = _anchors(starts, told)["anchor"].min()
        assert isinstance(since, datetime)
        return cls(env.history.readings_since(meters, since), told)

    def judged_anew(
        self,
        ordered: pl.DataFrame,
        part: pl.DataFrame,
        pairs: pl.DataFrame,
        told: pl.DataFrame,
        horizon_us: int | None,
        env: Environment,
    ) -> Anew:
        """Late readings of the meters in `part`: the past, with the batch up to them (`ordered`), judged anew."""
        nothing, gap = no_rows(STATE_SCHEMA), env.settings.gap_intervals
        if part.is_empty():
            return Anew(nothing, nothing, no_rows(CHANGE_SCHEMA))
        known = last_told(pl.concat([self.told, told])).join(pairs, on=PAIR, how="semi")
        anchors = _anchors(part.group_by("meter").agg(pl.col("ts").min().alias("late")), known)
        here = up_to(ordered, part).select(ROW_SCHEMA.names())
        rows = pl.concat([self.rows.join(part, on="meter", how="semi"), here])
        rows = rows.join(anchors, on="meter").filter(pl.col("ts") > pl.col("anchor"))
        judged = said(rows, pairs, env)
        now, changes = revise(judged, nothing, _settled(known, anchors), env.meter_versions, gap, caused_by(part))
        before = pl.lit(False) if horizon_us is None else pl.col("ts").to_physical() <= horizon_us
        base, _ = advance(judged.filter(before), nothing, env.meter_versions, gap)
        return Anew(now, base, _settled(changes, anchors))


def _anchors(late: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """For each meter (`meter`, `late`) the time to start from (`anchor`): before what was going on at the late one."""
    found = late.with_columns(anchor=pl.col("late") - RUN_UP)
    spans = told.filter(pl.col("state") != "withdrawn").select("meter", "started_at", "ended_at")
    while True:
        going_on = (
            found.join(spans, on="meter")
            .filter(
                (pl.col("started_at") < pl.col("anchor") + _SETTLED)
                & (pl.col("ended_at").is_null() | (pl.col("ended_at") > pl.col("anchor")))
            )
            .group_by("meter")
            .agg((pl.col("started_at").min() - RUN_UP).alias("earlier"))
        )
        moved = found.join(going_on, on="meter", how="left").with_columns(anchor=pl.min_horizontal("anchor", "earlier"))
        if moved["anchor"].equals(found["anchor"]):
            return found.select("meter", "anchor")
        found = moved.drop("earlier")


def _settled(changes: pl.DataFrame, anchors: pl.DataFrame) -> pl.DataFrame:
    """Violations that began once judging had run up; those before are not known to be told right by it."""
    recent = changes.join(anchors, on="meter").filter(pl.col("started_at") >= pl.col("anchor") + _SETTLED)
    return recent.select(CHANGE_SCHEMA.names())
