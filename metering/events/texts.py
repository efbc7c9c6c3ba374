"""How a violation is named and told: rows of `violations` with messages in Chinese and English.

Here: what is known of a violation besides its change, and filling the texts of a rule's row. Not here: the texts
(`rules.toml`), words for quantities and values (`wording`), what is a violation (`lifecycle`).

A message says who, where, since when in local time, how bad, and what to do; one that is over says so, and one that is
taken back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import polars as pl

from metering.calendar import local_date
from metering.events import wording
from metering.events.catalogue import check_frame
from metering.events.measures import NO_BASE
from metering.settings import BELOW, MeteringSettings, Rulebook
from metering.tables.lake import VIOLATIONS
from metering.tables.warehouse import WIRINGS
from metering.text import filled

_OF_METER = ("meter_id", "customer_no", "customer_name", "feeder", "manager", "wiring", "voltage_level_kv")
_BY_LANGUAGE = ("name", "advice", "text", "withdrawn")
_PLAIN_NUMBER = "1"


def tell(changes: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """Changes (CHANGE_SCHEMA) as rows of `violations`: named, with messages, severity, meter and customer.

    In order of time, and of one violation always in order of revision, so that its last row is the current one.
    """
    named = changes.with_columns(meter_versions[n].gather(changes["version"]) for n in _OF_METER)
    named = named.join(check_frame(settings), on="code", how="left")
    named = named.join(_said(settings), on=("rule", "phase", "wiring"), how="left")
    named = named.with_columns(_severity(named["ruleset"], settings.rules), _nominal(named, meter_versions))
    start = pl.col("started_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    rows = named.with_columns(
        violation_id=pl.concat_str("meter_id", "rule", "phase", start, separator="/"),
        date=local_date(pl.col("at"), settings.timezone),
        percent=100 * pl.col("value") / pl.col("nominal"),
        duration_s=_duration_s(),
        storm_id=_storm_id(settings),
    )
    rows = rows.with_columns(
        _message(rows, language, settings).alias(f"message_{language}") for language in wording.LANGUAGES
    )
    told = VIOLATIONS.conform(rows).sort("violation_id", "revision", "at")
    # What a late reading changes may be newer than its time.
    return told.sort(pl.col("at").cum_max().over("violation_id"), "violation_id", "revision", "at")


# --- what is known of it --------------------------------------------------------------------------------------------


def _said(settings: MeteringSettings) -> pl.DataFrame:
    """For each check and wiring: quantity, base, class, group of storms, names, texts and advice."""
    return _said_by(settings.rules)


@lru_cache(maxsize=8)
def _said_by(rules: Rulebook) -> pl.DataFrame:
    rows = []
    for rule in rules.rules:
        for phase in rule.phases:
            for wiring in WIRINGS:
                measured = wording.quantity(rule.measure, phase, wiring)
                row: dict[str, object] = {
                    "rule": rule.id, "phase": phase, "wiring": wiring, "quantity": measured.code,
                    "base": rule.base, "event_class": rule.event_class, "storm": rule.storm or None,
                    "is_pf": measured.code == "pf",
                }  # fmt: skip
                for language, words in zip(wording.LANGUAGES, measured[1:], strict=True):
                    own = {field: rule.said(wiring, f"{field}_{language}") for field in _BY_LANGUAGE}
                    row |= {f"{field}_{language}": text for field, text in own.items()}
                    row[f"quantity_{language}"] = wording.beside_name(words, own["name"], language)
                    row[f"phase_{language}"] = wording.of_phase(rule.measure, phase, wiring, language)
                rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _nominal(named: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.Expr:
    """What the limit is a fraction of, as it was for the meter; null: of nothing."""
    bases = [base for base in named["base"].unique().drop_nulls() if base != NO_BASE]
    values = [pl.when(pl.col("base") == base).then(meter_versions[base].gather(named["version"])) for base in bases]
    nominal = pl.coalesce(values) if values else pl.lit(None, pl.Float64)
    return pl.when(nominal != 0).then(nominal).cast(pl.Float64).alias("nominal")


def _duration_s() -> pl.Expr:
    """How long it lasted, or has lasted at the reading that caused the change [s]; null of what never was."""
    lasted = pl.coalesce("ended_at", "at") - pl.col("started_at")
    return pl.when(pl.col("state") != "withdrawn").then(lasted.dt.total_seconds().clip(lower_bound=0))


def _storm_id(settings: MeteringSettings) -> pl.Expr:
    """Feeder, group of rules, and the span of time that it began in: so that meters that know nothing of each other
    name one storm alike.
    """
    span = f"{max(1, round(settings.alarms.storm_span_s))}s"
    began = pl.col("started_at").dt.truncate(span).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    named = (pl.col("storm").cast(pl.String).is_not_null()) & (pl.col("feeder").fill_null("") != "")
    return pl.when(named).then(pl.concat_str("feeder", pl.col("storm").cast(pl.String), began, separator="/"))


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


# --- what is said of it ---------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"{(\w+)}")
_OPEN = pl.col("state").is_in(["raised", "updated"])
_WITHDRAWN = pl.col("state") == "withdrawn"
_STATE = {"zh": ("已解除", "已撤销"), "en": (" cleared", " withdrawn")}
_WORST = {"zh": ("最高", "最低"), "en": ("highest", "lowest")}
_EXTENT = {
    "zh": {
        "of": "{} {} {}，{}的 {} %（限值 {} %）", "pf": "{} {}（限值 {}）", "share": "{} {} %（限值 {} %）",
        "plain": "{} {} {}（限值 {} {}）",
    },
    "en": {
        "of": "{} {} {}, {} % of {} (limit {} %)", "pf": "{} {} (limit {})", "share": "{} {} % (limit {} %)",
        "plain": "{} {} {} (limit {} {})",
    },
}  # fmt: skip
_WHERE = {"zh": "（{}）", "en": " ({})"}
_WHEN = {
    "zh": {"going on": "{} 起已 {}", "begun": "{} 起", "over": "{}–{}，历时 {}"},
    "en": {"going on": "since {}, for {} so far", "begun": "since {}", "over": "{}–{}, lasted {}"},
}
_TIMES = {"zh": "，反复 {} 次", "en": ", came {} times"}
_ADVICE = {"zh": "建议：{}。", "en": "What to do: {}."}
_QUANTITY = {"zh": "{}", "en": " ({})"}


def _message(rows: pl.DataFrame, language: str, settings: MeteringSettings) -> pl.Expr:
    """The text of each violation's rule, filled; rows with the same text are filled together."""
    values = _values(language, settings)
    text = pl.when(_WITHDRAWN).then(f"withdrawn_{language}").otherwise(f"text_{language}")
    texts = rows.select(text.unique()).to_series().drop_nulls().to_list()
    told = pl.coalesce(pl.when(text == each).then(_filled(each, values)) for each in sorted(texts))
    told = told if texts else pl.lit(None, pl.String)
    return told.str.replace_all(r" +", " ").str.replace_all(r" ([,，。])", "$1").str.strip_chars()


