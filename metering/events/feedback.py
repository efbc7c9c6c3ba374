"""What people say of alarms: joined to them, and what of it cannot be.

Here: the last word of each kind on each violation, and words that contradict each other or speak of no alarm. Not here:
reading feedback (`metering.records`), rates (`metering.kpi.alarms`).
"""

from __future__ import annotations

from itertools import pairwise

import polars as pl

from metering.records.current import current
from metering.tables.records import ACTIONS, FEEDBACK
from metering.text import filled
from metering.vee.findings import FINDINGS

SAID = ("acknowledged_at", "confirmed", "handled_at", "closed_at")
UNKNOWN, ORDER, BOTH = "unknown_alarm", "impossible_order", "confirmed_and_false"
_WAY = ("acknowledged", "handled", "closed")
"""Actions whose times can only follow each other, and all of them the alarm's start."""


def said_of(feedback: pl.DataFrame) -> pl.DataFrame:
    """What counts of `feedback` (rows of the lake's table, in any order): `violation_id` and SAID, a row for each.

    Of several words of one action the last counts, by its own time; of confirmed and false the later (domain section
    12).
    """
    last = current(feedback, FEEDBACK)
    at = {action: pl.col("at").filter(action=action).first().alias(action) for action in ACTIONS}
    wide = last.group_by("violation_id").agg(at.values())
    yes, no = pl.col("confirmed"), pl.col("false")
    word = pl.when(no.is_null() | (yes >= no)).then(yes.is_not_null()).otherwise(False)
    return wide.select(
        "violation_id",
        pl.col("acknowledged").alias("acknowledged_at"),
        pl.when(yes.is_not_null() | no.is_not_null()).then(word).alias("confirmed"),
        pl.col("handled").alias("handled_at"),
        pl.col("closed").alias("closed_at"),
    ).sort("violation_id")


def with_raising(violations: pl.DataFrame, changes: pl.DataFrame) -> pl.DataFrame:
    """`violations` with `raised_at`: the event time of the reading that raised each first, by all `changes` of them."""
    raised = changes.filter(state="raised").group_by("violation_id").agg(raised_at=pl.col("at").min())
    return violations.join(raised, on="violation_id", how="left", maintain_order="left")


def with_feedback(violations: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    """`violations`, one row for each, with SAID."""
    return violations.join(said_of(feedback), on="violation_id", how="left", maintain_order="left")


def doubts(feedback: pl.DataFrame, violations: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS of feedback that speaks of no violation in `violations` (violation_id, meter_id, started_at,
    raised_at), or in an order that cannot be: a step before the one it follows, or before the alarm was raised;
    confirmed, and refuted.
    """
    last = current(feedback, FEEDBACK).select("violation_id", "action", "at")
    since = pl.coalesce("raised_at", "started_at").alias("since")
    known = last.join(violations.select("violation_id", "meter_id", since), on="violation_id", how="left")
    unknown = known.filter(pl.col("since").is_null()).select(
        "violation_id",
        meter_id=pl.lit(None, pl.String),
        window_end="at",
        rule=pl.lit(UNKNOWN),
        detail=filled("there is no alarm {} that could be {}", "violation_id", "action"),
    )
    known = known.filter(pl.col("since").is_not_null())
    began = known.filter(pl.col("action").is_in(_WAY), pl.col("at") < pl.col("since"))
    found = [
        unknown,
        _found(began, ORDER, filled("alarm {} was {} before it was raised", "violation_id", "action")),
    ]
    for before, after in pairwise(_WAY):
        earlier = known.filter(action=before).select("violation_id", before_at="at")
        wrong = known.filter(action=after).join(earlier, on="violation_id").filter(pl.col("at") < pl.col("before_at"))
        said = filled(f"alarm {{}} was {after} before it was {before}", "violation_id")
        found.append(_found(wrong, ORDER, said))
    refuted = known.filter(action="false").select("violation_id")
    both = known.filter(action="confirmed").join(refuted, on="violation_id", how="semi")
    found.append(
        _found(both, BOTH, filled("alarm {} was confirmed, and refuted: the later word counts", "violation_id"))
    )
    rows = pl.concat(found, how="diagonal").sort("violation_id", "rule", "window_end")
    none = pl.lit(None, pl.Float64)
    told = rows.with_columns(severity=pl.lit("warning"), value=none, limit=none)
    return told.select(pl.col(name).cast(dtype) for name, dtype in FINDINGS.items())


def _found(rows: pl.DataFrame, rule: str, detail: pl.Expr) -> pl.DataFrame:
    return rows.select("violation_id", "meter_id", window_end="at", rule=pl.lit(rule), detail=detail)
