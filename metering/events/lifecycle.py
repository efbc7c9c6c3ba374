"""From what readings say to what is raised and cleared: hold times, gaps, and the record of each violation.

Here: one pass over judged readings in order of time. Not here: the rules (`judge`), late readings (`plain`), how
a violation is named and told (`texts`).

A run is a series of readings that say the same, without a gap over `gap_intervals` reporting intervals; its duration
is the sum of their intervals. A run for the start raises once it has held `hold_s`, a run for the end clears once it
has held `clear_hold_s`. A gap ends a run; it neither raises nor clears.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from metering.events.judge import END, START
from metering.tables.schema import TIMESTAMP, no_rows

PAIR = ("meter", "code")

STATE_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "code": pl.UInt32(),
        "active": pl.Boolean(),
        "started_at": TIMESTAMP,
        "value": pl.Float64(),
        "limit_value": pl.Float64(),
        "ruleset": pl.String(),
        "revision": pl.Int32(),
        "run": pl.Int8(),
        "run_start": TIMESTAMP,
        "run_s": pl.Float64(),
        "run_value": pl.Float64(),
        "last_ts": TIMESTAMP,
    }
)
"""Where each (meter, check) stands: the open violation, if `active`, and the run that is going on. Pairs that are
neither active nor in a run for the start are left out."""

CHANGE_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "code": pl.UInt32(),
        "version": pl.UInt32(),
        "state": pl.String(),
        "revision": pl.Int32(),
        "started_at": TIMESTAMP,
        "ended_at": TIMESTAMP,
        "value": pl.Float64(),
        "limit_value": pl.Float64(),
        "ruleset": pl.String(),
        "at": TIMESTAMP,
    }
)
"""A change of a violation: (meter, code, started_at) names it."""

NAME = ("meter", "code", "started_at")
"""What names a violation."""

RUN_UP = timedelta(days=1)
"""Judging anew starts this long before what it is about: longer than any run can last without raising or clearing."""
LOOK_BACK = timedelta(days=62)
"""Violations that have not changed for so long are taken to be over."""

_BY_PAIR = pl.col("pair")
_ALWAYS = pl.lit(True)
_MANY_ROWS = 2_000
"""From so many on it pays to look for those that change nothing."""


def last_emitted(changes: pl.DataFrame) -> pl.DataFrame:
    """The newest change of each violation (CHANGE_SCHEMA)."""
    return changes.sort("revision").unique(NAME, keep="last", maintain_order=True)


def of_consequence(
    judged: pl.DataFrame, gap_intervals: float, timely: pl.Expr = _ALWAYS, alone: pl.Expr = _ALWAYS
) -> pl.Series:
    """Whether a reading can change anything: not, where no violation can be open or begin.

    `judged`: JUDGED_SCHEMA and `interval_s`, sorted by pair and time. A reading is `alone` if it is the only one of its
    time, and `timely` if it is that and came after all of its meter that are before it in time: whenever a reading is
    judged the timely ones before it are there. So once timely ones, without others, have spoken for the end for as long
    as it takes, nothing is open up to the next start.
    """
    firm = timely & (pl.col("verdict") == END)
    rows = judged.select(
        first=(pl.struct(PAIR) != pl.struct(PAIR).shift(1)).fill_null(True),
        starts=pl.col("verdict") == START,
        ends=pl.col("verdict") == END,
        alone=alone,
        firm=firm,
        us=pl.col("ts").to_physical(),
        gap_us=pl.col("interval_s") * (gap_intervals * 1e6),
        hold_s="clear_hold_s",
        own_s=pl.when(firm).then("interval_s").otherwise(0).cast(pl.Int64),
    )
    before_us = pl.when("firm").then("us").forward_fill().shift(1)
    gap = (pl.col("firm") & (pl.col("us") - before_us > pl.col("gap_us"))).fill_null(False)
    rows = rows.with_columns(stops=pl.col("first") | ~pl.col("ends") | gap, total_s=pl.col("own_s").cum_sum())
    run_s = pl.col("total_s") - pl.when("stops").then(pl.col("total_s") - pl.col("own_s")).forward_fill()
    rows = rows.with_columns(over=(pl.col("firm") & (run_s >= pl.col("hold_s"))).cast(pl.Int64))
    over_before = pl.col("over").cum_sum() - pl.col("over")
    since = pl.when(pl.col("first") | pl.col("starts")).then(over_before).forward_fill()
    return rows.select(pl.col("starts") | ~pl.col("alone") | (over_before == since)).to_series()


def advance(
    judged: pl.DataFrame, state: pl.DataFrame, meter_versions: pl.DataFrame, gap_intervals: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take judged readings (JUDGED_SCHEMA, sorted, each later than the state's `last_ts`) into the state.

    Returns the new state (STATE_SCHEMA) and the changes (CHANGE_SCHEMA), one for each raise and clear and one for the
    last new extreme of each violation. `revision` counts a violation's changes: 0 when raised, one more for each new
    extreme value and for its end, whether or not each was handed out.
    """
    if judged.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    rows = _episodes(_triggers(_runs(judged, state, meter_versions, gap_intervals)))
    untouched = state.join(judged.select(PAIR).unique(), on=PAIR, how="anti")
    return pl.concat([untouched, _last_state(rows)]).sort(PAIR), _changes(rows)


