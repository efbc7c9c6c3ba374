"""How a violation is named and told: rows of `violations` with messages in Chinese and English.

Not here: what is a violation (`lifecycle`).
"""

from __future__ import annotations

import polars as pl

from metering.calendar import local_date
from metering.events.judge import CHECKS
from metering.settings import MeteringSettings
from metering.tables.lake import VIOLATIONS
from metering.text import filled


def tell(changes: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """Changes (CHANGE_SCHEMA) as rows of `violations`: named, with messages, severity, meter and customer.

    In order of time, and of one violation always in order of revision, so that its last row is the current one.
    """
    named = changes.with_columns(meter_versions[n].gather(changes["version"]) for n in ("meter_id", "customer_no"))
    named = named.join(_checks(), on="code", how="left").with_columns(_severity(settings))
    start = pl.col("started_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    rows = named.with_columns(
        violation_id=pl.concat_str("meter_id", "rule", "phase", start, separator="/"),
        date=local_date(pl.col("at"), settings.timezone),
        message_zh=_message("name_zh", "计量点 {}{}{}：{} {}，限值 {} {}，始于 {}", start, _STATE_ZH, _PHASE_ZH),
        message_en=_message("name_en", "meter {}{} {}: {} {}, limit {} {}, since {}", start, _STATE_EN, _PHASE_EN),
    )
    told = VIOLATIONS.conform(rows).sort("violation_id", "revision", "at")
    # What a late reading changes may be newer than its time.
    return told.sort(pl.col("at").cum_max().over("violation_id"), "violation_id", "revision", "at")


_LETTER = pl.col("phase").str.to_uppercase()
_TOTAL = pl.col("phase") == "total"
_PHASE_ZH = pl.when(_TOTAL).then(pl.lit(" ")).otherwise(pl.lit(" ") + _LETTER + pl.lit("相"))
_PHASE_EN = pl.when(_TOTAL).then(pl.lit("")).otherwise(pl.lit(" phase ") + _LETTER)
_STATE_ZH = {"raised": "发生", "updated": "持续", "cleared": "恢复", "withdrawn": "撤销"}
_STATE_EN = {"raised": "", "updated": " goes on", "cleared": " has ended", "withdrawn": " is withdrawn"}


def _message(name: str, template: str, start: pl.Expr, states: dict[str, str], phase: pl.Expr) -> pl.Expr:
    what = pl.col(name) + pl.col("state").replace_strict(states, return_dtype=pl.String)
    unit = pl.col("unit").replace("1", "")
    shown = [pl.col(n).round(3).cast(pl.String) for n in ("value", "limit_value")]
    text = filled(template, "meter_id", phase, what, shown[0], unit, shown[1], unit, start)
    return text.str.replace_all(r" +", " ").str.replace_all(r" ([,，])", "$1")


def _checks() -> pl.DataFrame:
    return pl.DataFrame(
        [(c.code, c.rule, c.phase, c.unit, c.name_zh, c.name_en) for c in CHECKS],
        schema={"code": pl.UInt32, **dict.fromkeys(("rule", "phase", "unit", "name_zh", "name_en"), pl.String)},
        orient="row",
    )


def _severity(settings: MeteringSettings) -> pl.Expr:
    """Of the rule set that judged; of the newest where the settings no longer name that one."""
    ordered = sorted(settings.rulesets, key=lambda item: item.effective_from)
    rules = dict.fromkeys(check.rule for check in CHECKS)
    named = {f"{item.name}/{rule}": getattr(item, rule).severity for item in ordered for rule in rules}
    newest = {rule: getattr(ordered[-1], rule).severity for rule in rules}
    key = pl.concat_str("ruleset", "rule", separator="/")
    known = key.replace_strict(named, default=None, return_dtype=pl.String)
    return pl.coalesce(known, pl.col("rule").replace_strict(newest, return_dtype=pl.String)).alias("severity")
