"""What a late reading changes in violations that have been told already.

Here: comparing what should have been told with what was. Not here: the pass itself (`lifecycle`), which readings are
late (`pipelines`).
"""

from __future__ import annotations

import polars as pl

from metering.events.lifecycle import CHANGE_SCHEMA, PAIR, STATE_SCHEMA, advance

NAME = ("meter", "code", "started_at")
_CONTENT = ("ended_at", "value", "limit_value", "ruleset")


def last_told(changes: pl.DataFrame) -> pl.DataFrame:
    """The newest change of each violation (CHANGE_SCHEMA)."""
    return changes.sort("revision").unique(NAME, keep="last", maintain_order=True)


def revise(
    judged: pl.DataFrame,
    base: pl.DataFrame,
    told: pl.DataFrame,
    meter_versions: pl.DataFrame,
    gap_intervals: float,
    late: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Judge anew from a state known to be right, and tell what differs.

    `judged`: all that some (meter, code) pairs' readings say since `base`, the late ones in place; `base`: the
    pairs' state before them (STATE_SCHEMA); `told`: what was told last of each of their violations since then
    (CHANGE_SCHEMA); `late`: `meter` and `at`, the time of the late reading. Returns the pairs' new state and
    the changes: a violation told before gets its next revision, one that never was is withdrawn, one not told yet
    appears, from its raise on.
    """
    state, fresh = advance(judged, base, meter_versions, gap_intervals)
    expected = last_told(pl.concat([_open(base, told), fresh]))
    appearing = fresh.join(told, on=NAME, how="anti")
    changes = pl.concat([appearing, _told_anew(expected, told), _withdrawn(expected, told)])
    changes = (
        changes.join(late, on="meter", how="left", suffix="_late").with_columns(at=pl.col("at_late")).drop("at_late")
    )
    known = last_told(pl.concat([told, changes.select(CHANGE_SCHEMA.names())]))
    return _with_revisions(state, known), changes.select(CHANGE_SCHEMA.names())


def _open(base: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Violations that were open in `base`, as if just told; they count less than any change after them."""
    version = told.select(*NAME, "version")
    return (
        base.filter("active")
        .join(version, on=NAME, how="inner")
        .select(
            *PAIR,
            "version",
            pl.lit("raised").alias("state"),
            pl.lit(-1, pl.Int32).alias("revision"),
            "started_at",
            pl.lit(None, CHANGE_SCHEMA["ended_at"]).alias("ended_at"),
            "value",
            "limit_value",
            "ruleset",
            pl.col("last_ts").alias("at"),
        )
    )


def _told_anew(expected: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """The next revision of violations that were told otherwise."""
    before = told.select(*NAME, *(pl.col(n).alias(f"{n}_told") for n in ("state", "revision", *_CONTENT)))
    same = pl.all_horizontal(pl.col(n).eq_missing(pl.col(f"{n}_told")) for n in _CONTENT)
    back = pl.col("state_told") == "withdrawn"
    return (
        expected.join(before, on=NAME)
        .filter(~same | back)
        .with_columns(
            revision=pl.col("revision_told") + 1,
            state=pl.when(pl.col("ended_at").is_not_null())
            .then(pl.lit("cleared"))
            .when(back)
            .then(pl.lit("raised"))
            .otherwise(pl.lit("updated")),
        )
        .select(CHANGE_SCHEMA.names())
    )


def _withdrawn(expected: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    gone = told.filter(pl.col("state") != "withdrawn").join(expected.select(NAME), on=NAME, how="anti")
    return gone.with_columns(
        state=pl.lit("withdrawn"), revision=pl.col("revision") + 1, ended_at=pl.lit(None, CHANGE_SCHEMA["ended_at"])
    ).select(CHANGE_SCHEMA.names())


def _with_revisions(state: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """An open violation goes on counting from the revision it was last told with."""
    counted = known.select(*NAME, pl.col("revision").alias("told_revision"))
    return (
        state.join(counted, on=NAME, how="left", nulls_equal=True)
        .with_columns(revision=pl.when("active").then(pl.coalesce("told_revision", "revision")).otherwise(0))
        .select(STATE_SCHEMA.names())
        .cast(STATE_SCHEMA)
    )
