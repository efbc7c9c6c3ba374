"""Which fields of a reading an unknown table's columns become, and which of its rows count.

Here: `say_rows`, `say_channels`, which write them into a draft. Not here: what a name says (`guess_quantities`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from collections.abc import Sequence

import polars as pl

from metering.errors import MappingError
from metering.tabular.guess_draft import Draft, Question, Table, listed, listed_toml, number_text, quoted
from metering.tabular.guess_quantities import ChannelGuess, Quantity, channels_of, may_be_register, merged, quantity_of
from metering.tabular.guess_stamps import StampGuess
from metering.text import printable

_QUALITY = re.compile(r"qualit|güte|quality|(?<![A-Za-z])status|flag|\bart\b|estimat|method|状态|质量", re.I)
_VALUE = "value"
_GENERIC = re.compile(r"(?i)val(ue|eur|or)?s?|wert|reading|messwert|quantity|menge|#\d+|.*值")
_UNKNOWN = Quantity("active", energy=False, factor=None)


_ANSWERS = {"register": True, "interval": False}
_AGAIN = 0.2
"""Share of rows that repeat another's time, from which on they are of another kind."""


def say_channels(
    table: Table,
    numbers: Dict[str, pl.Series],
    span: tuple[int, int, int] | None,
    columns: Sequence[str],
    draft: Draft,
) -> None:
    spread = table.header[span[0] : span[1]] if span else ()
    values = {column: series for column, series in numbers.items() if column not in spread}
    worded = [c for c in columns if c not in spread and c not in numbers and table.sample.schema[c] == pl.String]
    naming = _naming_column(table.sample, worded)
    if span:
        flat = pl.concat([numbers[c] for c in spread if c in numbers]) if any(c in numbers for c in spread) else None
        values = {_VALUE: flat if flat is not None else pl.Series(_VALUE, [], pl.Float64)}
    channels: list[ChannelGuess] = []
    unknown: list[tuple[str, Quantity, pl.Series]] = []
    rising: list[tuple[str, Quantity, pl.Series]] = []
    for column, series in values.items():
        quantity = quantity_of(column, draft.answers.get(f"unit:{column}", ""))
        generic = bool(span) or len(values) == 1 or _GENERIC.fullmatch(column) is not None
        if naming and generic and (quantity is None or quantity.factor is None):
            channels += _named_by_cells(table.sample, naming, column, series, draft)
        elif quantity is not None and quantity.factor is not None:
            register = _ANSWERS.get(draft.answers.get(f"kind:{column}", ""))
            if quantity.energy and not span and register is None and may_be_register(column, series):
                rising.append((column, quantity, series))
            else:
                channels += channels_of(column, quantity, series, register=register)
        elif quantity is not None or generic:
            unknown.append((column, quantity or _UNKNOWN, series))
    if not channels and not unknown and not rising:
        unknown = [(column, _UNKNOWN, series) for column, series in values.items()][:1]
    if not channels and not unknown and not rising:
        raise MappingError(f"no column holds numbers; the columns are {listed(table.header)}")
    kept, over = merged(channels)
    for channel in kept:
        draft.tables += ["", *_channel_lines(channel)]
    fields = {channel.field for channel in kept}
    for column, quantity, series in rising:
        fields |= {channel.field for channel in _say_rising(column, quantity, series, draft)}
    left = [column for channel in over for column, _ in channel.columns]
    left += _say_unknown(unknown, fields, not kept, draft)
    if left:
        draft.tables += ["", f"# left out, for a field has one channel: {listed(list(dict.fromkeys(left)))}"]
    _say_quality(table.sample, worded, naming, draft)


def _say_unknown(
    unknown: Sequence[tuple[str, Quantity, pl.Series]], fields: set[str], needed: bool, draft: Draft
) -> list[str]:
    """Columns whose unit nothing tells; returns those that are left out, for their `fields` have a channel."""
    left: list[str] = []
    for column, quantity, series in unknown:
        guessed = channels_of(column, quantity, series)
        if fields & {channel.field for channel in guessed}:
            left.append(column)
            continue
        fields |= {channel.field for channel in guessed}
        unit = (
            ("kWh" if quantity.energy else "kW")
            if quantity.kind == "active"
            else "kvarh"
            if quantity.energy
            else "kvar"
        )
        reason = f"nothing says the unit of {printable(column)}: W, kW, MW, Wh, kWh, kvar, kvarh?"
        question = Question(f"unit:{column}", reason, unit, needed=needed)
        draft.tables.append("")
        draft.asked(draft.tables, question, *(line for channel in guessed for line in _channel_lines(channel)))
    return left


