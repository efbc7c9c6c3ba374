"""Limit rules: what each reading says to each rule.

Here: for each rule and phase, the value that is judged, its limit, and whether a reading speaks for the start or for
the end of a violation. Not here: the rules (`catalogue`), hold times, gaps, what has been raised (`lifecycle`).

A reading speaks for the start where all of the rule's conditions hold, for the end where any of them is inside its own
end value, or a rule that says it better has begun; else for neither. A reading without the value, or outside the rule's
guard, says nothing at all; neither does a value that is not believed (`metering.readings.plausible`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from metering.events import registers
from metering.events.catalogue import Check, checks_in_use
from metering.events.figures import END as END
from metering.events.figures import NEITHER as NEITHER
from metering.events.figures import START as START
from metering.events.figures import Figures, figures_in_force, with_better
from metering.events.looks import any_start, looked_at, looks_of, of_steps
from metering.readings.plausible import believed
from metering.settings import MeteringSettings
from metering.tables.schema import TIMESTAMP, no_rows

JUDGED_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        "ts": TIMESTAMP,
        "code": pl.UInt32(),
        "side": pl.Int8(),
        "verdict": pl.Int8(),
        "value": pl.Float64(),
        "limit_value": pl.Float64(),
        "hold_s": pl.Float64(),
        "clear_hold_s": pl.Float64(),
        "ruleset": pl.String(),
        "flicker_s": pl.Float64(),
    }
)
"""`code` is that of `catalogue.checks`, `side` ABOVE or BELOW, `ruleset` the version of the rule that judged."""

STARTS_SCHEMA = pl.Schema({"meter": pl.UInt32(), "code": pl.UInt32()})


def judge(
    readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, codes: pl.Series
) -> pl.DataFrame:
    """What the readings say to the checks named by `codes` [UInt32]: a row for each reading and check that has a value.

    `readings`: `meter`, `version`, `ts` and measured values. Returns JUDGED_SCHEMA, sorted by meter, code, ts.
    """
    return _judge(readings, meter_versions, settings, dict.fromkeys(codes.to_list()), ())


def judge_pairs(
    readings: pl.DataFrame,
    meter_versions: pl.DataFrame,
    settings: MeteringSettings,
    pairs: pl.DataFrame,
    carried: Sequence[str] = (),
) -> pl.DataFrame:
    """As `judge`, for some pairs (`meter`, `code`) only, and with columns of the readings that are `carried` along."""
    by_code = pairs.partition_by("code", as_dict=True)
    asked = {int(code): of_code["meter"].implode() for (code,), of_code in by_code.items()}
    return _judge(readings, meter_versions, settings, asked, carried)


def _judge(
    readings: pl.DataFrame,
    meter_versions: pl.DataFrame,
    settings: MeteringSettings,
    asked: Mapping[int, pl.Series | None],
    carried: Sequence[str],
) -> pl.DataFrame:
    """`asked`: codes of checks, each with the meters that it is asked about (None: all)."""
    judged = [check for check in checks_in_use(settings) if check.code in asked]
    if readings.is_empty() or not judged:
        return no_rows(JUDGED_SCHEMA).with_columns(pl.lit(None, readings.schema[name]).alias(name) for name in carried)
    rules, names = settings.rules, [check.rule for check in judged]
    if registers.VALUES[0] not in readings.columns and any(of_steps(rules.by_id[name]) for name in names):
        readings = registers.told_by_themselves(readings, meter_versions, settings)
    looks = looks_of(with_better(names, settings.rules))
    known = looked_at(believed(readings, meter_versions), meter_versions, looks)
    known, figures = figures_in_force(known, meter_versions, settings, names)
    parts = [said_to(check, _of(asked[check.code], known), figures[check.rule], carried) for check in judged]
    return pl.concat(parts).sort("meter", "code", "ts")


def _of(meters: pl.Series | None, known: pl.DataFrame) -> pl.DataFrame:
    return known if meters is None else known.filter(pl.col("meter").is_in(meters))


def starts(readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """The (meter, code) pairs for which any reading speaks by itself for a start: the few that need a closer look.

    One pass over all rules together finds the readings that any rule may start at; only these are judged by each.
    """
    judged = [check for check in checks_in_use(settings) if not of_steps(settings.rules.by_id[check.rule])]
    if readings.is_empty() or not judged:
        return no_rows(STARTS_SCHEMA)
    rough, looks = any_start(settings.rules)
    near = readings.filter(looked_at(readings, meter_versions, looks, closely=False).select(rough).to_series())
    return _starts(near, meter_versions, settings, judged)


def step_checks(settings: MeteringSettings) -> tuple[Check, ...]:
    """The checks in use that look at what registers did since the readings before."""
    return tuple(check for check in checks_in_use(settings) if of_steps(settings.rules.by_id[check.rule]))


def step_starts(readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """The (meter, code) pairs for which a reading (with `registers.VALUES`) speaks for a start by its steps."""
    return _starts(readings, meter_versions, settings, step_checks(settings))


def _starts(
    near: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, judged: Sequence[Check]
) -> pl.DataFrame:
    if near.is_empty() or not judged:
        return no_rows(STARTS_SCHEMA)
    names = [check.rule for check in judged]
    looks = looks_of(with_better(names, settings.rules))
    near = looked_at(believed(near, meter_versions), meter_versions, looks)
    near, figures = figures_in_force(near, meter_versions, settings, names)
    begins = [figures[check.rule].begins(check.phase).alias(str(check.code)) for check in judged]
    by_meter = near.select("meter", *begins).group_by("meter").agg(pl.all().any())
    pairs = by_meter.unpivot(index="meter", variable_name="code", value_name="begins").filter("begins")
    return pairs.select("meter", pl.col("code").cast(pl.UInt32))


def said_to(check: Check, known: pl.DataFrame, figures: Figures, carried: Sequence[str] = ()) -> pl.DataFrame:
    """What readings (as `figures_in_force` leaves them) say to a check: JUDGED_SCHEMA."""

    def literal(value: Any) -> pl.Expr:
        return value if isinstance(value, pl.Expr) else pl.lit(value)

    return known.select(
        "meter",
        "version",
        "ts",
        *carried,
        code=pl.lit(check.code, pl.UInt32),
        side=pl.lit(check.side, pl.Int8),
        verdict=figures.verdict(check.phase),
        value=figures.value(check.phase),
        limit_value=figures.limit,
        hold_s=literal(figures.hold_s),
        clear_hold_s=literal(figures.clear_hold_s),
        ruleset=literal(figures.version),
        flicker_s=literal(figures.flicker_s),
    ).filter(pl.col("value").is_finite() & pl.col("verdict").is_not_null())
