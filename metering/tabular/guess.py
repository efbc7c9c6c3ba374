"""A first mapping for an unknown file: what can be seen of it, and what only its owner can know.

Here: `guess_text`, `guess_records`, `guess_frame`, which look at the first rows and write a mapping with comments. Not
here: layout (`guess_layout`), times (`guess_stamps`), quantities (`guess_channels`), opening files, asking anybody.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from itertools import groupby

import polars as pl

from metering.errors import MappingError
from metering.tabular import espi, nem12
from metering.tabular.delimited import all_records
from metering.tabular.encodings import encoding_of
from metering.tabular.formats import recognised, unreadable
from metering.tabular.guess_channels import say_channels, say_rows
from metering.tabular.guess_draft import Draft, Guess, Question, Table, listed, listed_toml, quoted
from metering.tabular.guess_layout import (
    CUSTOMER,
    LENGTHS,
    METER,
    NUMBER,
    clock_run,
    delimiter_of,
    is_data,
    meter_above,
    names_of,
)
from metering.tabular.guess_stamps import StampGuess, find_stamp

_SAMPLE_ROWS = 2000
_SAMPLE_CHARS = 4_000_000
_DAY_S = 86_400
_RUN = 3
"""So many rows on end that are as far apart are no gaps."""
_THOUSANDS = {
    ".": re.compile(r"[-+]?\d{1,3}(\.\d{3})+,\d+|[-+]?\d{1,3}(\.\d{3}){2,}"),
    ",": re.compile(r"[-+]?\d{1,3}(,\d{3})+\.\d+|[-+]?\d{1,3}(,\d{3}){2,}"),
    **{mark: re.compile(rf"[-+]?\d{{1,3}}({mark}\d{{3}})+([.,]\d+)?") for mark in (" ", "'", "\u00a0", "\u202f")},
}
_NULLS = frozenset(
    {"?", "-", "--", "---", "n/a", "na", "nan", "null", "none", "nil", "#n/a", "#div/0!", "\\n", ".", "x", "*"}
)


def guess_text(content: bytes, name: str, zone: str, answers: Dict[str, str]) -> Guess:
    """A mapping for a text: delimited cells, or a format of the field.

    `name` is the file's; `zone` the settings' time zone; `answers` what is known of earlier questions, by their keys.
    Raises MappingError, in one line that says what it is, for a text that no mapping can read.
    """
    encoding = encoding_of(content)
    text = content[: _SAMPLE_CHARS * 2].decode(encoding, errors="replace").removeprefix("\ufeff")
    if told := unreadable(content):
        raise MappingError(f"it is {told}")
    if seen := recognised(content):
        return _of_the_field(seen[0], content, name, Draft(answers, zone))
    if not text.strip():
        raise MappingError("the file is empty")
    draft = Draft(answers, zone, top=['format = "csv"'])
    sep = re.match(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n|$)', text, re.I)
    body = text[sep.end() :] if sep else text
    delimiter = sep[1] if sep else delimiter_of(body)
    draft.top.append(f"delimiter = {quoted(delimiter)}")
    if encoding != "utf-8-sig":
        sure = "by its byte order mark" if encoding == "utf-16" else "a guess: look at names and signs"
        draft.top.append(f"encoding = {quoted(encoding)}  # {sure}")
    lines_before = text[: sep.end()].count("\n") if sep else 0
    records = all_records(body, delimiter).with_columns(pl.col("line") + lines_before)
    return _of_records(records, name, draft)


def guess_records(records: pl.DataFrame, name: str, zone: str, answers: Dict[str, str]) -> Guess:
    """A mapping for a table of a workbook, from its records (`delimited.RECORDS`)."""
    return _of_records(records, name, Draft(answers, zone, top=['format = "csv"  # a workbook is told by its content']))


def guess_frame(frame: pl.DataFrame, name: str, zone: str, answers: Dict[str, str]) -> Guess:
    """A mapping for a typed table, such as a Parquet file's."""
    draft = Draft(answers, zone, top=['format = "parquet"'])
    return _of_table(Table(frame.head(_SAMPLE_ROWS), frame.tail(5), tuple(frame.columns)), name, draft)


