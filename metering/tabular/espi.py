"""Green Button: meter data as ESPI resources (NAESB REQ.21) in an Atom feed.

Here: whose blocks are whose, units, directions, quality. Not here: reading the XML (`espi_feed`), what becomes of the
values (`interval_data`). Times are epoch seconds in UTC: LocalTimeParameters say how to show them, and change nothing.
A feed with a document type is refused: entities are how XML is made to unpack without end, or to read other files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from metering.errors import MappingError
from metering.tables.schema import TIMESTAMP
from metering.tabular.convert import Replayed
from metering.tabular.espi_feed import Block, Entry, Feed
from metering.tabular.field_options import LONGEST_METER_ID, FieldOptions, meter_name
from metering.tabular.interval_data import ENERGY, REGISTER, VALUE, VALUES, reject, to_readings
from metering.tabular.shape import Mapping
from metering.text import filled

_EARLIEST_S, _LATEST_S = 946_684_800, 4_133_980_800  # 2000 to 2100
_LONGEST_S = 366 * 86_400
_ELECTRICITY = (None, 0, 1, 2)  # none, secondary, primary metered
_DELTA, _CUMULATIVE = (None, 0, 4, 9), (1, 2, 3)
_PLAIN = (None, 0, 2, 12)  # data qualifiers: none, average, normal; others are maxima, minima, limits
_IMPORT, _EXPORT, _NET = (None, 0, 1), 19, 4
_ENERGIES = {72: ("import_kwh", "export_kwh"), 73: ("import_kvarh", "export_kvarh")}
_POWERS = {38: "p_kw", 63: "q_kvar"}
_OF_PHASE = {29: "u{}_v", 5: "i{}_a"}
_PHASES = {128: "a", 129: "a", 64: "b", 65: "b", 32: "c", 33: "c"}
_UOMS = {
    **{42: "m3", 119: "ft3", 132: "BTU", 169: "therm", 61: "VA", 71: "VAh", 65: "power factor", 33: "Hz", 29: "V"},
    **{5: "A", 38: "W", 63: "var", 72: "Wh", 73: "varh", 31: "J", 106: "Ah"},
}
QUALITY = {
    **dict.fromkeys(("0", "14", "17", "18", "19"), "good"),
    **dict.fromkeys(("7", "8", "9", "10", "11", "13", "15", "16"), "estimated"),
    "12": "reject",
}
"""QualityOfReading: valid, raw, validated, verified, revenue quality; edited, estimated, questionable, derived, mixed,
normalized, other; projected, which is a forecast."""


@dataclass(frozen=True, slots=True)
class _Series:
    """What the readings of a block are: of which meter, what of it, by which reading type. `problem`: why of none."""

    meter: str = ""
    values: tuple[tuple[str, str], ...] = ()
    problem: tuple[str, str] | None = None

    def number(self, name: str) -> int | None:
        text = dict(self.values).get(name, "")
        return int(text) if text.removeprefix("-").isdecimal() and len(text) < 10 else None


def read_espi(content: bytes, mapping: Mapping) -> Replayed:
    """Readings of a Green Button feed. A reading that cannot be used is a reject under the line that it starts on.

    Raises MappingError when the file is none, is not well-formed, declares a document type, or when one meter_id
    would stand for several usage points.
    """
    feed = Feed()
    feed.read(content)
    blocks = [(entry, block) for entry in feed.entries for block in entry.blocks]
    if not blocks:
        raise MappingError(
            f"format: the file is XML with <{feed.root}> outside, and has no IntervalBlock in an Atom entry, so it is "
            "no Green Button (ESPI) usage data"
        )
    series = _Links(feed.entries, mapping.options)
    numbers = [series.of(entry) for entry, _ in blocks]
    lengths = [one.number("intervalLength") for one in series.known]
    rows = [row for n, (_, block) in zip(numbers, blocks, strict=True) for row in _rows(block, n, lengths[n])]
    frame = pl.DataFrame(rows, schema=_ROW, orient="row")
    values, rejects = _judged(frame, series.known, mapping.options)
    return to_readings(values, rejects)


def meters_in(content: bytes) -> list[str]:
    """The usage points of a feed, by their own names, sorted. Raises MappingError as `read_espi`."""
    feed = Feed()
    feed.read(content)
    return sorted(_names([entry for entry in feed.entries if entry.kind == "UsagePoint"]).values())


def looks_like(text: str) -> bool:
    """Whether a text begins as a feed of ESPI resources does."""
    return text.lstrip("\ufeff \t\r\n").startswith("<") and "naesb.org/espi" in text


# --- which block belongs to which meter, and what it holds -----------------------------------------------------------


class _Links:
    """Entries by what they are, and the series of each entry with blocks; `known` numbers the series."""

    def __init__(self, entries: Iterable[Entry], options: FieldOptions) -> None:
        by_kind: dict[str, list[Entry]] = {}
        for entry in entries:
            by_kind.setdefault(entry.kind, []).append(entry)
        self._meter_readings = by_kind.get("MeterReading", [])
        self._types = by_kind.get("ReadingType", [])
        self._points = by_kind.get("UsagePoint", [])
        self._names = _names(self._points)
        self._options = options
        self._found: dict[int, int] = {}
        self.known: list[_Series] = []

    def of(self, entry: Entry) -> int:
        """The number of the series that the blocks of `entry` belong to."""
        number = self._found.get(id(entry))
        if number is None:
            found = self._series(entry)
            if found not in self.known:
                self.known.append(found)
            number = self._found[id(entry)] = self.known.index(found)
        return number

    def _series(self, entry: Entry) -> _Series:
        reading = _nearest(entry, self._meter_readings)
        if reading is None and self._meter_readings:
            return _Series(problem=("unlinked", "no MeterReading of the feed is linked to this block"))
        holder = reading or entry
        kind = _linked(holder, self._types) or _nearest(entry, self._types)
        point = _nearest(holder, self._points)
        if kind is None:
            return _Series(problem=("unlinked", "no ReadingType of the feed is linked to this block"))
        if point is None and self._points:
            return _Series(problem=("unlinked", "no UsagePoint of the feed is linked to this block"))
        service = point.values.get("kind", "0") if point else "0"
        if service != "0":
            return _Series(problem=("other_quantity", f"the usage point's service, kind {service}, is not electricity"))
        meter = self._meter(point)
        if not 1 <= len(meter) <= LONGEST_METER_ID:
            said = (
                "the feed names no usage point: say meter_id in the mapping" if not meter else f"'{meter}' is too long"
            )
            return _Series(problem=("missing_meter", said))
        return _Series(meter, tuple(sorted(kind.values.items())))

    def _meter(self, point: Entry | None) -> str:
        names = dict(self._options.meters)
        if point is None:
            return self._options.meter_id or ""
        own = self._names[id(point)]
        given = next((names[name] for name in (own, point.title, point.self) if name in names), None)
        return given or meter_name(own, self._options, len(self._points))


def _names(points: Sequence[Entry]) -> dict[int, str]:
    """Each usage point's own name: the last part of its link, the whole link where that is not unique, else its id."""
    last = {id(point): point.self.rpartition("/")[2] or point.id.rpartition(":")[2] for point in points}
    often = Counter(last.values())
    return {id(point): last[id(point)] if often[last[id(point)]] == 1 else point.self or point.id for point in points}