def _runs(
    judged: pl.DataFrame, state: pl.DataFrame, meter_versions: pl.DataFrame, gap_intervals: float
) -> pl.DataFrame:
    before = state.rename({n: f"{n}_0" for n in STATE_SCHEMA if n not in PAIR})
    interval = pl.duration(seconds=pl.col("interval_s"))
    rows = judged.with_columns(meter_versions["interval_s"].gather(judged["version"]))
    if rows.height >= _MANY_ROWS:
        rows = rows.filter(of_consequence(rows, gap_intervals))
    rows = rows.join(before, on=PAIR, how="left")
    rows = rows.sort(*PAIR, "ts").with_columns(pair=pl.struct(PAIR).rle_id())
    previous_ts = pl.col("ts").shift(1).over(_BY_PAIR).fill_null(pl.col("last_ts_0"))
    previous = pl.col("verdict").shift(1).over(_BY_PAIR).fill_null(pl.col("run_0"))
    gap = (pl.col("ts") - previous_ts) > interval * gap_intervals
    new_run = (gap | (pl.col("verdict") != previous)).fill_null(True)
    rows = rows.with_columns(run_no=new_run.cast(pl.Int64).cum_sum().over(_BY_PAIR))
    carried = pl.col("run_no") == 0
    in_run = ["pair", "run_no"]
    lasted = pl.col("interval_s").cum_sum().over(in_run) + pl.when(carried).then("run_s_0").otherwise(0.0)
    sided = pl.col("value") * pl.col("side")
    return rows.with_columns(
        run_s=lasted,
        run_start=pl.when(carried).then("run_start_0").otherwise((pl.col("ts") - interval).first().over(in_run)),
        run_extreme=pl.max_horizontal(
            sided.cum_max().over(in_run), pl.when(carried).then(pl.col("run_value_0") * pl.col("side"))
        ),
        sided=sided,
    )


def _triggers(rows: pl.DataFrame) -> pl.DataFrame:
    verdict, lasted = pl.col("verdict"), pl.col("run_s")
    was_active = pl.col("active_0").fill_null(False)
    trigger = (
        pl.when((verdict == START) & (lasted >= pl.col("hold_s")))
        .then(True)
        .when((verdict == END) & (lasted >= pl.col("clear_hold_s")))
        .then(False)
    )
    rows = rows.with_columns(active=trigger.forward_fill().over(_BY_PAIR).fill_null(was_active))
    before = pl.col("active").shift(1).over(_BY_PAIR).fill_null(was_active)
    return rows.with_columns(raised=pl.col("active") & ~before, cleared=~pl.col("active") & before)


def _episodes(rows: pl.DataFrame) -> pl.DataFrame:
    """The violation that each row belongs to, with its extreme and its revision after that row."""
    raised, active = pl.col("raised"), pl.col("active")
    rows = rows.with_columns(episode=raised.cast(pl.Int64).cum_sum().over(_BY_PAIR))
    within = ["pair", "episode"]
    carried = pl.col("episode") == 0
    was = pl.when(carried & pl.col("active_0").fill_null(False))
    value_0 = was.then(pl.col("value_0") * pl.col("side"))
    seen = pl.when(raised).then("run_extreme").when(active).then("sided")
    rows = rows.with_columns(
        extreme=pl.max_horizontal(seen.cum_max().forward_fill().over(within), value_0),
        started_at=pl.when(raised).then("run_start").forward_fill().over(_BY_PAIR).fill_null(was.then("started_at_0")),
        limit_kept=pl.when(raised)
        .then("limit_value")
        .forward_fill()
        .over(_BY_PAIR)
        .fill_null(was.then("limit_value_0")),
        ruleset_kept=pl.when(raised).then("ruleset").forward_fill().over(_BY_PAIR).fill_null(was.then("ruleset_0")),
    )
    before = pl.col("extreme").shift(1).over(within).fill_null(value_0)
    rows = rows.with_columns(changed=(active & ~raised & (pl.col("extreme") > before)).fill_null(False))
    counted = (pl.col("changed") | pl.col("cleared")).cast(pl.Int32).cum_sum().over(within)
    return rows.with_columns(revision=counted + was.then("revision_0").otherwise(0))


def _last_state(rows: pl.DataFrame) -> pl.DataFrame:
    last = rows.group_by("pair", maintain_order=True).last()
    active = pl.col("active")
    return (
        last.filter(active | (pl.col("verdict") == START))
        .select(
            *PAIR,
            active,
            pl.when(active).then("started_at").alias("started_at"),
            pl.when(active).then(pl.col("extreme") * pl.col("side")).alias("value"),
            pl.when(active).then("limit_kept").alias("limit_value"),
            pl.when(active).then("ruleset_kept").alias("ruleset"),
            pl.when(active).then("revision").otherwise(0).alias("revision"),
            pl.col("verdict").alias("run"),
            "run_start",
            "run_s",
            (pl.col("run_extreme") * pl.col("side")).alias("run_value"),
            pl.col("ts").alias("last_ts"),
        )
        .cast(STATE_SCHEMA)
    )


def _changes(rows: pl.DataFrame) -> pl.DataFrame:
    changed = pl.col("changed")
    last_change = changed & (changed.cast(pl.Int32).cum_sum(reverse=True).over("pair", "episode") == 1)
    return (
        rows.filter(pl.col("raised") | pl.col("cleared") | last_change)
        .select(
            *PAIR,
            "version",
            state=pl.when("raised")
            .then(pl.lit("raised"))
            .when("cleared")
            .then(pl.lit("cleared"))
            .otherwise(pl.lit("updated")),
            revision="revision",
            started_at="started_at",
            ended_at=pl.when("cleared").then("run_start"),
            value=pl.col("extreme") * pl.col("side"),
            limit_value="limit_kept",
            ruleset="ruleset_kept",
            at="ts",
        )
        .cast(CHANGE_SCHEMA)
    )
