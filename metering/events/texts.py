"""How a violation is named and told: rows of `violations` with messages in Chinese and English.

Here: what is known of a violation besides its change, and filling the texts of a rule's row. Not here: the texts
(`rules.toml`), words for quantities and values (`wording`), what is a violation (`lifecycle`).

A message says who, where, since when in local time, how bad, and what to do; one that is over says so, and one that is
taken back.
"""

from __future__ import annotations

import re
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
    rows = _with_numbers(rows)
    rows = rows.with_columns(_message(rows, language, settings) for language in wording.LANGUAGES)
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
    return pl.when(nominal != 0).then(nominal).cast(pl.Float64).round(9).alias("nominal")


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


def _message(rows: pl.DataFrame, language: str, settings: MeteringSettings) -> pl.Series:
    """The text of each violation's rule, filled; rows with the same text are filled together."""
    if rows.is_empty():
        return pl.Series(f"message_{language}", [], pl.String)
    text = pl.when(_WITHDRAWN).then(f"withdrawn_{language}").otherwise(f"text_{language}").alias("text")
    rows = _with_values(rows, language, settings.timezone).with_columns(text)
    texts = rows["text"].unique().drop_nulls().sort().to_list()
    told = [pl.when(pl.col("text") == each).then(_filled(each)) for each in texts]
    message = pl.coalesce(told).str.replace_all(r" +", " ").str.replace_all(r" ([,，。])", "$1").str.strip_chars()
    return rows.select(message.alias(f"message_{language}")).to_series()


def _filled(text: str) -> pl.Expr:
    names = _PLACEHOLDER.findall(text)
    return filled(_PLACEHOLDER.sub("{}", text), *(pl.col(f"{{{name}}}").fill_null("") for name in names))


def _with_values(rows: pl.DataFrame, language: str, timezone: str) -> pl.DataFrame:
    """With what placeholders stand for, each in a column of its name in braces. In steps, for Polars plans anew what an
    expression says more than once.
    """
    begin, end = pl.col("started_at"), pl.col("ended_at")
    advice, quantity = pl.col(f"advice_{language}").str.strip_chars_end("。."), pl.col(f"quantity_{language}")
    cleared, withdrawn = _STATE[language]
    above, below = _WORST[language]
    form = _WHEN[language]
    rows = rows.with_columns(
        pl.col("customer_name").alias("{customer}"),
        pl.col("feeder").alias("{feeder}"),
        pl.col("meter_id").alias("{meter_id}"),
        pl.when(quantity != "").then(filled(_QUANTITY[language], quantity)).alias("{quantity}"),
        pl.col(f"phase_{language}").alias("{phase}"),
        pl.col(f"name_{language}").alias("{name}"),
        pl.when(_WITHDRAWN).then(pl.lit(withdrawn)).when(~_OPEN).then(pl.lit(cleared)).alias("{state}"),
        pl.when(pl.col("side") == BELOW).then(pl.lit(below)).otherwise(pl.lit(above)).alias("{worst}"),
        pl.col("_value").alias("{value}"),
        pl.col("_limit").alias("{limit}"),
        pl.col("unit").replace(_PLAIN_NUMBER, "").alias("{unit}"),
        pl.col("_percent").alias("{percent}"),
        wording.clock(begin, pl.col("at"), timezone, language).alias("{since}"),
        wording.clock(end, begin, timezone, language).alias("{until}"),
        wording.lasting(pl.col("duration_s"), language).alias("{duration}"),
        filled(_TIMES[language], "_times").alias("{times}"),
        pl.when(_OPEN & (advice != "")).then(filled(_ADVICE[language], advice)).alias("{advice}"),
        _where(language).alias("_where"),
        pl.col("base").replace_strict(_of(language), default=None, return_dtype=pl.String).alias("_of"),
    )
    when = (
        pl.when(pl.col("state") == "cleared")
        .then(filled(form["over"], "{since}", "{until}", "{duration}"))
        .when(pl.col("duration_s") > 0)
        .then(filled(form["going on"], "{since}", "{duration}"))
        .otherwise(filled(form["begun"], "{since}"))
    )
    who = pl.concat_str("customer_name", "_where")
    return rows.with_columns(when.alias("{when}"), who.alias("{who}"), _extent(language).alias("{extent}"))


def _with_numbers(rows: pl.DataFrame) -> pl.DataFrame:
    """With values as texts, the same in every language."""
    value, limit = pl.col("value"), pl.col("limit_value")
    # without a base, a pure number is a share of a whole
    whole = pl.when(pl.col("unit") == _PLAIN_NUMBER).then(pl.coalesce("nominal", 1.0)).otherwise("nominal")
    rows = rows.with_columns(
        wording.digits_of(value, pl.col("unit")).alias("_value_digits"),
        wording.digits_of(limit, pl.col("unit")).alias("_limit_digits"),
    )
    return rows.with_columns(
        wording.number(value, "_value_digits", fixed="is_pf").alias("_value"),
        wording.number(limit, "_limit_digits", fixed="is_pf").alias("_limit"),
        wording.number(100 * value / whole, 1).alias("_percent"),
        wording.number(100 * limit / whole, 1).alias("_most"),
        wording.number(pl.col("voltage_level_kv"), 2).alias("_level"),
        pl.when(pl.col("occurrences") > 1).then("occurrences").alias("_times"),
    )


def _of(language: str) -> dict[str, str]:
    return {base: words[wording.LANGUAGES.index(language)] for base, words in wording.BASES.items()}


def _extent(language: str) -> pl.Expr:
    form = _EXTENT[language]
    share = ("_of", "_percent") if language == "zh" else ("_percent", "_of")
    return (
        pl.when("is_pf")
        .then(filled(form["pf"], "{worst}", "_value", "_limit"))
        .when(pl.col("nominal").is_not_null() & pl.col("_of").is_not_null())
        .then(filled(form["of"], "{worst}", "_value", "unit", *share, "_most"))
        .when(pl.col("unit") == _PLAIN_NUMBER)
        .then(filled(form["share"], "{worst}", "_percent", "_most"))
        .otherwise(filled(form["plain"], "{worst}", "_value", "unit", "_limit", "unit"))
    )


def _where(language: str) -> pl.Expr:
    """Voltage level and feeder; a feeder that names its voltage says it alone."""
    feeder = pl.col("feeder").fill_null("")
    both = pl.when(feeder.str.contains("(?i)kv")).then(feeder).otherwise(filled("{} kV {}", "_level", feeder))
    return filled(_WHERE[language], both.str.strip_chars())