def _nearest(entry: Entry, others: Sequence[Entry]) -> Entry | None:
    """The one that `entry` stands under most closely; a feed's only one, where links say nothing."""
    best = max(others, key=entry.under, default=None)
    if best is not None and entry.under(best):
        return best
    return others[0] if len(others) == 1 else None


def _linked(entry: Entry, others: Sequence[Entry]) -> Entry | None:
    """The one that `entry` names, or that names it."""
    return next(
        (o for o in others if (o.self and o.self in entry.related) or (entry.self and entry.self in o.related)), None
    )


# --- readings --------------------------------------------------------------------------------------------------------

_ROW = pl.Schema(
    {
        "line": pl.Int64(),
        "series": pl.Int64(),
        "start": pl.String(),
        "duration": pl.String(),
        "value": pl.String(),
        "quality": pl.String(),
    }
)


def _rows(
    block: Block, number: int, length: int | None
) -> Iterable[tuple[int, int, str | None, str | None, str | None, str]]:
    """Readings of a block; one that gives no time of its own is `length` seconds long and follows on the one before it,
    or starts with the block."""
    follows = block.start
    for reading in block.readings:
        start = reading.start or follows
        duration = reading.duration or (None if length is None else str(length))
        yield reading.line, number, start, duration, reading.value, " ".join(reading.quality)
        follows = _after(start, duration)


def _after(start: str | None, duration: str | None) -> str | None:
    try:
        return str(int(start or "") + int(duration or ""))
    except ValueError:
        return None