def _say_rising(column: str, quantity: Quantity, series: pl.Series, draft: Draft) -> list[ChannelGuess]:
    """Of few rows that rise nobody can tell a register from energies of intervals."""
    assumed = channels_of(column, quantity, series, register=True)
    reason = f"{printable(column)} rises over its few rows: is it a register, or the energy of each interval?"
    question = Question(f"kind:{column}", reason, "register", tuple(_ANSWERS), needed=True)
    draft.tables += ["", '# an energy of each interval has kind = "interval_energy"']
    draft.asked(draft.tables, question, *(line for channel in assumed for line in _channel_lines(channel)))
    return assumed


def say_rows(table: Table, stamp: StampGuess, meter: str | None, columns: Sequence[str], draft: Draft) -> None:
    """Where a meter's times stand several times over: the column that tells such rows apart, unless it names units."""
    named = [table.sample[meter]] if meter else []
    numbered = [table.sample[stamp.period]] if stamp.period else []
    key = pl.DataFrame([column.alias(str(at)) for at, column in enumerate([stamp.walls, *named, *numbered])])
    if _naming_column(table.sample, columns) or key.height - key.n_unique() < _AGAIN * key.height:
        return
    for column in columns:
        cells = [cell for cell in table.sample[column].cast(pl.String).drop_nulls().unique().sort() if cell]
        told = key.with_columns(table.sample[column].alias("apart"))
        if 2 <= len(cells) <= 12 and told.n_unique() > key.n_unique() * (1 + _AGAIN):
            shown = ", ".join(printable(cell, 20) for cell in cells)
            reason = f"times stand several times over; which rows of {printable(column)} count: {shown}?"
            question = Question("rows", reason, cells[0], tuple(cells))
            keep = listed_toml([draft.answers.get("rows", question.assumed)])
            draft.tables.append("")
            draft.asked(draft.tables, question, "[[rows]]", f"column = {quoted(column)}", f"keep = {keep}")
            return


def _naming_column(sample: pl.DataFrame, columns: Sequence[str]) -> str | None:
    """A column most of whose few different cells name units, or quantities in them."""
    for column in columns:
        cells = [cell for cell in sample[column].drop_nulls().unique() if cell]
        known = [quantity for cell in cells if (quantity := quantity_of(cell, cell)) and quantity.factor is not None]
        if 1 <= len(cells) <= 12 and len(known) * 2 >= len(cells):
            return column
    return None


def _named_by_cells(
    sample: pl.DataFrame, naming: str, column: str, series: pl.Series, draft: Draft
) -> list[ChannelGuess]:
    """A column's channels by what another column's cell says of the row."""
    cells = sorted(cell for cell in sample[naming].drop_nulls().unique() if cell)
    channels = []
    for cell in cells:
        quantity = quantity_of(f"{column} {cell}", draft.answers.get(f"unit:{column}", cell))
        if quantity is not None:
            rows = series.filter(sample[naming] == cell) if len(series) == sample.height else series
            when = ((naming, cell),) if len(cells) > 1 else ()
            channels += channels_of(column, quantity, rows, when)
    return channels


def _channel_lines(channel: ChannelGuess) -> list[str]:
    columns = ", ".join(f"{quoted(column)} = {number_text(factor)}" for column, factor in channel.columns)
    lines = ["[[channel]]" + (f"  # {channel.why}" if channel.why else ""), f"field = {quoted(channel.field)}"]
    lines.append(f"columns = {{ {columns} }}" + ("" if channel.sure else "  # is the factor right?"))
    if channel.kind != "value":
        lines.append(f"kind = {quoted(channel.kind)}")
    if channel.part != "net":
        lines.append(f"part = {quoted(channel.part)}")
    if channel.when:
        lines.append("when = { " + ", ".join(f"{quoted(c)} = {quoted(cell)}" for c, cell in channel.when) + " }")
    return lines


def _say_quality(sample: pl.DataFrame, columns: Sequence[str], naming: str | None, draft: Draft) -> None:
    """Marks that may be of quality, for the reader to say."""
    for column in columns:
        marks = sorted(cell for cell in sample[column].drop_nulls().unique() if cell)
        if column != naming and _QUALITY.search(column) and 1 <= len(marks) <= 12:
            shown = listed_toml([printable(mark) for mark in marks])
            draft.tables += [
                "",
                "# [quality]  # if these marks say how good a value is",
                f"# column = {quoted(column)}",
            ]
            draft.tables += [f"# good = {shown}", "# estimated = []"]
            return
