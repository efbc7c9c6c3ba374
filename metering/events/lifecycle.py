"""From what readings say to what is raised and cleared: hold times, gaps, and the record of each violation.

Here: one pass over judged readings in order of time. Not here: the rules (`judge`), late readings (`plain`), how
a violation is named and told (`texts`).

A run is a series of readings that say the same, without a gap over `gap_intervals` reporting intervals; its duration
is the sum of their intervals. A run for the start raises once it has held `hold_s`, a run for the end clears once it
has held `clear_hold_s`. A gap ends a run; it neither raises nor clears.

An update is emitted where somebody would act on it: at the first reading of a minute (`update_s`, of event time) at
which the worst value has reached another step, of `update_step` of the limit, than when last emitted. What comes
back within `flicker_s` of its clearing, and holds, is the same violation, which flickers: its `occurrences` are
counted. The end of a violation carries the worst value there was.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from metering.events.judge import END, START
from metering.settings import USUAL_ALARMS, AlarmSettings
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
        "step": pl.Float64(),
        "occurrences": pl.Int32(),
        "ended_at": TIMESTAMP,
        "reopens_until": TIMESTAMP,
        "run": pl.Int8(),
        "run_start": TIMESTAMP,
        "run_s": pl.Float64(),
        "run_value": pl.Float64(),
        "last_ts": TIMESTAMP,
    }
)
"""Where each (meter, check) stands: the violation that is open, if `active`, or else may be opened again, up to
`reopens_until`; and the run that is going on. `step` is that of the last update. Pairs without a violation that are not
in a run for the start are left out."""

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
        "occurrences": pl.Int32(),
    }
)
"""A change of a violation: (meter, code, started_at) names it. `occurrences` is null of those that a Kilowatch emitted
which did not count them."""

NAME = ("meter", "code", "started_at")
"""What names a violation."""

RUN_UP = timedelta(days=1)
"""Judging anew starts this long before what it is about: longer than any run can last without raising or clearing."""
LOOK_BACK = timedelta(days=62)
"""Violations that have not changed for so long are taken to be over."""

_BY_PAIR = pl.col("pair")
_ALWAYS = pl.lit(True)
_LEAST_STEP = 1e-9
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


def step_of(extreme: pl.Expr, limit: pl.Expr, update_step: float) -> pl.Expr:
    """How many steps (of `update_step` of the limit) an extreme is beyond the limit; both times the side."""
    size = pl.max_horizontal(update_step * limit.abs(), pl.lit(_LEAST_STEP))
    return ((extreme - limit) / size).floor()


def plain_step_of(extreme: float, limit: float, update_step: float) -> float:
    """As `step_of`, of one violation."""
    return (extreme - limit) / max(update_step * abs(limit), _LEAST_STEP) // 1


def advance(
    judged: pl.DataFrame,
    state: pl.DataFrame,
    meter_versions: pl.DataFrame,
    gap_intervals: float,
    alarms: AlarmSettings = USUAL_ALARMS,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take judged readings (JUDGED_SCHEMA, sorted, each later than the state's `last_ts`) into the state.

    Returns the new state (STATE_SCHEMA) and the changes (CHANGE_SCHEMA): one for each raise, update and clear.
    `revision` counts a violation's changes, from 0.
    """
    if judged.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    rows = _runs(judged, state, meter_versions, gap_intervals)
    rows = _updates(_episodes(_triggers(rows)), alarms)
    untouched = state.join(judged.select(PAIR).unique(), on=PAIR, how="anti")
    return pl.concat([untouched, _last_state(rows, judged)]).sort(PAIR), _changes(rows)


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
    rows = rows.with_columns(previous_ts=previous_ts)
    previous = pl.col("verdict").shift(1).over(_BY_PAIR).fill_null(pl.col("run_0"))
    gap = (pl.col("ts") - pl.col("previous_ts")) > interval * gap_intervals
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
    """What is raised, cleared, and raised again soon enough to be the same violation."""
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
    rows = rows.with_columns(raised=pl.col("active") & ~before, cleared=~pl.col("active") & before)
    soon_s = pl.when(pl.col("flicker_s") > 0).then(pl.col("flicker_s") + pl.col("hold_s")).otherwise(0.0)
    soon = pl.duration(microseconds=(soon_s * 1e6).cast(pl.Int64))
    until = pl.when("cleared").then(pl.col("ts") + soon).forward_fill().over(_BY_PAIR)
    rows = rows.with_columns(
        reopens_until=until.fill_null(pl.col("reopens_until_0")),
        ended_at=pl.when("cleared").then("run_start").forward_fill().over(_BY_PAIR).fill_null(pl.col("ended_at_0")),
    )
    last_until = pl.col("reopens_until").shift(1).over(_BY_PAIR).fill_null(pl.col("reopens_until_0"))
    return rows.with_columns(reopened=(pl.col("raised") & (pl.col("ts") <= last_until)).fill_null(False))