_MEANING = pl.Schema(
    {
        "series": pl.Int64(),
        "meter_id": pl.String(),
        "field": pl.String(),
        "negative": pl.String(),
        "kind": pl.String(),
        "stream": pl.String(),
        "part": pl.String(),
        "sign": pl.Float64(),
        "multiplier": pl.Float64(),
        "divisor": pl.Float64(),
        "default_quality": pl.String(),
        "reason": pl.String(),
        "detail": pl.String(),
    }
)


def _meaning(number: int, series: _Series) -> dict[str, object]:
    """What a series' values are: a row of _MEANING. `negative` is the field of values below 0, without their sign."""
    row: dict[str, object] = {"series": number, "meter_id": series.meter}
    if series.problem is not None:
        return {**row, "reason": series.problem[0], "detail": series.problem[1]}
    of, power = series.number, series.number("powerOfTenMultiplier") or 0
    quantity = _quantity(of)
    if not -12 <= power <= 12:
        quantity = f"power of ten {power} is no prefix of a unit"
    if isinstance(quantity, str):
        return {**row, "reason": "other_quantity", "detail": quantity}
    exponent = power - (3 if of("uom") in (*_ENERGIES, *_POWERS) else 0)
    return {
        **row,
        **quantity,
        "part": "-".join(str(of(name) or 0) for name in ("tou", "consumptionTier", "cpp")),
        "multiplier": 10.0 ** max(exponent, 0),
        "divisor": 10.0 ** max(-exponent, 0),
        "default_quality": dict(series.values).get("defaultQuality", ""),
    }


def _quantity(of: Callable[[str], int | None]) -> dict[str, object] | str:
    """`field`, `negative`, `kind`, `stream`, `sign` of a reading type; or why it is no field of a reading."""
    uom, flow, phase = of("uom"), of("flowDirection"), _PHASES.get(of("phase") or 0, "")
    if of("commodity") not in _ELECTRICITY:
        return f"commodity {of('commodity')} is not electricity"
    if of("dataQualifier") not in _PLAIN:
        return f"data qualifier {of('dataQualifier')} means extremes or limits"
    if uom in _ENERGIES:
        accumulation = of("accumulationBehaviour")
        kind = ENERGY if accumulation in _DELTA else REGISTER
        into, out = _ENERGIES[uom]
        if accumulation not in (*_DELTA, *_CUMULATIVE):
            return f"accumulation behaviour {accumulation} is neither an interval's energy nor a register"
        if flow not in (*_IMPORT, _EXPORT, *((_NET,) if kind == ENERGY else ())):
            return f"flow direction {flow} is neither import nor export nor, of intervals, net"
        field, negative = (out, None) if flow == _EXPORT else (into, out if flow == _NET else None)
        stream = phase if kind == ENERGY else ""
        return {"field": field, "negative": negative, "kind": kind, "stream": stream, "sign": 1.0}
    plain = {"negative": None, "kind": VALUE, "stream": ""}
    if uom in _POWERS and flow in (*_IMPORT, _EXPORT, _NET):
        return {**plain, "field": _POWERS[uom], "sign": -1.0 if flow == _EXPORT else 1.0}
    if uom in _OF_PHASE and phase:
        return {**plain, "field": _OF_PHASE[uom].format(phase), "sign": 1.0}
    return f"unit {_UOMS.get(uom or 0, uom)}, flow direction {flow}, phase {of('phase')} is no field of a reading"


def _marks(texts: pl.Series, options: FieldOptions) -> pl.Expr:
    """What the quality codes of `quality` mean together: the worst of them; codes that are not known are good."""
    marks = {**QUALITY, **dict(options.quality)}
    known = {}
    for text in texts.drop_nulls().unique():
        each = {marks.get(code, "good") for code in text.split()}
        known[text] = next((mark for mark in ("reject", "estimated") if mark in each), "good")
    return pl.col("quality").replace_strict(known or {"": ""}, default="good", return_dtype=pl.String)