def _filled(text: str, values: Mapping[str, pl.Expr]) -> pl.Expr:
    names = _PLACEHOLDER.findall(text)
    return filled(_PLACEHOLDER.sub("{}", text), *(values[name].fill_null("") for name in names))


def _values(language: str, settings: MeteringSettings) -> dict[str, pl.Expr]:
    """What placeholders stand for."""
    cleared, withdrawn = (pl.lit(word) for word in _STATE[language])
    begin, end = pl.col("started_at"), pl.col("ended_at")
    since = wording.clock(begin, pl.col("at"), settings.timezone, language)
    until = wording.clock(end, begin, settings.timezone, language)
    duration = wording.lasting(pl.col("duration_s"), language)
    form = _WHEN[language]
    when = (
        pl.when(pl.col("state") == "cleared")
        .then(filled(form["over"], since, until, duration))
        .when(pl.col("duration_s") > 0)
        .then(filled(form["going on"], since, duration))
        .otherwise(filled(form["begun"], since))
    )
    digits, is_pf = _digits(), pl.col("is_pf").fill_null(False)
    advice = pl.col(f"advice_{language}").str.strip_chars_end("。.")
    quantity = pl.col(f"quantity_{language}")
    return {
        "who": _who(language),
        "customer": pl.col("customer_name"),
        "feeder": pl.col("feeder"),
        "meter_id": pl.col("meter_id"),
        "quantity": pl.when(quantity != "").then(filled(_QUANTITY[language], quantity)),
        "phase": pl.col(f"phase_{language}"),
        "name": pl.col(f"name_{language}"),
        "state": pl.when(_WITHDRAWN).then(withdrawn).when(~_OPEN).then(cleared).otherwise(pl.lit("")),
        "extent": _extent(language),
        "worst": _worst(language),
        "value": wording.number(pl.col("value"), digits, is_pf),
        "unit": pl.col("unit").replace(_PLAIN_NUMBER, ""),
        "percent": wording.percent(pl.col("percent")),
        "limit": wording.number(pl.col("limit_value"), digits, is_pf),
        "when": when,
        "since": since,
        "until": until,
        "duration": duration,
        "times": pl.when(pl.col("occurrences") > 1).then(filled(_TIMES[language], "occurrences")),
        "advice": pl.when(_OPEN & (advice != "")).then(filled(_ADVICE[language], advice)),
    }


def _digits() -> pl.Expr:
    return pl.col("unit").replace_strict(wording.DIGITS, default=wording.OTHER_DIGITS, return_dtype=pl.Int64)


def _worst(language: str) -> pl.Expr:
    above, below = (pl.lit(word) for word in _WORST[language])
    return pl.when(pl.col("side") == BELOW).then(below).otherwise(above)


def _extent(language: str) -> pl.Expr:
    form, worst, unit = _EXTENT[language], _worst(language), pl.col("unit")
    value, limit = pl.col("value"), pl.col("limit_value")
    words = {base: both[wording.LANGUAGES.index(language)] for base, both in wording.BASES.items()}
    of = pl.col("base").replace_strict(words, default=None, return_dtype=pl.String)
    digits, is_pf = _digits(), pl.col("is_pf").fill_null(False)
    said, said_limit = (wording.number(each, digits, is_pf) for each in (value, limit))
    percent, most = (wording.percent(100 * each / pl.col("nominal")) for each in (value, limit))
    share = percent, of, most
    if language == "zh":
        share = of, percent, most
    return (
        pl.when(is_pf)
        .then(filled(form["pf"], worst, said, said_limit))
        .when(pl.col("nominal").is_not_null() & of.is_not_null())
        .then(filled(form["of"], worst, said, unit, *share))
        .when(unit == _PLAIN_NUMBER)
        .then(filled(form["share"], worst, wording.percent(100 * value), wording.percent(100 * limit)))
        .otherwise(filled(form["plain"], worst, said, unit, said_limit, unit))
    )


def _who(language: str) -> pl.Expr:
    """The customer, with voltage level and feeder; a feeder that names its voltage says it alone."""
    feeder = pl.col("feeder").fill_null("")
    level = wording.number(pl.col("voltage_level_kv"), pl.lit(2), pl.lit(False))
    both = pl.when(feeder.str.contains("(?i)kv")).then(feeder).otherwise(filled("{} kV {}", level, feeder))
    return pl.concat_str("customer_name", filled(_WHERE[language], both.str.strip_chars()))