def _of_the_field(format: str, content: bytes, name: str, draft: Draft) -> Guess:
    """Formats that say everything: only the meters' names are the utility's, not ours."""
    draft.top.append(f'format = "{format}"')
    own = nem12.meters_in(content) if format == "nem12" else espi.meters_in(content)
    shown = own[:20]
    what = "NMI" if format == "nem12" else "usage point"
    draft.top.append(f"# Each {what} is a meter of its own name; [meters] gives it the registry's:")
    draft.tables += ["# [meters]", *(f"# {quoted(each)} = {quoted(each)}" for each in shown)]
    if len(own) > len(shown):
        draft.tables.append(f"# and {len(own) - len(shown):,} more")
    return draft.guess(name)


# --- cells -----------------------------------------------------------------------------------------------------------


def _of_records(records: pl.DataFrame, name: str, draft: Draft) -> Guess:
    """The header is the last row above the first with numbers that is as wide as most rows, and names columns."""
    rows = [[cell.strip() for cell in cells] for cells in records["cells"].head(_SAMPLE_ROWS + 60).to_list()]
    if not rows:
        raise MappingError("the file has no rows")
    width, _ = max(Counter(map(len, rows)).items(), key=lambda item: (item[1], item[0]))
    wide_enough = [index for index, row in enumerate(rows) if len(row) >= width and not any(row[width:])]
    first_data = next((index for index in wide_enough if is_data(rows[index])), len(rows))
    above = [index for index in wide_enough if index < first_data and sum(map(bool, rows[index])) > 1]
    at = above[-1] if above else None
    if at is None and first_data == len(rows):
        raise MappingError("the file has no row of numbers below a header, so there is nothing to map")
    header = tuple(rows[at]) if at is not None else ("",) * width
    if at is None:
        draft.tables += ["", "[header]", "lines = 0  # no line names the columns: #1 is the first"]
    elif at > 0:
        draft.tables += ["", "[header]", f"line = {records['line'][at]}  # the lines above it are left out"]
    draft.meter = meter_above(rows[: at or 0])
    data = [row for row in rows[(first_data if at is None else at + 1) :] if len(row) >= width]
    if not data:
        raise MappingError("the file has a header, but no rows below it")
    names = names_of(header[:width])
    ends = [row for row in records["cells"].tail(50).to_list() if len(row) >= width]
    last = [[cell.strip() for cell in row[:width]] for row in ends]
    schema = dict.fromkeys(names, pl.String)
    sample = pl.DataFrame([row[:width] for row in data[:_SAMPLE_ROWS]], schema=schema, orient="row")
    return _of_table(Table(sample, pl.DataFrame(last, schema=schema, orient="row"), names), name, draft)


# --- the table -------------------------------------------------------------------------------------------------------


def _of_table(table: Table, name: str, draft: Draft) -> Guess:
    span = clock_run(table.header)
    stamped = table.sample.drop(table.header[span[0] : span[1]]) if span else table.sample
    stamp = find_stamp(stamped)
    if stamp is None:
        raise MappingError(f"no column looks like a time; the columns are {listed(table.header)}")
    taken = {*stamp.columns, stamp.end, stamp.period}
    decimal = _decimals(table, [column for column in table.header if column not in taken], draft)
    numbers = {
        column: values
        for column in table.header
        if column not in taken and (values := _numbers(table.sample[column], *decimal)) is not None
    }
    meter = _meter_column(table.sample, [c for c in table.header if c not in taken], numbers)
    numbers.pop(meter or "", None)
    _say_meter(meter, draft)
    seconds = _say_interval(table, stamp, span, meter, draft)
    _say_zone(stamp, draft)
    if span:
        draft.tables += ["", "[wide]  # a row is a day, and each of these columns an interval of it"]
        draft.tables += [f"first = {quoted(table.header[span[0]])}", f"last = {quoted(table.header[span[1] - 1])}"]
    _say_stamp(table, stamp, seconds, numbered=bool(span), draft=draft)
    say_rows(
        table, stamp, meter, [c for c in table.header if c not in taken and c != meter and c not in numbers], draft
    )
    say_channels(table, numbers, span, [c for c in table.header if c not in taken and c != meter], draft)
    return draft.guess(name)


