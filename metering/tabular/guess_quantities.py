"""What an unknown table's columns measure: field, unit, direction, by their names and their values.

Here: `quantity_of` a name and `channels_of` columns. Not here: times (`guess_stamps`), the mapping's text (`guess`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

_UNIT = re.compile(r"(?<![A-Za-z0-9])([kKMG]?)(Wh|varh|W|var)(?![A-Za-z])", re.I)
_SINGLE = re.compile(r"[\[(]\s*(k?)([VA])\s*[\])]|[_ ](k?)([VA])$", re.I)
_PREFIX = {"": 1e-3, "k": 1.0, "m": 1e3, "g": 1e6}
_VOLTAGE = re.compile(r"voltage|spannung|tension|tensión|volt\b|电压", re.I)
_CURRENT = re.compile(r"\bcurrent\b|intensity|courant|stromstärke|电流", re.I)
_RATIO = re.compile(r"factor|cos ?phi|\bpf\b|功率因数|temperatur|price|preis|prix|cost|kosten|co2", re.I)
_REACTIVE = re.compile(r"(?<![a-z])q(?![a-z]|\d)|qload|reactive|blind|réactive|reactiva|无功", re.I)
_POWER = re.compile(r"power|leistung|puissance|potencia|load|demand|last(gang|profil)?\b|有功|负荷|功率", re.I)
_ENERGY = re.compile(
    r"energy|energie|énergie|verbrauch|consumption|consommation|consumo|usage|电量|电能|正向|反向", re.I
)
_EXPORT = re.compile(
    r"export|feed.?in|einspeis|injection|injecté|lieferung|rücklief|reverse|surplus|反向|上网|leading|超前", re.I
)
_NET = re.compile(r"\bnet\b|net_|_net|netto|saldo|净", re.I)
_PHASE = re.compile(r"(?<![a-z])(?:l|phase|ph|u|i|v)?[ _.]?([abc]|[123])(?![a-z0-9])", re.I)
_REGISTER = re.compile(r"register|stand\b|cumul|index|total|odometer|示数|表码|累计", re.I)
_REGISTER_STEPS = 8
_REGISTER_LEAST = 200
_REGISTER_HINT = 25
"""A register that its name does not give away stands at no less than so many of its usual steps."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """`kind`: active, reactive, voltage, current. `energy`: kWh or kvarh rather than kW or kvar. `factor` to the
    reading's unit; None: the unit is not known. `direction`: import, export, net. `phase`: a, b, c where it says."""

    kind: str
    energy: bool
    factor: float | None
    direction: str = "import"
    phase: str = "a"


def quantity_of(text: str, unit: str = "") -> Quantity | None:
    """What a column's name, or a cell that names a quantity, says; `unit` where a cell beside it does; or None."""
    direction = "export" if _EXPORT.search(text) else "net" if _NET.search(text) else "import"
    found = _UNIT.search(unit) or _UNIT.search(text)
    if found:
        base, factor = found[2].lower(), _PREFIX[found[1].lower()]
        kind = "reactive" if base.startswith("var") or _REACTIVE.search(text) else "active"
        return Quantity(kind, base.endswith("h"), factor, direction)
    if _RATIO.search(text):
        return None
    single = _SINGLE.search(unit) or _SINGLE.search(text)
    letter = (single[2] or single[4]).upper() if single else ""
    if letter == "V" or _VOLTAGE.search(text):
        return Quantity("voltage", False, _single_factor(single), phase=_phase(text))
    if letter == "A" or _CURRENT.search(text):
        return Quantity("current", False, _single_factor(single), phase=_phase(text))
    if _REACTIVE.search(text):
        return Quantity("reactive", bool(_ENERGY.search(text)), None, direction)
    if _ENERGY.search(text):
        return Quantity("active", True, None, direction)
    if _POWER.search(text):
        return Quantity("active", False, None, direction)
    return None


def _single_factor(single: re.Match[str] | None) -> float:
    prefix = (single[1] or single[3] or "") if single else ""
    return 1000.0 if prefix.lower() == "k" else 1.0


def _phase(text: str) -> str:
    found = _PHASE.search(text)
    return {"1": "a", "2": "b", "3": "c"}.get(found[1], found[1].lower()) if found else "a"


