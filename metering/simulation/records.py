"""Records of a simulated fleet: what its meters report themselves, and what a crew says of its alarms.

Here: both, from the labels of the faults. Not here: the faults (`faults`), reading such records (`metering.records`).
Everything is a function of the seed and of what it is about.
"""

from __future__ import annotations

import zlib

import polars as pl

from metering.settings import MeterEventCode
from metering.simulation.draws import between, uniform

_REPORTED = 0.8
"""Of faults that a meter has a code for, those that it reports."""
_CODES_OF = {"meter_exchange": "programming", "reading_missing": "power_down"}
"""Events that go with what no limit rule sees."""
_SPOKEN_OF, _CLOSED = 0.97, 0.92
"""Of alarms those that the crew speaks of, and of these those that are closed."""
_LABEL_SLACK = pl.duration(minutes=2)


def meter_events(labels: pl.DataFrame, codes: dict[str, MeterEventCode], seed: int) -> pl.DataFrame:
    """meter_id, code, at, cleared_at of the events that meters report of labelled faults, by time: some of those that a
    code has a rule for, a few seconds after they begin and end; of an exchange, and of silence (half of it).
    """
    of_rule = {code.rule: name for name, code in reversed(codes.items()) if code.rule}
    rows = labels.with_columns(code=pl.col("kind").replace_strict({**of_rule, **_CODES_OF}, default=None))
    rows = rows.filter(pl.col("code").is_not_null()).with_columns(_key("meter_id", "kind", "phase", "started_at"))
    drawn = [uniform(seed, f"meter_events.{name}", rows["key"]) for name in ("reported", "start", "end")]
    reported, late, later = drawn
    share = pl.when(pl.col("kind") == "reading_missing").then(0.5).otherwise(_REPORTED)
    share = pl.when(pl.col("kind") == "meter_exchange").then(1.0).otherwise(share)
    ends = pl.when(pl.col("kind") != "meter_exchange").then(pl.col("ended_at") + _seconds(between(0, 20, later)))
    told = rows.select(
        "meter_id", "code", reported=reported < share, at=pl.col("started_at") + _seconds(between(0, 20, late)),
        cleared_at=ends,
    )  # fmt: skip
    return told.filter("reported").drop("reported").sort("at", "meter_id", "code")


def feedback(alarms: pl.DataFrame, labels: pl.DataFrame, seed: int) -> pl.DataFrame:
    """violation_id, action, at, by of what a crew says of `alarms` (violation_id, meter_id, rule, started_at, ended_at,
    raised_at), by time: confirmed where a label says so too, else refuted; most are closed in the end.
    """
    faults = labels.select("meter_id", rule="kind", began="started_at", over="ended_at")
    same = alarms.join(faults, on=("meter_id", "rule")).filter(
        pl.col("started_at") <= pl.col("over") + _LABEL_SLACK,
        pl.col("ended_at").is_null() | (pl.col("ended_at") >= pl.col("began") - _LABEL_SLACK),
    )
    true = pl.col("violation_id").is_in(same["violation_id"].unique().implode())
    rows = alarms.select("violation_id", "raised_at", true=true).with_columns(_key("violation_id"))
    names = ("spoken", "closed", "acknowledged", "seen", "mended", "done")
    spoken, closed, *drawn = (uniform(seed, f"feedback.{name}", rows["key"]) for name in names)
    acknowledged, seen, mended, done = (
        _minutes(between(low, high, number))
        for (low, high), number in zip(((2, 20), (20, 60), (60, 240), (240, 300)), drawn, strict=True)
    )
    kept = rows.with_columns(spoken=spoken < _SPOKEN_OF, closed=closed < _CLOSED, **{
        "acknowledged": acknowledged, "word": seen, "handled": mended, "done": done,
    }).filter("spoken")  # fmt: skip
    said = [
        _said(kept, pl.lit("acknowledged"), "acknowledged"),
        _said(kept, pl.when("true").then(pl.lit("confirmed")).otherwise(pl.lit("false")), "word"),
        _said(kept.filter("true", "closed"), pl.lit("handled"), "handled"),
        _said(kept.filter("closed"), pl.lit("closed"), "done"),
    ]
    return pl.concat(said).sort("at", "violation_id", "action")


def _said(rows: pl.DataFrame, action: pl.Expr, after: str) -> pl.DataFrame:
    at = pl.col("raised_at") + pl.col(after)
    return rows.select("violation_id", action=action, at=at, by=pl.lit("配网抢修班"))


def _key(*names: str) -> pl.Expr:
    """A whole number that is a function of some columns: `key`."""
    text = pl.concat_str([pl.col(name).cast(pl.String).fill_null("") for name in names], separator="/")
    return text.map_elements(lambda said: zlib.crc32(said.encode()), return_dtype=pl.Int64).alias("key")


def _seconds(number: pl.Expr) -> pl.Expr:
    return pl.duration(seconds=number.floor().cast(pl.Int64))


def _minutes(number: pl.Expr) -> pl.Expr:
    return pl.duration(minutes=number.floor().cast(pl.Int64))