def _decimals(table: Table, columns: Sequence[str], draft: Draft) -> tuple[str, tuple[str, ...]]:
    """The decimal sign and thousands marks of the texts, which are noted where they are not the usual ones."""
    texts = [c for c in columns if table.sample.schema[c] == pl.String]
    cells = [cell for column in texts for cell in table.sample[column].head(400) if cell and NUMBER.fullmatch(cell)]
    marks = tuple(mark for mark, form in _THOUSANDS.items() if any(form.fullmatch(cell) for cell in cells))
    points = sum("." in cell for cell in cells) if "." not in marks else 0
    commas = sum("," in cell for cell in cells) if "," not in marks else 0
    decimal = "," if commas > points else "."
    thousands = tuple(mark for mark in marks if mark != decimal)
    if decimal != ".":
        draft.top.append('decimal = ","')
    if thousands:
        draft.top.append(f"thousands = {listed_toml(thousands)}")
    numeric = [c for c in texts if _numbers(table.sample[c], decimal, thousands) is not None]
    words = {cell for column in numeric for cell in table.sample[column] if cell and cell.lower() in _NULLS}
    if words:
        draft.top.append(f"null_values = {listed_toml(('', *sorted(words)))}")
    return decimal, thousands


def _numbers(cells: pl.Series, decimal: str, thousands: Sequence[str]) -> pl.Series | None:
    """A column as numbers, where nearly all of its cells are; None: it is something else."""
    if cells.dtype.is_numeric():
        return cells.cast(pl.Float64, strict=False)
    if cells.dtype != pl.String:
        return None
    known = [cell for cell in cells if cell and cell.lower() not in _NULLS]
    plain = cells
    for mark in thousands:
        plain = plain.str.replace_all(mark, "", literal=True)
    if decimal == ",":
        plain = plain.str.replace(",", ".", literal=True)
    values = plain.str.strip_chars().cast(pl.Float64, strict=False)
    values = values.set(~values.is_finite().fill_null(False), None)
    return values if known and values.count() >= 0.8 * len(known) else None