def _episodes(rows: pl.DataFrame) -> pl.DataFrame:
    """The violation that each row belongs to, with its extreme after that row."""
    raised, active = pl.col("raised"), pl.col("active")
    begins = raised & ~pl.col("reopened")
    rows = rows.with_columns(episode=begins.cast(pl.Int64).cum_sum().over(_BY_PAIR))
    within = ["pair", "episode"]
    was = pl.when((pl.col("episode") == 0) & pl.col("started_at_0").is_not_null())
    seen = pl.when(raised).then("run_extreme").when(active).then("sided")

    def kept(name: str, at_start: str) -> pl.Expr:
        return pl.when(begins).then(at_start).forward_fill().over(_BY_PAIR).fill_null(was.then(f"{name}_0"))

    return rows.with_columns(
        extreme=pl.max_horizontal(
            seen.cum_max().forward_fill().over(within), was.then(pl.col("value_0") * pl.col("side"))
        ),
        started_at=kept("started_at", "run_start"),
        limit_kept=kept("limit_value", "limit_value"),
        ruleset_kept=kept("ruleset", "ruleset"),
        occurrences=pl.col("reopened").cast(pl.Int32).cum_sum().over(within) + was.then("occurrences_0").otherwise(1),
    )


def _updates(rows: pl.DataFrame, alarms: AlarmSettings) -> pl.DataFrame:
    """Where an update is emitted, and the revision after each row."""
    active, within = pl.col("active"), ["pair", "episode"]
    was = pl.when((pl.col("episode") == 0) & pl.col("started_at_0").is_not_null())
    looks = pl.col("raised") | (active & (_span(pl.col("ts"), alarms) != _span(pl.col("previous_ts"), alarms)))
    steps = step_of(pl.col("extreme"), pl.col("limit_kept") * pl.col("side"), alarms.update_step)
    rows = rows.with_columns(step=pl.when(looks).then(steps).forward_fill().over(within).fill_null(was.then("step_0")))
    before = pl.col("step").shift(1).over(within).fill_null(was.then("step_0"))
    higher = (active & (pl.col("step") > before)).fill_null(False)
    rows = rows.with_columns(updated=pl.col("reopened") | (higher & ~pl.col("raised")))
    counted = (pl.col("updated") | pl.col("cleared")).cast(pl.Int32).cum_sum().over(within)
    return rows.with_columns(revision=counted + was.then("revision_0").otherwise(0))


def _span(at: pl.Expr, alarms: AlarmSettings) -> pl.Expr:
    """The number of the span, of `update_s`, that an interval which ends then ends in."""
    return (at.to_physical() - 1) // alarms.update_us


def _last_state(rows: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    last = rows.group_by("pair", maintain_order=True).last()
    heard = judged.group_by(PAIR).agg(pl.col("ts").last().alias("heard"))  # also of rows that changed nothing
    last = last.join(heard, on=PAIR, maintain_order="left")
    last = last.with_columns(named=pl.col("active") | (pl.col("heard") < pl.col("reopens_until")).fill_null(False))
    idle = pl.col("named") & ~pl.col("active")
    waits = idle & (pl.col("verdict") != START)  # nothing of its run matters
    extreme = pl.col("extreme") * pl.col("side")

    def of_named(value: pl.Expr) -> pl.Expr:
        return pl.when("named").then(value)

    return (
        last.filter(pl.col("named") | (pl.col("verdict") == START))
        .select(
            *PAIR,
            "active",
            of_named(pl.col("started_at")).alias("started_at"),
            of_named(extreme).alias("value"),
            of_named(pl.col("limit_kept")).alias("limit_value"),
            of_named(pl.col("ruleset_kept")).alias("ruleset"),
            of_named(pl.col("revision")).fill_null(0).alias("revision"),
            of_named(pl.col("step")).alias("step"),
            of_named(pl.col("occurrences")).alias("occurrences"),
            pl.when(idle).then("ended_at").alias("ended_at"),
            pl.when(idle).then("reopens_until").alias("reopens_until"),
            pl.when(waits).then(pl.lit(END, pl.Int8)).otherwise("verdict").alias("run"),
            pl.when(waits).then("ended_at").otherwise("run_start").alias("run_start"),
            pl.when(waits).then(0.0).otherwise("run_s").alias("run_s"),
            pl.when(waits).then(extreme).otherwise(pl.col("run_extreme") * pl.col("side")).alias("run_value"),
            pl.when(waits).then("ended_at").otherwise("ts").alias("last_ts"),
        )
        .cast(STATE_SCHEMA)
    )


def _changes(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.filter(pl.col("raised") | pl.col("cleared") | pl.col("updated"))
        .select(
            *PAIR,
            "version",
            state=pl.when("cleared")
            .then(pl.lit("cleared"))
            .when("updated")
            .then(pl.lit("updated"))
            .otherwise(pl.lit("raised")),
            revision="revision",
            started_at="started_at",
            ended_at=pl.when("cleared").then("ended_at"),
            value=pl.col("extreme") * pl.col("side"),
            limit_value="limit_kept",
            ruleset="ruleset_kept",
            at="ts",
            occurrences="occurrences",
        )
        .cast(CHANGE_SCHEMA)
    )