def _judged(
    frame: pl.DataFrame, known: Sequence[_Series], options: FieldOptions
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """VALUES, and rejects, of the feed's readings."""
    meaning = pl.DataFrame([_meaning(number, series) for number, series in enumerate(known)], schema=_MEANING)
    start, duration = (pl.col(name).cast(pl.Int64, strict=False) for name in ("start", "duration"))
    rows = frame.join(meaning, on="series", how="left", maintain_order="left").with_columns(
        pl.when(pl.col("quality") != "").then("quality").otherwise("default_quality").alias("quality"),
        start.alias("start_s"),
        duration.alias("duration_s"),
        pl.col("value").cast(pl.Float64, strict=False).alias("number"),
    )
    rows = rows.with_columns(_marks(rows["quality"], options).alias("mark"))
    shortest = pl.when(pl.col("kind") == ENERGY).then(1).otherwise(0)
    timed = pl.col("start_s").is_not_null() & pl.col("duration_s").is_between(shortest, _LONGEST_S)
    plausible = pl.col("start_s").is_between(_EARLIEST_S, _LATEST_S)
    shown = filled("start '{}', duration '{}'", pl.col("start").fill_null(""), pl.col("duration").fill_null(""))
    below = (pl.col("number") < 0) & (pl.col("kind") != VALUE) & pl.col("negative").is_null()
    why = (
        pl.when(pl.col("reason").is_not_null())
        .then(pl.struct(reason="reason", detail="detail"))
        .when(~timed.fill_null(False))
        .then(pl.struct(reason=pl.lit("bad_time"), detail=filled("{}: not epoch seconds and a length", shown)))
        .when(~plausible)
        .then(pl.struct(reason=pl.lit("implausible_time"), detail=filled("{}: not in the years 2000 to 2100", shown)))
        .when(pl.col("mark") == "reject")
        .then(pl.struct(reason=pl.lit("no_data"), detail=filled("quality {}", "quality")))
        .when(pl.col("value").fill_null("") == "")
        .then(pl.struct(reason=pl.lit("no_data"), detail=pl.lit("the reading has no value")))
        .when(~pl.col("number").is_finite().fill_null(False))
        .then(pl.struct(reason=pl.lit("not_a_number"), detail=filled("'{}'", "value")))
        .when(below)
        .then(pl.struct(reason=pl.lit("negative_energy"), detail=filled("{} is {}", "field", "value")))
    )
    rows = rows.with_columns(why.alias("why"))
    bad = rows.filter(pl.col("why").is_not_null()).with_columns(pl.col("why").struct.field("reason").alias("reason"))
    rejects = bad.select(
        "line", "reason", pl.col("why").struct.field("detail").alias("detail"), pl.lit(None, pl.String).alias("text")
    )
    values = _channels(rows.filter(pl.col("why").is_null()))
    whole, beside = _of_all_phases(values)
    said = "the feed gives this of all phases together, too: that counts"
    return _of_all_parts(whole), [rejects, reject(beside.unique("line"), "other_series", pl.lit(said))]


_CHANNELS = pl.Schema([*VALUES.items(), ("part", pl.String())])


def _channels(rows: pl.DataFrame) -> pl.DataFrame:
    """VALUES and `part`; a net value becomes both directions' energies."""
    scaled = (pl.col("number") * pl.col("sign") * pl.col("multiplier") / pl.col("divisor")).round(9)
    end = (pl.col("start_s") + pl.col("duration_s")) * 1_000_000
    net = pl.col("negative").is_not_null()
    common = (
        "line",
        "meter_id",
        "kind",
        "stream",
        "part",
        pl.lit(0).alias("day"),
        end.cast(TIMESTAMP).alias("ts"),
        "duration_s",
        (pl.col("mark") == "estimated").alias("estimated"),
    )
    forth = rows.select(
        *common, "field", pl.when(net).then(scaled.clip(lower_bound=0)).otherwise(scaled).alias("value")
    )
    back = rows.filter(net).select(
        *common, pl.col("negative").alias("field"), (-scaled).clip(lower_bound=0).alias("value")
    )
    return pl.concat([forth, back.select(forth.columns)]).select(*VALUES.names(), "part").cast(_CHANNELS)


def _of_all_phases(values: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Values, and those of single phases where the meter has the same of all phases together."""
    beside = (pl.col("stream") != "") & (pl.col("stream") == "").any().over("meter_id", "field")
    return values.filter(~beside), values.filter(beside)


def _of_all_parts(values: pl.DataFrame) -> pl.DataFrame:
    """The sum over rates and tiers, each of which counts its own energy."""
    parts = pl.col("part").n_unique().over("meter_id", "field", "stream")
    several = values.filter((parts > 1) & (pl.col("kind") != VALUE))
    single = values.filter((parts == 1) | (pl.col("kind") == VALUE))
    key = ("meter_id", "field", "kind", "stream", "day", "ts", "duration_s")
    last = several.sort("line", maintain_order=True).unique((*key, "part"), keep="last", maintain_order=True)
    summed = last.group_by(key, maintain_order=True).agg(
        pl.col("line").max(), pl.col("value").sum().round(9), pl.col("estimated").any()
    )
    return pl.concat([single.select(VALUES.names()), summed.select(VALUES.names())])