def _meter_column(sample: pl.DataFrame, columns: Sequence[str], numbers: Dict[str, pl.Series]) -> str | None:
    """The column whose name, and few whole or worded cells, say that it names meters."""
    for pattern in (METER, CUSTOMER):
        for column in columns:
            cells = sample[column].cast(pl.String).drop_nulls()
            fractions = column in numbers and bool((numbers[column].drop_nulls() % 1 != 0).any())
            few = cells.n_unique() <= max(1, len(cells) // 3) or len(cells) <= 3
            if pattern.search(column) and not fractions and few and (cells != "").all() and len(cells):
                return column
    return None


def _say_meter(column: str | None, draft: Draft) -> None:
    if column is not None:
        draft.top.append(f"meter_id = {{ column = {quoted(column)} }}")
        return
    reason = "no column names the meter: whose readings are these?"
    if draft.meter:
        reason = "so it says above the header: is it the meter?"
    question = Question("meter_id", reason, draft.meter or "METER-1", needed=True)
    draft.asked(draft.top, question, f"meter_id = {quoted(draft.answers.get('meter_id', question.assumed))}")


def _say_zone(stamp: StampGuess, draft: Draft) -> None:
    if stamp.with_offset:
        return
    reason = "the stamps carry no offset: of which zone are they? Without this line the settings' zone holds"
    question = Question("timezone", reason, draft.zone)
    draft.asked(draft.top, question, f"timezone = {quoted(draft.answers.get('timezone', question.assumed))}")


def _say_interval(
    table: Table, stamp: StampGuess, span: tuple[int, int, int] | None, meter: str | None, draft: Draft
) -> int:
    """The usual time between readings in seconds, 0 where it cannot be told; noted as it is found."""
    if span:
        seconds = [span[2]]
    elif stamp.period:
        length = next((n for n in LENGTHS if n >= stamp.period_last - (1 if stamp.period_first else 0) - n // 24), 24)
        seconds = [_DAY_S // length]
    else:
        frame = pl.DataFrame({"meter": table.sample[meter].cast(pl.String) if meter else "", "wall": stamp.walls})
        steps = frame.drop_nulls().select(pl.col("wall").diff().over("meter").dt.total_seconds()).to_series()
        seconds = _usual_steps([int(step) for step in steps.drop_nulls()])
    if not seconds:
        reason = "too few stamps to tell the time between readings"
        question = Question("interval", reason, "15m", needed=True)
        draft.asked(draft.top, question, f"interval = {quoted(draft.answers.get('interval', question.assumed))}")
        return 0
    texts = [_interval_text(one) for one in seconds]
    if len(texts) == 1 and not stamp.end:
        draft.top.append(f"interval = {quoted(texts[0])}")
    elif not stamp.end:
        draft.top.append(f"interval = {listed_toml(texts)}  # the distance to the next row says which")
    return seconds[0]


def _usual_steps(steps: Sequence[int]) -> list[int]:
    """The commonest step forward that divides a day, and others that hold for several rows on end; gaps do not."""
    forward = [step for step in steps if step > 0 and _DAY_S % step == 0]
    if not forward:
        return []
    usual = Counter(forward).most_common(1)[0][0]
    runs = [(step, len(list(run))) for step, run in groupby(steps)]
    others = {step for step, length in runs if length >= _RUN and step > 0 and _DAY_S % step == 0}
    return sorted({usual, *others})[:3]


def _interval_text(seconds: int) -> str:
    if seconds % 3600 == 0:
        return f"{seconds // 3600}h"
    return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"


def _say_stamp(table: Table, stamp: StampGuess, seconds: int, *, numbered: bool, draft: Draft) -> None:
    lines = ["", "[timestamp]"]
    lines.append(f"column = {listed_toml(stamp.columns) if len(stamp.columns) > 1 else quoted(stamp.columns[0])}")
    if stamp.other_format is not None and stamp.format is not None:
        reason = "day first or month first: the rows fit both"
        question = Question("date_order", reason, _order_of(stamp.format), ("day first", "month first"))
        answer = draft.ask(question)
        chosen = stamp.other_format if answer == _order_of(stamp.other_format) else stamp.format
        lines.append(f"format = {quoted(chosen)}")
        if answer is None:
            lines.append(f"# ? format = {quoted(stamp.other_format)}  # in place of the line above, if so: {reason}")
    elif stamp.format is not None:
        lines.append(f"format = {quoted(stamp.format)}")
    if stamp.end is not None:
        lines.append(f"end = {quoted(stamp.end)}")
    elif stamp.period is not None:
        lines.append(f"period = {{ column = {quoted(stamp.period)}, first = {stamp.period_first} }}")
    elif not numbered and _printed_on_the_same_date(stamp.walls, seconds):
        lines.append('label = "end"')
        lines.append('order = "file"  # midnight is printed with the date of the day that it ends')
    elif not numbered:
        _say_label(table, stamp, seconds, lines, draft)
    draft.tables += lines


def _order_of(format: str) -> str:
    return "day first" if format.index("%d") < format.index("%m") else "month first"


def _say_label(table: Table, stamp: StampGuess, seconds: int, lines: list[str], draft: Draft) -> None:
    """Which end of its interval a stamp names: by its column's name, or by where the file's days begin and end."""
    if stamp.label:
        lines.append(f"label = {quoted(stamp.label)}  # by the column's name")
        return
    walls = stamp.walls.drop_nulls()
    last = find_stamp(table.last.select(stamp.columns)) if table.last.height else None
    ends = walls if last is None else last.walls.drop_nulls()
    if seconds and len(walls) and len(ends) and not stamp.with_offset:
        forth = walls[0] <= walls[-1]
        low, high = (_seconds_of(wall) for wall in ((walls[0], ends[-1]) if forth else (ends[-1], walls[0])))
        if low == 0 and high == _DAY_S - seconds:
            lines.append(f'label = "start"  # the rows run from 00:00 to {_clock(high)}')
            return
        if low == seconds and high == 0:
            lines.append(f'label = "end"  # the rows run from {_clock(low)} to 24:00')
            return
    reason = "which end of its interval does a stamp name, the end or the start?"
    question = Question("label", reason, "end", ("end", "start"))
    draft.asked(lines, question, f"label = {quoted(draft.answers.get('label', question.assumed))}")


def _seconds_of(wall: object) -> int:
    """Seconds since midnight."""
    return int(getattr(wall, "hour", 0)) * 3600 + int(getattr(wall, "minute", 0)) * 60 + int(getattr(wall, "second", 0))


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}"


def _printed_on_the_same_date(walls: pl.Series, seconds: int) -> bool:
    """Whether days end with a midnight that has their own date."""
    steps = walls.drop_nulls().diff().dt.total_seconds()
    back = (steps == seconds - _DAY_S) & (walls.drop_nulls().dt.hour() == 0)
    return bool(seconds) and bool(back.any()) and int((steps < 0).sum()) == int(back.sum())
