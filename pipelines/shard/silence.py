"""Readings that are due and do not come: raised while nothing arrives, cleared once every one of them has.

Here: the frame MISSING, and how a turn moves it on. Not here: what a gap is and what the rule asks
(`metering.events.silence`).

A shard is looked at when it has been read to its end, for a backlog may hold what seems to be missing: then what its
watermark has passed, and has not come, is missing. While nothing at all arrives in a live shard the clock stands for
its highest time (docs/adr/0013-silence-is-looked-at.md). So which slots are missing in the end depends on the log
alone; whether a gap that was filled later had been told of depends on when it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache

import polars as pl

from metering.calendar import local_date
from metering.events.catalogue import checks
from metering.events.lifecycle import CHANGE_SCHEMA, LOOK_BACK
from metering.events.silence import RULE, figures, filled, gaps, missing_slots
from metering.registry.index import MeterIndex
from metering.settings import Rulebook
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.chunks import NEVER
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import Context

MISSING = Frame(
    "missing",
    1,
    pl.Schema(
        {
            "meter": pl.UInt32(),
            "started_us": pl.Int64(),
            "from_us": pl.Int64(),
            "to_us": pl.Int64(),
            "until_us": pl.Int64(),
            "most": pl.Int64(),
            "revision": pl.Int32(),
        }
    ),
    stays=pl.lit(True),
)
"""Gaps with slots that have not come: between `from_us` and `to_us` (null: the meter has not been heard since). Pieces
of what was told of as one gap have one `started_us`, its end `until_us` and `most`, how many slots were missing in it;
`revision` is that of what was told, null before."""

CaughtUp = Mapping[int, int]
"""Shards (numbers) that have been read to their end; the clock [us] where that stands for their highest time, else
NEVER."""

_NAME = ("meter", "started_us")
_SECOND_US = 1_000_000
_LOOK_BACK_US = int(LOOK_BACK.total_seconds()) * _SECOND_US
_NO_US = pl.lit(None, pl.Int64)
_ALONE_US = 6 * 3_600 * _SECOND_US
_FEW = 2


def step(
    state: State, before_us: pl.Series, turn: Turn, caught_up: CaughtUp, context: Context
) -> tuple[State, pl.DataFrame]:
    """The state after a turn's readings, which already knows when their meters were heard (`before_us`: before them, by
    code), and what there is to tell (CHANGE_SCHEMA).
    """
    held = known = state.frame(MISSING)
    changes = [no_rows(CHANGE_SCHEMA)]
    if context.settings.rules.starts(RULE) or held.height:
        if turn.rows.height:
            known, told = _heard(known, before_us, state, turn, context)
            changes.append(told)
        if caught_up:
            known, told = _looked_at(known, state, caught_up, context)
            changes.append(told)
    return state if known is held else state.having({MISSING: known}), pl.concat(changes)


# --- what has come --------------------------------------------------------------------------------------------------


def _heard(
    known: pl.DataFrame, before_us: pl.Series, state: State, turn: Turn, context: Context
) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = turn.rows
    interval_us = context.meter_versions["interval_s"].gather(rows["version"]).cast(pl.Int64) * _SECOND_US
    slots = rows.select("meter", "slot_us", interval_us.alias("interval_us"))
    fresh = gaps(slots, _last_us(known, before_us)[rows["meter"]])
    mine = known.filter(pl.col("meter").is_in(rows["meter"].unique().implode())) if known.height else known
    if fresh.is_empty() and mine.is_empty():
        return known, no_rows(CHANGE_SCHEMA)
    silent = mine.filter(pl.col("to_us").is_null())
    fresh = _apart(fresh.join(silent, on=("meter", "from_us"), how="anti"), context)
    if mine.is_empty():
        return _ordered([known, fresh]), no_rows(CHANGE_SCHEMA)
    spoken, tails = _spoken(mine, silent, slots, state, context)
    left = _left(spoken, slots, context)
    left, changes = _told(mine, spoken, pl.concat([left, tails]), context)
    others = known.filter(~pl.col("meter").is_in(mine["meter"].unique().implode()))
    return _ordered([others, left, fresh]), changes


def _last_us(known: pl.DataFrame, before_us: pl.Series) -> pl.Series:
    """When meters were last heard, those that have left the state in silence included."""
    silent = known.filter(pl.col("to_us").is_null())
    if silent.is_empty():
        return before_us
    theirs = silent.select("meter", us=pl.max_horizontal("from_us", before_us[silent["meter"]]))
    return before_us.clone().scatter(theirs["meter"], theirs["us"])


def _apart(pieces: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Each piece (`meter`, `from_us`, `to_us`) as a gap of its own, but for those too short ever to be told of, or from
    when the registry knew no such meter.
    """
    rows = _figured(pieces, context).filter(missing_slots() * pl.col("interval_us") >= pl.col("needed_us"))
    return rows.select(
        "meter", pl.col("from_us").alias("started_us"), "from_us", "to_us", pl.col("to_us").alias("until_us"),
        missing_slots().alias("most"), pl.lit(None, pl.Int32).alias("revision"),
    )  # fmt: skip


