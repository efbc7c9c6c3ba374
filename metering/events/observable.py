"""What cannot be seen: rules whose hold is shorter than a meter's interval are not observable there, and so not absent.

Here: which rules a meter's readings can show, and how long after the start of an event at most (domain section 13). Not
here: judging (`judge`).
"""

from __future__ import annotations

import math
from datetime import date

import polars as pl

from metering.events.silence import RULE as SILENCE
from metering.settings import MeteringSettings, Rule
from metering.supply.phases import PHASES_OF_WIRING
from metering.tables.alarms import RULE_OBSERVABILITY

_LIKE = ("wiring", "interval_s", "segment", "voltage_level_kv")


def rule_observability(meters: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """RULE_OBSERVABILITY of `meters` (rows of meter_versions, one for each meter) on a local day: each rule that is on.

    An event that lasts for a rule's hold time fills a slot, and so shows in a reading, only where the interval is at
    most the hold time. A raise comes with the reading that ends the last slot of the hold, and an event may begin just
    after a slot did: the longest delay is the hold in whole slots, and one slot. Readings that do not come are seen
    whatever the hold: once what is asked for is missing, and the watermark has passed it.
    """
    alike, found = _by_likeness(meters, day, settings)
    told = alike.join(found, on=(*_LIKE, "own"), nulls_equal=True, how="inner")
    return RULE_OBSERVABILITY.conform(told).sort(RULE_OBSERVABILITY.key)


def rules_by_meter(meters: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """How many rules are on for each of `meters`, and can be seen: meter_id, rules, rules_observable."""
    alike, found = _by_likeness(meters, day, settings)
    counts = found.group_by(*_LIKE, "own").agg(rules=pl.len(), rules_observable=pl.col("observable").sum())
    told = alike.join(counts, on=(*_LIKE, "own"), nulls_equal=True, how="left")
    return told.select("meter_id", pl.col("rules", "rules_observable").fill_null(0).cast(pl.Int64))


def _by_likeness(meters: pl.DataFrame, day: date, settings: MeteringSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The meters with what the rules ask of them, and what is said of each likeness and rule."""
    named = pl.col("meter_id").is_in(list(settings.rules.meters))
    alike = meters.with_columns(own=pl.when(named).then("meter_id"))
    groups = alike.select(*_LIKE, "own").unique()
    rows = [
        (*group, *_of(rule, wiring, interval_s, settings.lateness_s))
        for group in groups.iter_rows()
        for wiring, interval_s, segment, level, meter_id in [group]
        for name in (rule.id for rule in settings.rules.in_use)
        if (rule := settings.rules.in_force(name, day, segment, level, meter_id)).start
    ]
    said = {"rule": pl.String, "observable": pl.Boolean, "reason": pl.String, "hold_s": pl.Float64,
            "detection_delay_s": pl.Float64}  # fmt: skip
    found = pl.DataFrame(rows, schema={**groups.schema, **said}, orient="row")
    return alike, found


def _of(rule: Rule, wiring: str, interval_s: int, lateness_s: int) -> tuple[str, bool, str | None, float, float | None]:
    if rule.id == SILENCE:
        return rule.id, True, None, rule.hold_s, max(rule.hold_s, rule.start * interval_s) + lateness_s
    slots = max(1, math.ceil(rule.hold_s / interval_s))
    delay_s = float((slots + 1) * interval_s)
    if not {*rule.phases} & {*PHASES_OF_WIRING[wiring], "total"}:
        return rule.id, False, f"a {wiring} meter has none of its phases", rule.hold_s, None
    if 0 < rule.hold_s < interval_s:
        reason = (
            f"the hold of {rule.hold_s:g} s is shorter than the interval of {interval_s} s: "
            f"only events of {2 * interval_s} s are sure to be seen"
        )
        return rule.id, False, reason, rule.hold_s, delay_s
    return rule.id, True, None, rule.hold_s, delay_s
