"""Cells of someone's table to readings, by a mapping: every row becomes a reading or a reject that says why.

Here: `replay` (cells to readings), numbers, quality marks, registers. Not here: the mapping's own checks (`mapping`),
which cells a table has (`layout`), times (`timestamps`), reading and writing files.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from metering.tables.lake import ESTIMATED, MEASURED
from metering.tabular.energies import POWER_OF, chains, mean_power, register
from metering.tabular.layout import Cells, cell_name, from_frame, from_text, matches
from metering.tabular.shape import Channel, Mapping
from metering.tabular.timestamps import interval_ends
from metering.text import filled

__all__ = ["REASONS", "REJECTS", "Cells", "Replayed", "from_frame", "from_text", "replay"]

REJECTS = pl.Schema({"line": pl.Int64(), "reason": pl.String(), "detail": pl.String(), "text": pl.String()})
REASONS = {
    "too_few_cells": "the row has fewer cells than the header: cut off",
    "too_many_cells": "the row has more cells than the header",
    "broken_quoting": "a quotation mark is not closed, or stands in the middle of a cell",
    "missing_meter": "the meter's cell is empty, unreadable, or longer than 64",
    "bad_time": "the stamp does not fit timestamp.format",
    "absent_local_time": "the stamp names a local time that clocks skipped",
    "implausible_time": "the time is before 2000 or after 2099, as no meter can mean",
    "bad_quality": "the row's mark is one that quality.reject names, or one that [quality] does not know",
    "no_channel": "no channel's `when` takes the row, or two of one field do",
    "not_a_number": "a mapped cell is neither a finite number nor one of null_values",
    "negative_energy": "an interval energy is below 0: map a net column twice, with part = 'positive' to the import "
    "register and with part = 'negative' to the export register",
    "no_value": "every mapped cell is one of null_values",
    "bad_record": "a record that its format does not have, or not there",
    "no_data": "the file has no value there, or marks it as none",
    "no_quality": "no quality is given for values of which the file says that it varies",
    "other_quantity": "what is measured is no field of a reading, or is left out",
    "other_series": "the same stands in the file another way, which counts; or parts of a sum are missing",
    "unlinked": "the feed does not say whose readings these are, or what they measure",
    "cut_off": "the file has no end",
}
"""Why a row is rejected, in the order in which reasons are looked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """Result of `replay`.

    `readings`: meter_id, ts (UTC, interval end) and the mapped fields, in order of time; rows of equal time in file
    order; of interval energies also the power that is their mean, where none is mapped, and the chain that registers
    belong to (`energies.chain_numbers`). `rejects`: schema REJECTS, in order of lines. `gaps` counts silences between
    intervals, `missing` the readings that would fill them, `doubled` rows whose meter and ts stand in a later row.

    Every row is accounted for: `rows` = readings + rejects + `left_out` (by the mapping's [[rows]]) + `joined` (into
    the reading of another row) + `absent` (empty values of times that their day does not have). `before_header` lines
    are none of them. `unsure` counts rows in doubled local hours that fall on others of their meter: the file's order
    does not tell which of the two hours they mean. `other_step_s` is a longer distance than the interval at which rows
    follow one another again and again (0: none does): their intervals may be that long.
    """

    readings: pl.DataFrame
    rejects: pl.DataFrame
    rows: int
    corrected: int
    gaps: int
    missing: int
    doubled: int
    left_out: int = 0
    joined: int = 0
    absent: int = 0
    before_header: int = 0
    unsure: int = 0
    other_step_s: int = 0


def replay(cells: Cells, mapping: Mapping) -> Replayed:
    """Readings and rejects of a table. Nothing is lost: each row is in one of the two, or counted.

    Raises MappingError when the mapping does not fit the table's stamps.
    """
    sound = cells.frame.filter(pl.col("reason").is_null())
    rows = interval_ends(_with_meter(sound, mapping), mapping, cells.workbook)
    judged = _judged(_with_values(rows, mapping), mapping)
    absent = judged.filter("absent", "empty").height
    judged = judged.filter(~(pl.col("absent") & pl.col("empty")))
    good = judged.filter(pl.col("reason").is_null()).sort("ts", "line")
    broken = [frame.select(REJECTS.names()) for frame in (cells.frame, judged)]
    rejects = pl.concat([frame.filter(pl.col("reason").is_not_null()) for frame in broken]).match_to_schema(REJECTS)
    gaps, missing, other_step_s = _gaps(good)
    whole = _joined(good, mapping) if mapping.joined else good
    return Replayed(
        readings=_readings(whole, mapping),
        rejects=rejects.sort("line", maintain_order=True),
        rows=cells.frame.height + cells.left_out,
        corrected=int(good["corrected"].sum()),
        gaps=gaps,
        missing=missing,
        doubled=_doubled(good, mapping),
        left_out=cells.left_out,
        joined=good.height - whole.height,
        absent=absent,
        before_header=cells.before_header,
        unsure=_unsure(good, mapping),
        other_step_s=other_step_s,
    )


