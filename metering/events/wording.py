"""Words for what rules look at: quantities as they are measured, what limits are fractions of, numbers, durations.

Here: names of quantities by wiring, and expressions that make texts of values. Not here: the sentences (`texts`, and
the rules' rows), what measures are (`measures`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from metering.tables.lake import PHASES

LANGUAGES = ("zh", "en")


class Quantity(NamedTuple):
    """What is measured: `code` as published (ua, uab, p), and its names; empty where a rule's name says it."""

    code: str
    zh: str = ""
    en: str = ""


_TOTALS = {"p_kw": "p", "p_export_kw": "p", "q_kvar": "q", "s_kva": "s", "u_max": "u", "i_max": "i"}
_POWER_FACTORS = ("pf", "pf_lagging", "pf_leading")
_REGISTERS = {
    "import_kwh": ("正向有功", "active import"),
    "export_kwh": ("反向有功", "active export"),
    "import_kvarh": ("正向无功", "reactive import"),
    "export_kvarh": ("反向无功", "reactive export"),
}
_LINES = {"a": ("uab", "AB"), "b": ("ubc", "BC"), "c": ("ucb", "CB")}
_KINDS = {"u": ("电压", "voltage"), "i": ("电流", "current")}

BASES: Mapping[str, tuple[str, str]] = {
    "nominal_v": ("额定", "nominal"),
    "rated_a": ("基本电流", "base current"),
    "max_a": ("最大电流", "maximum current"),
    "contract_capacity_kva": ("合同容量", "contract capacity"),
    "contract_demand_kw": ("合同需量", "contract demand"),
    "base_kva": ("额定功率", "rated power"),
    "max_kva": ("最大功率", "maximum power"),
    "pf_standard": ("标准", "the standard"),
}
"""What worst values are said in percent of, by base."""

DIGITS: Mapping[str, int] = {"V": 1, "A": 2, "kW": 0, "kVA": 0, "kvar": 0, "kWh": 0, "kvarh": 0, "%": 1}
"""Digits after the point that values of a unit are said with."""
OTHER_DIGITS = 2
_SMALL = 10.0
"""Values of whole units below this are said with one digit more."""


def quantity(measure: str, phase: str, wiring: str) -> Quantity:
    """What a measure of a phase is on a meter of that wiring. Three-wire meters measure uab and ucb; single-phase ones
    have no phases to tell apart.
    """
    kind = measure[0] if measure[:2] in ("u", "i", "u_", "i_") and phase in PHASES else ""
    if not kind:
        if phase in _REGISTERS:
            return Quantity(phase, *_REGISTERS[phase])
        return Quantity("pf" if measure in _POWER_FACTORS else _TOTALS.get(measure, measure))
    zh, en = _KINDS[kind]
    if wiring == "1p":
        return Quantity(f"{kind}{phase}", zh, en)
    if wiring == "3p3w" and kind == "u":
        code, lines = _LINES[phase]
        return Quantity(code, f"{lines} 线{zh}", f"line {lines} {en}")
    return Quantity(f"{kind}{phase}", f"{phase.upper()} 相{zh}", f"phase {phase.upper()} {en}")


def of_phase(measure: str, phase: str, wiring: str, language: str) -> str:
    """The phase alone, as texts of old name it: ` A 相`, ` phase A`."""
    words = _without_kind(quantity(measure, phase, wiring)[1:][LANGUAGES.index(language)])
    return f" {words}" if words or language == "zh" else ""


def beside_name(words: str, name: str, language: str) -> str:
    """A quantity's words beside a rule's name, without what the name says: A 相 before 过压 and 断相, phase A beside
    over-voltage; of a single-phase meter nothing. Line voltages are always said in full, but not twice.
    """
    bare = _without_kind(words)
    kind = words[len(bare) :].strip()
    if not kind:
        return words
    if bare.startswith(tuple(lines for _, lines in _LINES.values())) or bare.startswith("line "):
        said = kind in name if language == "en" else name.startswith(kind)
    else:
        said = any(word in name for word in ((kind, "phase") if language == "en" else (kind[-1], "相")))
    return bare if said else words


def _without_kind(words: str) -> str:
    for kind in (word for both in _KINDS.values() for word in both):
        words = words.removesuffix(kind)
    return words.rstrip()


def number(value: pl.Expr, digits: str | int, fixed: str | None = None) -> pl.Expr:
    """A value with so many digits after the point, as a text; `digits` may be a column. Trailing zeros go, unless the
    column `fixed` says that they stay.
    """
    places = pl.col(digits) if isinstance(digits, str) else pl.lit(digits, pl.Int64)
    scale = pl.lit(10, pl.Int64).pow(places)
    scaled = (value.abs() * scale + 0.5).floor().cast(pl.Int64, strict=False)
    sign = pl.when((value < 0) & (scaled > 0)).then(pl.lit("-")).otherwise(pl.lit(""))
    part = (scaled % scale).cast(pl.String).str.zfill(places)
    short = part.str.strip_chars_end("0")
    kept = short if fixed is None else pl.when(fixed).then(part).otherwise(short)
    after = pl.when((scale > 1) & (kept != "")).then(pl.lit(".") + kept).otherwise(pl.lit(""))
    return pl.concat_str(sign, (scaled // scale).cast(pl.String), after)


def digits_of(value: pl.Expr, unit: pl.Expr) -> pl.Expr:
    """Digits after the point that a value is said with: small ones of whole units have one more."""
    digits = unit.replace_strict(DIGITS, default=OTHER_DIGITS, return_dtype=pl.Int64)
    return pl.when((digits == 0) & (value.abs() < _SMALL)).then(1).otherwise(digits)


_UNITS = {"zh": (" 天", " 小时", " 分钟", " 秒"), "en": (" d", " h", " min", " s")}


def lasting(seconds: pl.Expr, language: str) -> pl.Expr:
    """A duration [s] in its two largest units: `2 小时 5 分钟`, `11 min`, `50 s`."""
    day, hour, minute, second = _UNITS[language]
    m, h, d = seconds // 60, seconds // 3600, seconds // 86_400

    def two(first: pl.Expr, unit: str, second: pl.Expr, smaller: str) -> pl.Expr:
        rest = pl.when(second > 0).then(pl.concat_str(pl.lit(" "), second, pl.lit(smaller))).otherwise(pl.lit(""))
        return pl.concat_str(first, pl.lit(unit), rest)

    return (
        pl.when(seconds < 60)
        .then(pl.concat_str(seconds, pl.lit(second)))
        .when(seconds < 3600)
        .then(pl.concat_str(m, pl.lit(minute)))
        .when(seconds < 86_400)
        .then(two(h, hour, m % 60, minute))
        .otherwise(two(d, day, h % 24, hour))
    )


_CLOCK = {"zh": ("%H:%M", "%-m 月 %-d 日 %H:%M"), "en": ("%H:%M", "%-d %b %H:%M")}


def clock(at: pl.Expr, beside: pl.Expr, timezone: str, language: str) -> pl.Expr:
    """Local time of day of an instant, with its date where that is not the local date of `beside`."""
    local, other = (instant.dt.convert_time_zone(timezone) for instant in (at, beside))
    time, dated = (local.dt.strftime(form) for form in _CLOCK[language])
    return pl.when(local.dt.date() == other.dt.date()).then(time).otherwise(dated)