def is_register(name: str, values: pl.Series) -> bool:
    """Whether values only rise, and their name or their height says that they have done so for long."""
    known = values.drop_nulls()
    steps = known.diff().drop_nulls()
    if len(steps) < 3 or bool((steps < 0).any()) or not bool((steps > 0).any()):
        return False
    if _REGISTER.search(name):
        return True
    usual, height = steps.filter(steps > 0).median(), known.median()
    high = isinstance(usual, float) and isinstance(height, float) and height >= _REGISTER_LEAST * usual
    return high and len(steps) >= _REGISTER_STEPS


def may_be_register(name: str, values: pl.Series) -> bool:
    """Whether so few values that rise, from well above 0, could be those of a register as well as of intervals."""
    known = values.drop_nulls()
    steps = known.diff().drop_nulls()
    if _REGISTER.search(name) or not 0 < len(steps) < _REGISTER_STEPS:
        return False
    usual = steps.filter(steps > 0).median()
    rises = bool((steps >= 0).all()) and bool((known >= 0).all())
    return rises and isinstance(usual, float) and bool(known[0] >= _REGISTER_HINT * usual)


@dataclass(frozen=True, slots=True)
class ChannelGuess:
    """One [[channel]] of a mapping. `why` is said beside it; `sure` false: only its unit is a question."""

    field: str
    columns: tuple[tuple[str, float], ...]
    kind: str = "value"
    part: str = "net"
    when: tuple[tuple[str, str], ...] = ()
    why: str = ""
    sure: bool = True


def channels_of(
    column: str,
    quantity: Quantity,
    values: pl.Series,
    when: tuple[tuple[str, str], ...] = (),
    register: bool | None = None,
) -> list[ChannelGuess]:
    """The channels that a column of `values` becomes. `register`: whether it is one; None: by its looks."""
    rising = is_register(column, values) if register is None else register
    factor = 1.0 if quantity.factor is None else quantity.factor
    sure = quantity.factor is not None
    one = ((column, factor),)
    if quantity.kind in ("voltage", "current"):
        name = f"u{quantity.phase}_v" if quantity.kind == "voltage" else f"i{quantity.phase}_a"
        return [ChannelGuess(name, one, when=when, sure=sure)]
    power, unit = ("p_kw", "kwh") if quantity.kind == "active" else ("q_kvar", "kvarh")
    negative = bool((values.drop_nulls() < 0).any())
    if not quantity.energy:
        sign = -1.0 if quantity.direction == "export" and not negative else 1.0
        return [ChannelGuess(power, ((column, sign * factor),), when=when, sure=sure)]
    if rising and not negative:
        way = "export" if quantity.direction == "export" else "import"
        return [ChannelGuess(f"{way}_{unit}", one, when=when, sure=sure, why="it only rises: a register")]
    mean = "mean_power"
    if negative or quantity.direction == "net":
        why = "it has values below 0: what is drawn less what is fed in"
        return [
            ChannelGuess(power, one, mean, when=when, sure=sure, why=why),
            ChannelGuess(f"import_{unit}", one, "interval_energy", "positive", when, sure=sure),
            ChannelGuess(f"export_{unit}", one, "interval_energy", "negative", when, sure=sure),
        ]
    sign = -1.0 if quantity.direction == "export" else 1.0
    return [
        ChannelGuess(power, ((column, sign * factor),), mean, when=when, sure=sure),
        ChannelGuess(f"{quantity.direction}_{unit}", one, "interval_energy", when=when, sure=sure),
    ]


def merged(channels: list[ChannelGuess]) -> tuple[list[ChannelGuess], list[ChannelGuess]]:
    """Channels of which no two have one field and rows, and those left over.

    Powers of energies of both directions are one weighted sum; of others the first counts.
    """
    kept: list[ChannelGuess] = []
    over: list[ChannelGuess] = []
    for channel in channels:
        same = next(
            (i for i, other in enumerate(kept) if (other.field, other.when) == (channel.field, channel.when)), None
        )
        if same is None:
            kept.append(channel)
            continue
        other = kept[same]
        signs = {weight < 0 for _, weight in (*other.columns, *channel.columns)}
        if channel.kind == other.kind == "mean_power" and len(signs) == 2 and not other.why:
            kept[same] = ChannelGuess(
                other.field,
                (*other.columns, *channel.columns),
                other.kind,
                when=other.when,
                sure=other.sure and channel.sure,
            )
        else:
            over.append(channel)
    return kept, over
