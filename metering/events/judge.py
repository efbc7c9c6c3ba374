"""Limit rules: what each reading says to each rule.

Here: for each rule and phase, the value that is judged, its limit, and whether a reading speaks for the start or for
the end of a violation. Not here: hold times, gaps, what has been raised (`lifecycle`).

A reading speaks for the end once it is `clear_margin` of the limit inside it; between limit and margin it speaks for
neither. A reading without the value says nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from metering.calendar import day_bounds
from metering.settings import MeteringSettings, Rule, RuleSet
from metering.supply.phases import phase_voltages
from metering.supply.power_factor import power_factor
from metering.tables.lake import PHASES
from metering.tables.schema import TIMESTAMP, no_rows

START, END, NEITHER = 1, -1, 0
ABOVE, BELOW = 1, -1

JUDGED_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        "ts": TIMESTAMP,
        "code": pl.UInt32(),
        "verdict": pl.Int8(),
        "value": pl.Float64(),
        "limit_value": pl.Float64(),
        "hold_s": pl.Float64(),
        "clear_hold_s": pl.Float64(),
        "ruleset": pl.String(),
    }
)


@dataclass(frozen=True, slots=True)
class Check:
    """One rule on one phase. `code` is its number in states and must never be given to another."""

    code: int
    rule: str
    phase: str
    unit: str
    side: int
    name_zh: str
    name_en: str


CHECKS: tuple[Check, ...] = (
    *(Check(i, "over_voltage", p, "V", ABOVE, "过压", "over-voltage") for i, p in enumerate(PHASES, 1)),
    *(Check(i, "under_voltage", p, "V", BELOW, "欠压", "under-voltage") for i, p in enumerate(PHASES, 4)),
    Check(7, "over_capacity", "total", "kVA", ABOVE, "超容", "load above contract capacity"),
    Check(8, "low_power_factor", "total", "1", BELOW, "功率因数偏低", "power factor below standard"),
)


def judge(
    readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, codes: pl.Series
) -> pl.DataFrame:
    """What the readings say to the checks named by `codes` [UInt32]: a row for each reading and check that has a value.

    `readings`: `meter`, `version`, `ts` and measured values. Returns JUDGED_SCHEMA, sorted by meter, code, ts.
    """
    wanted = set(codes.to_list())
    parts = [
        _one(check, known, ruleset)
        for ruleset, span in _by_ruleset(readings, settings)
        for known in (_with_version(span, meter_versions),)
        for check in CHECKS
        if check.code in wanted and getattr(ruleset, check.rule).limit > 0
    ]
    return pl.concat([no_rows(JUDGED_SCHEMA), *parts]).sort("meter", "code", "ts")


def starts(readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """The (meter, code) pairs for which any reading speaks for a start: the few that need a closer look."""
    parts = [pl.DataFrame(schema={"meter": pl.UInt32, "code": pl.UInt32})]
    for ruleset, span in _by_ruleset(readings, settings):
        judged = [check for check in CHECKS if getattr(ruleset, check.rule).limit > 0]
        says = _with_version(span, meter_versions).select(
            _start(check, getattr(ruleset, check.rule)).fill_null(False).alias(str(check.code)) for check in judged
        )
        any_says = says.select(pl.all().any()).row(0)
        for check, found in zip(judged, any_says, strict=True):
            if found:
                meters = span["meter"].filter(says[str(check.code)]).unique()
                parts.append(pl.DataFrame([meters]).with_columns(code=pl.lit(check.code, pl.UInt32)))
    return pl.concat(parts)


def _by_ruleset(readings: pl.DataFrame, settings: MeteringSettings) -> Iterator[tuple[RuleSet, pl.DataFrame]]:
    """Readings by the rule set in force on their local day, each effective from a local midnight."""
    ordered = sorted(settings.rulesets, key=lambda item: item.effective_from)
    first = readings["ts"].min()
    last = readings["ts"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return
    for number, ruleset in enumerate(ordered):
        start = day_bounds(ruleset.effective_from, settings.timezone)[0] if number else first - timedelta(1)
        later = ordered[number + 1 :]
        stop = day_bounds(later[0].effective_from, settings.timezone)[0] if later else last
        if start < first and stop >= last:
            yield ruleset, readings
            return
        span = readings.filter((pl.col("ts") > start) & (pl.col("ts") <= stop))
        if span.height:
            yield ruleset, span


def _with_version(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    names = ("nominal_v", "contract_capacity_kva", "pf_standard")
    p, q = pl.col("p_kw"), pl.col("q_kvar")
    return readings.with_columns(
        *(meter_versions[name].gather(readings["version"]) for name in names),
        *phase_voltages(readings, meter_versions),
        (p.pow(2) + q.pow(2)).sqrt().alias("s_kva"),
        power_factor(p, q).alias("pf"),
    )


def _one(check: Check, known: pl.DataFrame, ruleset: RuleSet) -> pl.DataFrame:
    rule: Rule = getattr(ruleset, check.rule)
    return known.select(
        "meter",
        "version",
        "ts",
        code=pl.lit(check.code, pl.UInt32),
        verdict=_verdict(check, rule),
        value=_value(check, rule),
        limit_value=_limit(check, rule),
        hold_s=pl.lit(rule.hold_s),
        clear_hold_s=pl.lit(rule.clear_hold_s),
        ruleset=pl.lit(ruleset.name),
    ).filter(pl.col("value").is_finite() & pl.col("verdict").is_not_null())


def _value(check: Check, rule: Rule) -> pl.Expr:
    if check.rule in ("over_voltage", "under_voltage"):
        return pl.col(f"u{check.phase}_v")
    if check.rule == "over_capacity":
        return pl.col("s_kva")
    return pl.when(pl.col("s_kva") > rule.min_load * pl.col("contract_capacity_kva")).then("pf")


def _limit(check: Check, rule: Rule) -> pl.Expr:
    base = {"over_capacity": "contract_capacity_kva", "low_power_factor": "pf_standard"}.get(check.rule, "nominal_v")
    return pl.col(base) * rule.limit


def _verdict(check: Check, rule: Rule) -> pl.Expr:
    return _start(check, rule).cast(pl.Int8) - _end(check, rule).cast(pl.Int8)


def _start(check: Check, rule: Rule) -> pl.Expr:
    value, limit = _value(check, rule), _limit(check, rule)
    return value > limit if check.side == ABOVE else value < limit


def _end(check: Check, rule: Rule) -> pl.Expr:
    value, limit = _value(check, rule), _limit(check, rule)
    if check.side == ABOVE:
        return value <= limit * (1 - rule.clear_margin)
    return value >= limit * (1 + rule.clear_margin)