def _spoken(
    mine: pl.DataFrame, silent: pl.DataFrame, slots: pl.DataFrame, state: State, context: Context
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Gaps once their silent meters have spoken; and what goes on of silences that were told of: of meters that
    are overdue still, for they send piece by piece what is missing.
    """
    later = slots.join(silent.select(*_NAME, "from_us"), on="meter").filter(pl.col("slot_us") > pl.col("from_us"))
    if later.is_empty():
        return mine, no_rows(MISSING.schema)
    first = later.group_by(_NAME).agg(pl.col("slot_us").min().alias("first_us"), pl.col("interval_us").first())
    joined = mine.join(first, on=_NAME, how="left", maintain_order="left")
    ends = pl.col("to_us").is_null() & pl.col("first_us").is_not_null()
    meters = state.meters(context.index)
    at_us = pl.Series(state.shards.max_us, dtype=pl.Int64)[meters["shard"][joined["meter"]]] - _lateness_us(context)
    still = joined.with_columns(meters["seen_us"][joined["meter"]].alias("from_us"), at_us.alias("at_us"))
    still = _figured(still.filter(ends & pl.col("revision").is_not_null()).drop("interval_us"), context)
    tails = still.filter(pl.col("at_us") - pl.col("from_us") >= pl.col("needed_us")).select(MISSING.schema.names())
    count = (pl.col("first_us") - pl.col("from_us")) // pl.col("interval_us") - 1
    spoken = joined.with_columns(
        pl.when(ends).then("first_us").otherwise("to_us").alias("to_us"),
        pl.when(ends).then(pl.max_horizontal("most", count)).otherwise("most").alias("most"),
        pl.coalesce("until_us", "first_us").alias("until_us"),
    )
    on_and_on = spoken.select(_NAME).join(tails.select(*_NAME, on=True), on=_NAME, how="left", maintain_order="left")
    until = pl.when(on_and_on["on"].is_null()).then("until_us")
    return spoken.with_columns(until).select(MISSING.schema.names()), tails


def _left(spoken: pl.DataFrame, slots: pl.DataFrame, context: Context) -> pl.DataFrame:
    """What is missing still once slots have come. Pieces of what has not been told of are gaps of their own."""
    closed = spoken.filter(pl.col("to_us").is_not_null()).with_row_index("gap")
    came = slots.select("meter", "slot_us").join(closed.select("gap", "meter", "from_us", "to_us"), on="meter")
    came = came.filter(pl.col("slot_us").is_between("from_us", "to_us", closed="none"))
    pieces = filled(_figured(closed, context), came).join(closed.drop("from_us", "to_us"), on="gap")
    told = pieces.filter(pl.col("revision").is_not_null()).select(MISSING.schema.names())
    apart = _apart(pieces.filter(pl.col("revision").is_null()).select("meter", "from_us", "to_us"), context)
    return pl.concat([spoken.filter(pl.col("to_us").is_null()), told, apart])


def _told(
    before: pl.DataFrame, spoken: pl.DataFrame, left: pl.DataFrame, context: Context
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`left` with what is told of it from now on; changes: gaps that are over, or at an end while not all has come."""
    told = before.filter(pl.col("revision").is_not_null())
    if told.is_empty():
        return left, no_rows(CHANGE_SCHEMA)
    was = told.group_by(_NAME, maintain_order=True).agg(pl.col("to_us").is_null().any().alias("was_silent"))
    now = spoken.group_by(_NAME).agg(pl.col("until_us").max(), pl.col("most").max(), pl.col("revision").max())
    remaining = left.group_by(_NAME).agg(pl.col("to_us").is_null().any().alias("silent"))
    joined = was.join(now, on=_NAME, maintain_order="left").join(remaining, on=_NAME, how="left", maintain_order="left")
    over, spoke = pl.col("silent").is_null(), pl.col("was_silent") & ~pl.col("silent")
    state = pl.when(over).then(pl.lit("cleared")).when(spoke).then(pl.lit("updated")).alias("state")
    changed = joined.with_columns(state, pl.col("revision") + 1).filter(pl.col("state").is_not_null())
    figure = changed.select(*_NAME, "until_us", "most", "revision")
    updated = left.select(_NAME).join(figure, on=_NAME, how="left", maintain_order="left")
    left = left.with_columns(pl.coalesce(updated[name], left[name]) for name in ("until_us", "most", "revision"))
    return left, _changes(changed, context)


# --- what has not come ----------------------------------------------------------------------------------------------


def _looked_at(
    known: pl.DataFrame, state: State, caught_up: CaughtUp, context: Context
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What has not come, of shards that have been read to their end, and is due by their watermark."""
    marks = [NEVER] * len(state.shards.names)
    for shard, clock_us in caught_up.items():
        marks[shard] = max(state.shards.max_us[shard], clock_us) - _lateness_us(context)
    marks[0] = max(marks)  # of meters whose shard is not known any more
    meters = state.meters(context.index)
    at_us, seen_us = pl.Series(marks, dtype=pl.Int64)[meters["shard"]], meters["seen_us"]
    silent = ((seen_us != 0) & (at_us - seen_us >= _least_us(context))).arg_true().cast(pl.UInt32)
    going_on = known.filter(pl.col("to_us").is_null())
    tails = _tails(silent, seen_us[silent]).join(going_on, on="meter", how="anti", maintain_order="left")
    waiting = pl.col("revision").is_null()
    due = pl.concat([tails, known.filter(waiting)])
    if due.height:
        due = due.with_columns(_not_alone(at_us, caught_up, state, context)[due["meter"]].alias("at_us"))
        due = _figured(due, context).filter(pl.col("at_us") - pl.col("from_us") >= pl.col("needed_us"))
    if due.is_empty():
        return _without_old(known, max(marks)), no_rows(CHANGE_SCHEMA)
    least = pl.col("needed_us") // pl.col("interval_us")
    due = due.with_columns(
        pl.coalesce("most", least).alias("most"), pl.lit(0, pl.Int32).alias("revision"), state=pl.lit("raised")
    )
    raised = due.select(MISSING.schema.names())
    others = known.join(raised.select(_NAME), on=_NAME, how="anti")
    return _without_old(_ordered([others, raised]), max(marks)), _changes(due.select(*raised.columns, "state"), context)


def _not_alone(at_us: pl.Series, caught_up: CaughtUp, state: State, context: Context) -> pl.Series:
    """The watermarks by meter, of a shard in which one meter alone is hours ahead of the others that of the others: a
    clock is wrong more often than all other meters are silent.
    """
    meters = state.meters(context.index).filter(pl.col("seen_us") != 0)
    two = meters.group_by("shard").agg(pl.col("seen_us").top_k(2), pl.len())
    for shard, newest, count in two.iter_rows():
        if caught_up.get(shard) == NEVER and count > _FEW and newest[0] - newest[1] > _ALONE_US:
            mine = state.meters(context.index)["shard"] == shard
            at_us = at_us.set(mine, newest[1] - _lateness_us(context))
    return at_us


def _without_old(known: pl.DataFrame, at_us: int) -> pl.DataFrame:
    """Without gaps that nobody will fill any more."""
    old = (known["until_us"] <= at_us - _LOOK_BACK_US).fill_null(False)
    return known.filter(~old) if old.any() else known


# --- who leaves, and what is made anew  -----------------------------------------------------------------


def left(state: State, before: State, context: Context) -> State:
    """The state with the silence of meters that have just left it, for nobody knows then when they were heard."""
    if state is before or not context.settings.rules.starts(RULE):
        return state
    was_us = before.meters(context.index)["seen_us"]
    gone = ((was_us != 0) & (state.meters(context.index)["seen_us"] == 0)).arg_true().cast(pl.UInt32)
    known = state.frame(MISSING)
    silent = known.filter(pl.col("to_us").is_null())
    tails = _tails(gone, was_us[gone]).join(silent, on="meter", how="anti")
    return state.having({MISSING: _ordered([known, tails])}) if tails.height else state


def _tails(meters: pl.Series, seen_us: pl.Series) -> pl.DataFrame:
    """Silences that have not been told of: rows of MISSING."""
    rows = pl.DataFrame([meters.alias("meter"), seen_us.alias("from_us")])
    no_us = pl.lit(None, pl.Int64)
    return rows.with_columns(
        started_us="from_us", to_us=no_us, until_us=no_us, most=no_us, revision=pl.lit(None, pl.Int32)
    ).select(MISSING.schema.names())


def remade(state: State, days: Iterable[pl.DataFrame], told: pl.DataFrame, context: Context) -> pl.DataFrame:
    """MISSING of a state, from all slots that came (`meter`, `version`, `slot_us`, a day after the other) and what was
    told of each gap last (CHANGE_SCHEMA).
    """
    last_us = pl.repeat(0, len(context.index.first), dtype=pl.Int64, eager=True)
    found = [no_rows(MISSING.schema)]
    for slots in days:
        interval_us = context.meter_versions["interval_s"].gather(slots["version"]).cast(pl.Int64) * _SECOND_US
        of_day = slots.with_columns(interval_us.alias("interval_us"))
        found.append(_apart(gaps(of_day, last_us[of_day["meter"]]), context))
        newest = of_day.group_by("meter").agg(pl.col("slot_us").max())
        last_us = last_us.scatter(newest["meter"], newest["slot_us"])
    parts = _as_told(pl.concat(found), told, last_us, context)
    gone = ((last_us != 0) & (state.meters(context.index)["seen_us"] == 0)).arg_true().cast(pl.UInt32)
    silent = pl.concat(parts).filter(pl.col("to_us").is_null())
    return _ordered([*parts, _tails(gone, last_us[gone]).join(silent, on="meter", how="anti")])


def _as_told(found: pl.DataFrame, told: pl.DataFrame, last_us: pl.Series, context: Context) -> list[pl.DataFrame]:
    """Gaps, and which of them are pieces of what was told of and is not over; one without a piece is going on."""
    open_ones = told.filter(~pl.col("state").is_in(["cleared", "withdrawn"])).select(
        "meter", "revision", "state", "at", started_us=pl.col("started_at").to_physical(),
        told_most=pl.col("value").cast(pl.Int64),
    )  # fmt: skip
    if open_ones.is_empty():
        return [found]
    open_ones = _figured(open_ones.with_columns(from_us="started_us"), context).with_columns(
        told_until_us=pl.when(pl.col("state") == "updated")
        .then(pl.col("at").to_physical())
        .otherwise(pl.col("started_us") + (pl.col("told_most") + 1) * pl.col("interval_us"))
    )
    whose = ("meter", "told_us", "told_until_us", "told_most", "revision")
    names = open_ones.rename({"started_us": "told_us"}).select(whose).sort("told_us")
    at = (
        found.drop("revision")
        .sort("from_us")
        .join_asof(
            names, left_on="from_us", right_on="told_us", by="meter", strategy="backward", check_sortedness=False
        )
    )
    mine = (pl.col("to_us") <= pl.col("told_until_us")).fill_null(False)
    pieces = at.with_columns(
        pl.when(mine).then(told_name).otherwise(own).alias(own)
        for own, told_name in (("started_us", "told_us"), ("until_us", "told_until_us"), ("most", "told_most"))
    ).with_columns(pl.when(mine).then("revision").alias("revision"))
    pieces = pieces.select(MISSING.schema.names())
    silent = open_ones.join(pieces.drop_nulls("revision"), on=_NAME, how="anti")
    tails = silent.select(
        "meter", "started_us", last_us[silent["meter"]].alias("from_us"), _NO_US.alias("to_us"),
        _NO_US.alias("until_us"), pl.col("told_most").alias("most"), "revision",
    )  # fmt: skip
    return [pieces, tails.cast(MISSING.schema)]


# --- figures, and what is told --------------------------------------------------------------------------------------


def _figured(rows: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Rows with `version`, `interval_us`, `needed_us` and `ruleset` of their meters after `from_us`; without those from
    when the registry does not know the meter, or the rule is switched off.
    """
    version = _version_after(rows, context)
    rows = rows.with_columns(version.alias("version")).filter(version.is_not_null())
    interval_us = context.meter_versions["interval_s"].gather(rows["version"]).cast(pl.Int64) * _SECOND_US
    days = rows.select(local_date(pl.col("from_us").cast(TIMESTAMP), context.settings.timezone)).to_series()
    asked = [
        _figures(context, day)[rows["version"].filter(days == day)].with_columns(at=(days == day).arg_true())
        for day in days.unique()
    ]
    figured = rows.with_columns(interval_us.alias("interval_us"))
    if not asked:
        return figured.with_columns(needed_us=_NO_US, ruleset=pl.lit(None, pl.String))
    return pl.concat([figured, pl.concat(asked).sort("at").drop("at")], how="horizontal").filter(
        pl.col("needed_us").is_not_null()
    )


def _version_after(rows: pl.DataFrame, context: Context) -> pl.Series:
    """The version of a meter in force after `from_us`; stamps a little later may belong to the one before."""
    meter, from_us = rows["meter"], rows["from_us"]
    version = context.index.version(meter, (from_us + 1).cast(TIMESTAMP))
    tolerance_us = context.meter_versions["tolerance_us"].gather(version).fill_null(0)
    return context.index.version(meter, (from_us + tolerance_us + 1).cast(TIMESTAMP))


def _figures(context: Context, day: date) -> pl.DataFrame:
    """`figures` on a local day, by version."""
    rules = context.settings.rules
    return _figures_since(context.index, rules, max((date for date in rules.dates if date <= day), default=date.min))


@lru_cache(maxsize=8)
def _figures_since(index: MeterIndex, rules: Rulebook, day: date) -> pl.DataFrame:
    return figures(index.meter_versions, rules, day)


@lru_cache(maxsize=4)
def _least_since(index: MeterIndex, rules: Rulebook) -> pl.Series:
    """The least that is ever asked of each meter [us], by code; more than all time where nothing is."""
    days = (date.min, *rules.dates)
    needed = [figures(index.meter_versions, rules, day)["needed_us"].fill_null(-NEVER) for day in days]
    least = pl.select(pl.min_horizontal(needed).alias("us")).with_columns(index.meter_versions["meter_id"])
    return least.group_by("meter_id", maintain_order=True).agg(pl.col("us").min())["us"]


def _least_us(context: Context) -> pl.Series:
    return _least_since(context.index, context.settings.rules)


def _lateness_us(context: Context) -> int:
    return int(context.settings.lateness_s * _SECOND_US)


def _ordered(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).sort(*_NAME, "from_us")


def _changes(told: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Changes (CHANGE_SCHEMA) of gaps: columns of MISSING but the piece, and `state`. A value is the number of slots
    that were missing at most, its limit the number that is told of.
    """
    rows = _figured(told.with_columns(from_us="started_us"), context)
    (check,) = (check for check in checks(context.settings) if check.rule == RULE)
    interval_us, until_us = pl.col("interval_us"), pl.col("until_us")
    least = pl.col("needed_us") // interval_us
    due_us = pl.col("started_us") + pl.col("needed_us")
    ended_us = pl.max_horizontal(until_us - interval_us, pl.col("started_us") + interval_us)
    return rows.select(
        "meter", pl.lit(check.code, pl.UInt32).alias("code"), "version", "state", "revision",
        pl.col("started_us").cast(TIMESTAMP).alias("started_at"),
        pl.when(pl.col("state") == "cleared").then(ended_us.cast(TIMESTAMP)).alias("ended_at"),
        pl.col("most").cast(pl.Float64).alias("value"),
        least.cast(pl.Float64).alias("limit_value"),
        "ruleset",
        pl.when(pl.col("state") == "raised").then(due_us).otherwise(until_us).cast(TIMESTAMP).alias("at"),
        pl.lit(1, pl.Int32).alias("occurrences"),
    ).cast(CHANGE_SCHEMA)  # fmt: skip
