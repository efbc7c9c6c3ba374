"""The shape of a mapping: what `kilowatch replay` has to know of someone's table, checked and with its defaults.

Here: the types. Not here: reading them from a file (`mapping`), applying them (`layout`, `stamps`, `convert`).
"""

from __future__ import annotations

from dataclasses import dataclass

from metering.tabular.field_options import NO_OPTIONS, FieldOptions

TABLE_FORMATS = ("csv", "parquet")
FIELD_FORMATS: tuple[str, ...] = ("nem12", "nem13", "espi")
"""Formats that say themselves what a table's mapping has to: `interval`, `meter_id`, [timestamp], [[channel]] are then
optional (`formats.READERS` reads them)."""
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1, "epoch_ns": 0.001}
"""Values of `timestamp.format` for time since 1970 in UTC, and their microseconds."""
SERIALS = {"excel": (1899, 12, 30), "excel_1904": (1904, 1, 1)}
"""Values of `timestamp.format` for days as spreadsheets count them, and the date of day 0."""
NUMERIC_FORMATS = (*EPOCHS, "epoch", *SERIALS)
"""Values of `timestamp.format` that are no strftime format. With `epoch` each number tells its unit by its size."""
LABELS = ("end", "start", "wall_end")
KINDS = ("value", "interval_energy", "mean_power")
PARTS = ("net", "positive", "negative")
CLOCKS = ("elapsed", "wall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Where the column names stand: on `line` (from 1), or where the first line has all cells of `contains`, else on
    the first line with text. `lines` is how many lines a name is spread over; 0: there are none."""

    line: int | None = None
    contains: tuple[str, ...] = ()
    lines: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRule:
    """Rows that are left out by a column's cell: those in `drop`, and with `keep` (None: all) those not in it."""

    column: str
    keep: tuple[str, ...] | None
    drop: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wide:
    """One row a day (or other span from a local midnight): a value for each interval, in columns `first` to `last`
    (None: to the row's end), read as one column named `value`."""

    first: str
    last: str | None
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A column that numbers the intervals of a day from `first` on, each `length_s` seconds long."""

    column: str
    first: int
    length_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Rows whose cell in `column` is one of `values`."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How long a row's interval is: the one of `seconds`; of several, the one that the distance to the neighbouring row
    says; or what `column` says, as a text such as 15m or a number of `unit_s` seconds. With `timestamp.end` the stamps
    say it, and it must be among `seconds` where there are some."""

    seconds: tuple[int, ...] = ()
    column: str | None = None
    unit_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """How times are written. `format` is a strftime format, one of NUMERIC_FORMATS, or None: ISO 8601.

    `label` names the end of its interval that a stamp names; `end` the columns of the other end, where both are given.
    With `periods` the stamp is a day, and numbers name the interval in it: by the time `elapsed` since midnight, or by
    the `wall` clock (None: only days of 24 hours can be read). The first ends `first_ends_s` after midnight (None: one
    interval). With `order` "file" rows are one interval apart in file order. Doubled local hours: `second_pass` where
    it is given, else `ambiguous` decides.
    """

    columns: tuple[str, ...] = ()
    format: str | None = None
    label: str = "end"
    end: tuple[str, ...] = ()
    periods: tuple[Period, ...] = ()
    first_ends_s: int | None = None
    clock: str | None = None
    order: str = "column"
    ambiguous: str = "infer"
    second_pass: Marker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One field of a reading: the weighted sum of columns, of which `part` may take what is above or below 0 (without
    sign). `kind` "interval_energy" is summed into the register; "mean_power" is an energy divided by its interval's
    hours. `when` limits it to rows whose cells are among those values; rows of one meter and time are then one reading.
    """

    field: str
    weights: tuple[tuple[str, float], ...]
    kind: str
    part: str = "net"
    when: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the marks of `column` mean: fit for use (`good`; None: all others), `estimated`, not to be read (`reject`),
    or a number for the field `status`."""

    column: str
    good: tuple[str, ...] | None
    estimated: tuple[str, ...]
    reject: tuple[str, ...]
    status: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A mapping that can be used. Either `meter_id` or `meter_column` is set (neither, and no interval, only with
    FIELD_FORMATS)."""

    format: str
    member: str | None
    sheet: str | None
    delimiter: str
    decimal: str
    thousands: tuple[str, ...]
    encoding: str
    null_values: tuple[str, ...]
    timezone: str
    interval: Interval
    meter_id: str | None
    meter_column: str | None
    header: Header
    rows: tuple[RowRule, ...]
    wide: Wide | None
    quality: Quality | None
    timestamp: Stamp
    channels: tuple[Channel, ...]
    options: FieldOptions = NO_OPTIONS

    @property
    def joined(self) -> bool:
        """Whether rows of one meter and time, each with a quantity of its own, are one reading."""
        return any(channel.when for channel in self.channels)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, each with the key that names it first."""
        stamp = self.timestamp
        named = dict.fromkeys(stamp.columns, "timestamp.column")
        for column in stamp.end:
            named.setdefault(column, "timestamp.end")
        for period in stamp.periods:
            named.setdefault(period.column, "timestamp.period")
        if stamp.second_pass is not None:
            named.setdefault(stamp.second_pass.column, "timestamp.second_pass.column")
        if self.interval.column is not None:
            named.setdefault(self.interval.column, "interval.column")
        if self.meter_column is not None:
            named.setdefault(self.meter_column, "meter_id.column")
        for channel in self.channels:
            values = () if self.wide else (name for name, _ in channel.weights)
            for column in (*values, *(name for name, _ in channel.when)):
                named.setdefault(column, f"channel '{channel.field}' columns")
        for rule in self.rows:
            named.setdefault(rule.column, "rows.column")
        if self.quality is not None:
            named.setdefault(self.quality.column, "quality.column")
        return named
