"""How a violation is named and told: rows of `violations` with messages in Chinese and English.

Here: filling the texts of a rule's row. Not here: the texts (`rules.toml`), what is a violation (`lifecycle`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from metering.calendar import local_date
from metering.events.catalogue import check_frame
from metering.settings import MeteringSettings, Rulebook
from metering.tables.lake import VIOLATIONS
from metering.text import filled


def tell(changes: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """Changes (CHANGE_SCHEMA) as rows of `violations`: named, with messages, severity, meter and customer.

    In order of time, and of one violation always in order of revision, so that its last row is the current one.
    """
    rules = settings.rules
    named = changes.with_columns(meter_versions[n].gather(changes["version"]) for n in ("meter_id", "customer_no"))
    named = named.join(check_frame(settings), on="code", how="left").with_columns(_severity(named["ruleset"], rules))
    start = pl.col("started_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    rows = named.with_columns(
        violation_id=pl.concat_str("meter_id", "rule", "phase", start, separator="/"),
        date=local_date(pl.col("at"), settings.timezone),
        message_zh=_message(rules, "zh", {"since": start, "state": _state(_STATE_ZH), "phase": _PHASE_ZH}),
        message_en=_message(rules, "en", {"since": start, "state": _state(_STATE_EN), "phase": _PHASE_EN}),
    )
    told = VIOLATIONS.conform(rows).sort("violation_id", "revision", "at")
    # What a late reading changes may be newer than its time.
    return told.sort(pl.col("at").cum_max().over("violation_id"), "violation_id", "revision", "at")


_PLACEHOLDER = re.compile(r"{(\w+)}")
_LETTER = pl.col("phase").str.to_uppercase()
_TOTAL = pl.col("phase") == "total"
_PHASE_ZH = pl.when(_TOTAL).then(pl.lit(" ")).otherwise(pl.lit(" ") + _LETTER + pl.lit("相"))
_PHASE_EN = pl.when(_TOTAL).then(pl.lit("")).otherwise(pl.lit(" phase ") + _LETTER)
_STATE_ZH = {"raised": "发生", "updated": "持续", "cleared": "恢复", "withdrawn": "撤销"}
_STATE_EN = {"raised": "", "updated": " goes on", "cleared": " has ended", "withdrawn": " is withdrawn"}


def _state(words: Mapping[str, str]) -> pl.Expr:
    return pl.col("state").replace_strict(words, return_dtype=pl.String)


def _message(rules: Rulebook, language: str, values: Mapping[str, pl.Expr]) -> pl.Expr:
    """The text of each violation's rule, filled; rules with the same text are filled together."""
    names = {rule.id: getattr(rule, f"name_{language}") for rule in rules.rules}
    value, limit = (pl.col(n).round(3).cast(pl.String) for n in ("value", "limit_value"))
    known = {
        **values, "meter_id": pl.col("meter_id"), "name": pl.col("rule").replace_strict(names, return_dtype=pl.String),
        "value": value, "limit": limit, "unit": pl.col("unit").replace("1", ""),
    }  # fmt: skip
    texts: dict[str, list[str]] = {}
    for rule in rules.rules:
        texts.setdefault(getattr(rule, f"text_{language}"), []).append(rule.id)
    told = pl.coalesce(pl.when(pl.col("rule").is_in(ids)).then(_filled(text, known)) for text, ids in texts.items())
    return told.str.replace_all(r" +", " ").str.replace_all(r" ([,，])", "$1")


def _filled(text: str, values: Mapping[str, pl.Expr]) -> pl.Expr:
    names = _PLACEHOLDER.findall(text)
    return filled(_PLACEHOLDER.sub("{}", text), *(values[name] for name in names))


def _severity(rulesets: pl.Series, rules: Rulebook) -> pl.Expr:
    """Of the version that judged; of the newest where the settings no longer name that one."""
    versions = rulesets.unique().to_list()
    named = {
        f"{version}/{rule.id}": rules.judged_as(rule.id, version).severity
        for version in versions
        for rule in rules.rules
    }
    key = pl.concat_str("ruleset", "rule", separator="/")
    return key.replace_strict(named, return_dtype=pl.String).alias("severity")