def _with_meter(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    if mapping.meter_column is None:
        return rows.with_columns(pl.lit(mapping.meter_id, pl.String).alias("meter_id"))
    cell = pl.col(cell_name(mapping.meter_column))
    if rows.schema[cell_name(mapping.meter_column)].is_float():
        cell = pl.when(cell == cell.floor()).then(cell.cast(pl.Int64, strict=False))
    meter = cell.cast(pl.String).str.strip_chars()
    usable = meter.str.len_chars().is_between(1, 64) & ~meter.is_in(mapping.null_values) & ~meter.str.contains("\ufffd")
    return rows.with_columns(pl.when(usable).then(meter).alias("meter_id"))


def _with_values(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """Rows with each field's value; `taken`: how many channels of one field take the row; `unread`: why one of its
    cells cannot be used; `empty`: none of the fields has a value."""
    names = dict.fromkeys(name for channel in mapping.channels for name, _ in channel.weights)
    read = {name: _numbers(rows[cell_name(name)], mapping) for name in names}
    rows = rows.with_columns(
        *(number.alias(f"number:{name}") for name, (number, _) in read.items()),
        *(bad.alias(f"bad:{name}") for name, (_, bad) in read.items()),
    )
    fields: dict[str, list[pl.Expr]] = {}
    wrong: list[pl.Expr] = []
    taken: dict[str, list[pl.Expr]] = {}
    for channel in mapping.channels:
        wanted = pl.all_horizontal(
            pl.lit(True), *(matches(pl.col(cell_name(name)), marks) for name, marks in channel.when)
        )
        value = _status(channel, rows.schema) if channel.field == "status" else _sum(channel)
        cells = [pl.col(cell_name(name)).cast(pl.String) for name, _ in channel.weights]
        bad = [
            pl.when(pl.col(f"bad:{name}")).then(filled("{} is '{}'", pl.lit(name), cell))
            for (name, _), cell in zip(channel.weights, cells, strict=True)
        ]
        known = pl.all_horizontal(pl.col(f"number:{name}").is_not_null() for name, _ in channel.weights)
        lost = known & ~value.is_finite().fill_null(False) if channel.field != "status" else known & value.is_null()
        beyond = filled("{} of {} is no number that can be kept", pl.lit(channel.field), cells[0])
        wrong.append(pl.when(wanted).then(pl.coalesce(*bad, pl.when(lost).then(beyond))))
        taken.setdefault(channel.field, []).append(wanted.cast(pl.Int32))
        fields.setdefault(channel.field, []).append(pl.when(wanted & ~lost).then(value))
    return rows.with_columns(
        pl.coalesce(wrong).alias("unread"),
        pl.max_horizontal(pl.sum_horizontal(times) for times in taken.values()).alias("taken"),
        *(pl.coalesce(values).alias(field) for field, values in fields.items()),
    ).with_columns(pl.all_horizontal(pl.col(list(fields)).is_null()).alias("empty"))


def _numbers(cell: pl.Series, mapping: Mapping) -> tuple[pl.Series, pl.Series]:
    """A column's cells as Float64, null where they are no numbers, and which of them are neither numbers nor nulls."""
    text = cell.cast(pl.String, strict=False)
    stripped = text.str.strip_chars() if cell.dtype == pl.String else text
    null = cell.is_null() | stripped.is_in(mapping.null_values).fill_null(False)
    if cell.dtype == pl.String:
        number = _plain_numbers(stripped, mapping.decimal)
        left = ~null & ~number.is_finite().fill_null(False)
        if left.any():
            # the rare forms cost more than the plain one
            written = _normalised(stripped.zip_with(left, _nothing(stripped)), mapping)
            number = _plain_numbers(written, mapping.decimal).zip_with(left, number)
    else:
        number = cell.cast(pl.Float64, strict=False)
    finite = number.is_finite().fill_null(False)
    numbers = number.zip_with(finite & ~null, pl.repeat(None, cell.len(), dtype=pl.Float64, eager=True))
    return numbers, ~null & ~finite


def _nothing(like: pl.Series) -> pl.Series:
    return pl.repeat(None, like.len(), dtype=pl.String, eager=True)


def _plain_numbers(text: pl.Series, decimal: str) -> pl.Series:
    if decimal == ",":
        # a point is then no decimal sign: better to report it than to guess at thousands
        pointed = text.str.contains(".", literal=True).fill_null(True)
        text = _nothing(text).zip_with(pointed, text.str.replace(",", ".", literal=True))
    return text.cast(pl.Float64, strict=False)


def _normalised(text: pl.Series, mapping: Mapping) -> pl.Series:
    """Numbers without the marks between their thousands, and with their sign in front, as it was or behind (12,5-).

    Marks count only where they part whole groups of figures: three, or two as in India before the last three.
    """
    text = text.str.replace_all("[\u2212\u2013]", "-").str.replace(r"^([^+-].*)-$", "-${1}")
    if not mapping.thousands:
        return text
    same = {" ": " \u00a0\u2007\u2009\u202f", "'": "'\u2019"}
    marks = "".join(pl.escape_regex(char) for mark in mapping.thousands for char in same.get(mark, mark))
    decimal = pl.escape_regex(mapping.decimal)
    grouped = text.str.contains(
        rf"^[+-]?[0-9]{{1,3}}(?:[{marks}][0-9]{{2,3}})*[{marks}][0-9]{{3}}(?:{decimal}[0-9]*)?$"
    )
    return text.str.replace_all(f"[{marks}]", "").zip_with(grouped.fill_null(False), text)


def _sum(channel: Channel) -> pl.Expr:
    """Null when any of the cells is null: part of a sum is not the sum."""
    terms = [pl.col(f"number:{name}") * weight for name, weight in channel.weights]
    net = pl.sum_horizontal(terms, ignore_nulls=False)
    if channel.part == "positive":
        net = net.clip(lower_bound=0.0)
    elif channel.part == "negative":
        # not -0.0
        net = (-net).clip(lower_bound=0.0) + 0.0
    return net / (pl.col("length_s") / 3600) if channel.kind == "mean_power" else net


def _status(channel: Channel, schema: pl.Schema) -> pl.Expr:
    """A whole number of 64 bits, exactly; null where it is none."""
    terms = []
    for name, weight in channel.weights:
        cell = pl.col(cell_name(name))
        if schema[cell_name(name)] == pl.String:
            cell = cell.str.strip_chars()
        number = pl.col(f"number:{name}")
        exact = (
            cell.cast(pl.Int128, strict=False) if not schema[cell_name(name)].is_float() else pl.lit(None, pl.Int128)
        )
        whole = pl.when(number == number.floor()).then(number.cast(pl.Int128, strict=False))
        terms.append(pl.when(number.is_not_null()).then(pl.coalesce(exact, whole)) * int(weight))
    return pl.sum_horizontal(terms, ignore_nulls=False).cast(pl.Int64, strict=False)


def _judged(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    energies = dict.fromkeys(channel.field for channel in mapping.channels if channel.kind == "interval_energy")
    negative = [
        pl.when(pl.col(name) < 0).then(filled("{} of the interval is {}", pl.lit(name), name)) for name in energies
    ]
    below = pl.coalesce(*negative, pl.lit(None, pl.String))
    numbered = [period.column for period in mapping.timestamp.periods]
    shown = [pl.col(cell_name(c)).cast(pl.String, strict=False) for c in (*mapping.timestamp.columns, *numbered)]
    stamp = pl.concat_str(shown, separator=" ")
    mark, usable = _usable(mapping)
    reason = (
        pl.when(pl.col("meter_id").is_null())
        .then(pl.lit("missing_meter"))
        .when(pl.col("time_problem").is_not_null())
        .then(pl.col("time_problem"))
        .when(~usable)
        .then(pl.lit("bad_quality"))
        .when(pl.col("taken") != 1)
        .then(pl.lit("no_channel"))
        .when(pl.col("unread").is_not_null())
        .then(pl.lit("not_a_number"))
        .when(below.is_not_null())
        .then(pl.lit("negative_energy"))
        .when(pl.col("empty"))
        .then(pl.lit("no_value"))
    )
    seen = (
        pl.when(pl.col("time_detail").is_null())
        .then(filled("'{}'", stamp))
        .otherwise(pl.coalesce(filled("'{}': {}", stamp, "time_detail"), "time_detail"))
    )
    detail = (
        pl.when(pl.col("reason").str.ends_with("time"))
        .then(pl.coalesce(seen, pl.col("reason").replace(REASONS)))
        .when(pl.col("reason") == "bad_quality")
        .then(filled("the mark is '{}'", mark.cast(pl.String).fill_null("")))
        .otherwise(pl.coalesce("unread", below, pl.col("reason").replace(REASONS)))
    )
    return rows.with_columns(reason.alias("reason")).with_columns(
        pl.when(pl.col("reason").is_not_null()).then(detail).alias("detail"), *_marked(rows, mapping)
    )


def _usable(mapping: Mapping) -> tuple[pl.Expr, pl.Expr]:
    """A row's quality mark, and whether it can be used by it."""
    quality = mapping.quality
    if quality is None:
        return pl.lit(None, pl.String), pl.lit(True)
    mark = pl.col(cell_name(quality.column))
    known = matches(mark, (*quality.estimated, *(name for name, _ in quality.status)))
    good = pl.lit(True) if quality.good is None else matches(mark, quality.good)
    return mark, ~matches(mark, quality.reject) & (known | good)


def _marked(rows: pl.DataFrame, mapping: Mapping) -> list[pl.Expr]:
    """The field `status`, with what quality marks add to it."""
    quality = mapping.quality
    if quality is None or not (quality.estimated or quality.status):
        return []
    mark = pl.col(cell_name(quality.column))
    status = pl.col("status") if "status" in rows.columns else pl.lit(None, pl.Int64)
    bits = [((name,), bit) for name, bit in quality.status] + [(quality.estimated, ESTIMATED)]
    for names, bit in bits:
        status = pl.when(matches(mark, names)).then(status.fill_null(0) | pl.lit(bit, pl.Int64)).otherwise(status)
    return [status.alias("status")]


def _joined(good: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """One row for each meter and ts: of every field the last value; of `status` all bits. Sorted by ts and line."""
    fields = [*dict.fromkeys(channel.field for channel in mapping.channels)]
    names = [*fields, *(["status"] if "status" in good.columns and "status" not in fields else [])]
    last = [
        (pl.col(name).drop_nulls().unique().bitwise_or() if name == "status" else pl.col(name).drop_nulls().last())
        for name in names
    ]
    return good.group_by("meter_id", "ts", maintain_order=True).agg(pl.col("line", "length_s").last(), *last)


def _doubled(good: pl.DataFrame, mapping: Mapping) -> int:
    """Rows that stand again: with rows of several quantities, those of which every field does."""
    if not mapping.joined:
        return int(good.select(_stands_again().sum()).item())
    fields = dict.fromkeys(channel.field for channel in mapping.channels)
    same = good.select("meter_id", "ts", pl.concat_str(pl.col(name).is_null() for name in fields).alias("fields"))
    return same.height - same.n_unique()


def _unsure(good: pl.DataFrame, mapping: Mapping) -> int:
    inferred = good.filter("inferred")
    same = ["meter_id", "ts", *dict.fromkeys(cell_name(name) for c in mapping.channels for name, _ in c.when)]
    return int(inferred.select(pl.struct(same).is_duplicated().sum()).item()) if inferred.height else 0


def _stands_again() -> pl.Expr:
    """True where a later row has the same meter and ts; rows sorted by ts and line."""
    return pl.int_range(pl.len()).reverse().over("meter_id", "ts") > 0


def _readings(good: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    order = ("meter_id", "ts", *MEASURED, "status")
    energies = [*dict.fromkeys(channel.field for channel in mapping.channels if channel.kind == "interval_energy")]
    summed = good
    if energies:
        counted = good.with_columns(_stands_again().alias("again"))
        powers = [mean_power(power, ways, energies) for power, ways in POWER_OF.items() if power not in good.columns]
        registers = [register(field) for field in energies]
        # a chain goes by what the energies are, so before they are registers
        chained = counted.with_columns(*(power for power in powers if power is not None), chains(counted, energies))
        summed = chained.with_columns(registers)
    return summed.select(name for name in order if name in summed.columns)


def _gaps(good: pl.DataFrame) -> tuple[int, int, int]:
    """Silences between the end of one interval and the start of the next, how many readings would fill them, and the
    distance at which most of them come two or more in a row (0: none do)."""
    times = good.group_by("meter_id", "ts").agg(pl.col("length_s").last()).sort("ts")
    step_s = pl.col("ts").diff().over("meter_id").dt.total_seconds()
    steps = times.select("meter_id", "length_s", step_s.alias("step_s"))
    silence = (pl.col("step_s") - pl.col("length_s")) / pl.col("length_s")
    silent = steps.select(silence.alias("missing")).filter(pl.col("missing") > 0)
    if silent.is_empty():
        return 0, 0, 0
    again = (pl.col("step_s") == pl.col("step_s").shift(1).over("meter_id")) & (pl.col("step_s") > pl.col("length_s"))
    often = steps.filter(again)["step_s"].mode().sort()
    return silent.height, int(silent["missing"].ceil().sum()), 0 if often.is_empty() else int(often[0])
