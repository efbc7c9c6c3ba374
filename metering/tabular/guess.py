"""A first mapping for an unknown file: what can be seen of it, and what only its owner can know.

Here: `guess_text`, `guess_records`, `guess_frame`, which look at the first rows and write a mapping with comments. Not
here: finding times (`guess_stamps`) and quantities (`guess_quantities`), opening files, asking anybody.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import polars as pl

from metering.errors import MappingError
from metering.tabular import espi, nem12
from metering.tabular.delimited import all_records
from metering.tabular.encodings import encoding_of
from metering.tabular.formats import recognised, unreadable
from metering.tabular.guess_quantities import ChannelGuess, Quantity, channels_of, merged, quantity_of
from metering.tabular.guess_stamps import StampGuess, find_stamp
from metering.text import printable

_SAMPLE_ROWS = 2000
_SAMPLE_CHARS = 4_000_000
_DELIMITERS = ";\t,|"
_DAY_S = 86_400
_RUN = 3
"""So many rows on end that are as far apart are no gaps."""
_AGAIN = 0.2
"""Share of rows that repeat another's time, from which on they are of another kind."""
_LENGTHS = (24, 48, 96, 144, 288, 1440)
_NUMBER = re.compile(r"[-+]?(\d{1,3}([.,' \u00a0\u202f]\d{3})+|\d+)([.,]\d+)?([eE][-+]?\d+)?%?")
_THOUSANDS = {
    ".": re.compile(r"[-+]?\d{1,3}(\.\d{3})+,\d+|[-+]?\d{1,3}(\.\d{3}){2,}"),
    ",": re.compile(r"[-+]?\d{1,3}(,\d{3})+\.\d+|[-+]?\d{1,3}(,\d{3}){2,}"),
    **{mark: re.compile(rf"[-+]?\d{{1,3}}({mark}\d{{3}})+([.,]\d+)?") for mark in (" ", "'", "\u00a0", "\u202f")},
}
_NULLS = frozenset(
    {"?", "-", "--", "---", "n/a", "na", "nan", "null", "none", "nil", "#n/a", "#div/0!", "\\n", ".", "x", "*"}
)
_METER = re.compile(
    r"meter(?!ing)|zähl(er|punkt)|zaehl|\bnmi\b|mpan|\bprm\b|\bpdl\b|cups|\bean\b|电表|表计|计量点|资产号|asset|anlage|serial|device|point.?id",
    re.I,
)
_CUSTOMER = re.compile(r"customer|kunde|client|account|户号|用户|\bsite\b|\bid\b|_id$", re.I)
_QUALITY = re.compile(r"qualit|güte|quality|(?<![A-Za-z])status|flag|\bart\b|estimat|method|状态|质量", re.I)
_VALUE = "value"
_GENERIC = re.compile(r"(?i)val(ue|eur|or)?s?|wert|reading|messwert|quantity|menge|#\d+|.*值")
_UNKNOWN = Quantity("active", energy=False, factor=None)


@dataclass(frozen=True, slots=True)
class Question:
    """What a file does not say. `key` names it in `answers`; `assumed` is what is shown until it is known; `options`
    are the only answers, where there are few. Without an answer to a `needed` one the mapping cannot be used."""

    key: str
    reason: str
    assumed: str
    options: tuple[str, ...] = ()
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Guess:
    """A mapping's TOML `text` with comments, and the `questions` that stand in it as lines that begin with `# ?`."""

    text: str
    questions: tuple[Question, ...]


@dataclass(slots=True)
class _Draft:
    """Lines of a mapping as they are found, and what is asked on the way."""

    answers: Dict[str, str]
    zone: str
    top: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    meter: str = ""
    questions: list[Question] = field(default_factory=list)

    def ask(self, question: Question) -> str | None:
        """The answer, where there is one; else the question is noted."""
        answer = self.answers.get(question.key)
        if answer is None or (question.options and answer not in question.options):
            self.questions.append(question)
            return None
        return answer

    def asked(self, lines: list[str], question: Question, *texts: str) -> None:
        """Lines of a mapping that hold once a question is answered; until then they are comments."""
        if self.ask(question) is not None:
            lines.extend(texts)
            return
        lines.append(f"# ? {texts[0]}  # {question.reason}")
        lines.extend(f"# ? {text}" for text in texts[1:])

    def guess(self, name: str) -> Guess:
        head = [
            f"# A mapping for {printable(name)}, guessed by `kilowatch replay --guess`: read it through before use.",
            '# Lines that begin with "# ?" are what the file does not say: correct them, and take the "# ?" away.',
        ]
        return Guess("\n".join([*head, "", *self.top, *self.tables]) + "\n", tuple(self.questions))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The first rows of a table: texts without blanks around (or typed), in columns named as a mapping names them."""

    sample: pl.DataFrame
    last: pl.DataFrame
    header: tuple[str, ...]


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
        return _of_the_field(seen[0], content, name, _Draft(answers, zone))
    if not text.strip():
        raise MappingError("the file is empty")
    draft = _Draft(answers, zone, top=['format = "csv"'])
    sep = re.match(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n|$)', text, re.I)
    body = text[sep.end() :] if sep else text
    delimiter = sep[1] if sep else _delimiter(body)
    draft.top.append(f"delimiter = {_quoted(delimiter)}")
    if encoding != "utf-8-sig":
        sure = "by its byte order mark" if encoding == "utf-16" else "a guess: look at names and signs"
        draft.top.append(f"encoding = {_quoted(encoding)}  # {sure}")
    lines_before = text[: sep.end()].count("\n") if sep else 0
    records = all_records(body, delimiter).with_columns(pl.col("line") + lines_before)
    return _of_records(records, name, draft)


def guess_records(records: pl.DataFrame, name: str, zone: str, answers: Dict[str, str]) -> Guess:
    """A mapping for a table of a workbook, from its records (`delimited.RECORDS`)."""
    return _of_records(
        records, name, _Draft(answers, zone, top=['format = "csv"  # a workbook is told by its content'])
    )


def guess_frame(frame: pl.DataFrame, name: str, zone: str, answers: Dict[str, str]) -> Guess:
    """A mapping for a typed table, such as a Parquet file's."""
    draft = _Draft(answers, zone, top=['format = "parquet"'])
    return _of_table(_Table(frame.head(_SAMPLE_ROWS), frame.tail(5), tuple(frame.columns)), name, draft)


def _of_the_field(format: str, content: bytes, name: str, draft: _Draft) -> Guess:
    """Formats that say everything: only the meters' names are the utility's, not ours."""
    draft.top.append(f'format = "{format}"')
    own = nem12.meters_in(content) if format == "nem12" else espi.meters_in(content)
    shown = own[:20]
    what = "NMI" if format == "nem12" else "usage point"
    draft.top.append(f"# Each {what} is a meter of its own name; [meters] gives it the registry's:")
    draft.tables += ["# [meters]", *(f"# {_quoted(each)} = {_quoted(each)}" for each in shown)]
    if len(own) > len(shown):
        draft.tables.append(f"# and {len(own) - len(shown):,} more")
    return draft.guess(name)


# --- cells -----------------------------------------------------------------------------------------------------------


def _delimiter(text: str) -> str:
    """What cuts most lines into the same number of cells, more than one."""
    lines = [line for line in text[:200_000].splitlines()[:200] if line.strip()]

    def evenness(delimiter: str) -> tuple[float, int]:
        counts = Counter(len(cells) for cells in all_records("\n".join(lines), delimiter)["cells"].to_list())
        width, often = max(counts.items(), key=lambda item: (item[0] > 1, item[1], item[0]), default=(1, 0))
        return (often / max(len(lines), 1) if width > 1 else 0.0), width

    return max(_DELIMITERS, key=evenness)


def _of_records(records: pl.DataFrame, name: str, draft: _Draft) -> Guess:
    """The header is the last row above the first with numbers that is as wide as most rows, and names columns."""
    rows = [[cell.strip() for cell in cells] for cells in records["cells"].head(_SAMPLE_ROWS + 60).to_list()]
    if not rows:
        raise MappingError("the file has no rows")
    width, _ = max(Counter(map(len, rows)).items(), key=lambda item: (item[1], item[0]))
    wide_enough = [index for index, row in enumerate(rows) if len(row) >= width and not any(row[width:])]
    first_data = next((index for index in wide_enough if _is_data(rows[index])), len(rows))
    above = [index for index in wide_enough if index < first_data and sum(map(bool, rows[index])) > 1]
    at = above[-1] if above else None
    if at is None and first_data == len(rows):
        raise MappingError("the file has no row of numbers below a header, so there is nothing to map")
    header = tuple(rows[at]) if at is not None else ("",) * width
    if at is None:
        draft.tables += ["", "[header]", "lines = 0  # no line names the columns: #1 is the first"]
    elif at > 0:
        draft.tables += ["", "[header]", f"line = {records['line'][at]}  # the lines above it are left out"]
    draft.meter = _meter_above(rows[: at or 0])
    data = [row for row in rows[(first_data if at is None else at + 1) :] if len(row) >= width]
    if not data:
        raise MappingError("the file has a header, but no rows below it")
    names = _names(header[:width])
    ends = [row for row in records["cells"].tail(50).to_list() if len(row) >= width]
    last = [[cell.strip() for cell in row[:width]] for row in ends]
    schema = dict.fromkeys(names, pl.String)
    sample = pl.DataFrame([row[:width] for row in data[:_SAMPLE_ROWS]], schema=schema, orient="row")
    return _of_table(_Table(sample, pl.DataFrame(last, schema=schema, orient="row"), names), name, draft)


def _meter_above(rows: Sequence[Sequence[str]]) -> str:
    """What lines above the header say of the meter, as `Meter: 310105200001` or in two cells; or nothing."""
    for pattern in (_METER, _CUSTOMER):
        for row in rows:
            cells = [part.strip() for cell in row for part in re.split(r"[:：=]", cell, maxsplit=1) if part.strip()]
            if len(cells) == 2 and pattern.search(cells[0]) and 1 <= len(cells[1]) <= 64:
                return cells[1]
    return ""


def _is_data(row: Sequence[str]) -> bool:
    """Numbers, or a time, in a row of several cells; names of columns may be hours of the day, but not most of them."""
    filled = [cell for cell in row if cell]
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in filled)
    dates = sum(bool(re.match(r"\d{1,4}[-./年]\d{1,2}[-./月]\d{1,4}", cell)) for cell in filled)
    return bool(dates) or (numbers > len(filled) / 2 and not _clock_run(tuple(row)))


def _names(header: Sequence[str]) -> tuple[str, ...]:
    """Each column as a mapping names it: by its name, the n-th of its name, or its place. Figures in it may change."""
    changing = [re.sub(r"\d[\d.,' ]*(?=\s*[kM]?(Wh|W|var)\b)", "*", name) for name in header]
    often = Counter(changing)
    seen: Counter[str] = Counter()
    names = []
    for place, name in enumerate(changing, 1):
        seen[name] += 1
        names.append(f"#{place}" if not name else name if often[name] == 1 else f"{name}#{seen[name]}")
    return tuple(names)


# --- the table -------------------------------------------------------------------------------------------------------


def _of_table(table: _Table, name: str, draft: _Draft) -> Guess:
    span = _clock_run(table.header)
    stamped = table.sample.drop(table.header[span[0] : span[1]]) if span else table.sample
    stamp = find_stamp(stamped)
    if stamp is None:
        raise MappingError(f"no column looks like a time; the columns are {_listed(table.header)}")
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
        draft.tables += [f"first = {_quoted(table.header[span[0]])}", f"last = {_quoted(table.header[span[1] - 1])}"]
    _say_stamp(table, stamp, seconds, numbered=bool(span), draft=draft)
    _say_rows(
        table, stamp, meter, [c for c in table.header if c not in taken and c != meter and c not in numbers], draft
    )
    _say_channels(table, numbers, span, [c for c in table.header if c not in taken and c != meter], draft)
    return draft.guess(name)


def _decimals(table: _Table, columns: Sequence[str], draft: _Draft) -> tuple[str, tuple[str, ...]]:
    """The decimal sign and thousands marks of the texts, which are noted where they are not the usual ones."""
    texts = [c for c in columns if table.sample.schema[c] == pl.String]
    cells = [cell for column in texts for cell in table.sample[column].head(400) if cell and _NUMBER.fullmatch(cell)]
    marks = tuple(mark for mark, form in _THOUSANDS.items() if any(form.fullmatch(cell) for cell in cells))
    points = sum("." in cell for cell in cells) if "." not in marks else 0
    commas = sum("," in cell for cell in cells) if "," not in marks else 0
    decimal = "," if commas > points else "."
    thousands = tuple(mark for mark in marks if mark != decimal)
    if decimal != ".":
        draft.top.append('decimal = ","')
    if thousands:
        draft.top.append(f"thousands = {_listed_toml(thousands)}")
    numeric = [c for c in texts if _numbers(table.sample[c], decimal, thousands) is not None]
    words = {cell for column in numeric for cell in table.sample[column] if cell and cell.lower() in _NULLS}
    if words:
        draft.top.append(f"null_values = {_listed_toml(('', *sorted(words)))}")
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
    for pattern in (_METER, _CUSTOMER):
        for column in columns:
            cells = sample[column].cast(pl.String).drop_nulls()
            fractions = column in numbers and bool((numbers[column].drop_nulls() % 1 != 0).any())
            few = cells.n_unique() <= max(1, len(cells) // 3) or len(cells) <= 3
            if pattern.search(column) and not fractions and few and (cells != "").all() and len(cells):
                return column
    return None


def _say_meter(column: str | None, draft: _Draft) -> None:
    if column is not None:
        draft.top.append(f"meter_id = {{ column = {_quoted(column)} }}")
        return
    reason = "no column names the meter: whose readings are these?"
    if draft.meter:
        reason = "so it says above the header: is it the meter?"
    question = Question("meter_id", reason, draft.meter or "METER-1", needed=True)
    draft.asked(draft.top, question, f"meter_id = {_quoted(draft.answers.get('meter_id', question.assumed))}")


def _say_zone(stamp: StampGuess, draft: _Draft) -> None:
    if stamp.with_offset:
        return
    reason = "the stamps carry no offset: of which zone are they? Without this line the settings' zone holds"
    question = Question("timezone", reason, draft.zone)
    draft.asked(draft.top, question, f"timezone = {_quoted(draft.answers.get('timezone', question.assumed))}")


def _say_interval(
    table: _Table, stamp: StampGuess, span: tuple[int, int, int] | None, meter: str | None, draft: _Draft
) -> int:
    """The usual time between readings in seconds, 0 where it cannot be told; noted as it is found."""
    if span:
        seconds = [span[2]]
    elif stamp.period:
        length = next((n for n in _LENGTHS if n >= stamp.period_last - (1 if stamp.period_first else 0) - n // 24), 24)
        seconds = [_DAY_S // length]
    else:
        frame = pl.DataFrame({"meter": table.sample[meter].cast(pl.String) if meter else "", "wall": stamp.walls})
        steps = frame.drop_nulls().select(pl.col("wall").diff().over("meter").dt.total_seconds()).to_series()
        seconds = _usual_steps([int(step) for step in steps.drop_nulls()])
    if not seconds:
        reason = "too few stamps to tell the time between readings"
        question = Question("interval", reason, "15m", needed=True)
        draft.asked(draft.top, question, f"interval = {_quoted(draft.answers.get('interval', question.assumed))}")
        return 0
    texts = [_interval_text(one) for one in seconds]
    if len(texts) == 1 and not stamp.end:
        draft.top.append(f"interval = {_quoted(texts[0])}")
    elif not stamp.end:
        draft.top.append(f"interval = {_listed_toml(texts)}  # the distance to the next row says which")
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


def _say_stamp(table: _Table, stamp: StampGuess, seconds: int, *, numbered: bool, draft: _Draft) -> None:
    lines = ["", "[timestamp]"]
    lines.append(f"column = {_listed_toml(stamp.columns) if len(stamp.columns) > 1 else _quoted(stamp.columns[0])}")
    if stamp.other_format is not None and stamp.format is not None:
        reason = "day first or month first: the rows fit both"
        question = Question("date_order", reason, _order_of(stamp.format), ("day first", "month first"))
        answer = draft.ask(question)
        chosen = stamp.other_format if answer == _order_of(stamp.other_format) else stamp.format
        lines.append(f"format = {_quoted(chosen)}")
        if answer is None:
            lines.append(f"# ? format = {_quoted(stamp.other_format)}  # in place of the line above, if so: {reason}")
    elif stamp.format is not None:
        lines.append(f"format = {_quoted(stamp.format)}")
    if stamp.end is not None:
        lines.append(f"end = {_quoted(stamp.end)}")
    elif stamp.period is not None:
        lines.append(f"period = {{ column = {_quoted(stamp.period)}, first = {stamp.period_first} }}")
    elif not numbered and _printed_on_the_same_date(stamp.walls, seconds):
        lines.append('label = "end"')
        lines.append('order = "file"  # midnight is printed with the date of the day that it ends')
    elif not numbered:
        _say_label(table, stamp, seconds, lines, draft)
    draft.tables += lines


def _order_of(format: str) -> str:
    return "day first" if format.index("%d") < format.index("%m") else "month first"


def _say_label(table: _Table, stamp: StampGuess, seconds: int, lines: list[str], draft: _Draft) -> None:
    """Which end of its interval a stamp names: by its column's name, or by where the file's days begin and end."""
    if stamp.label:
        lines.append(f"label = {_quoted(stamp.label)}  # by the column's name")
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
    draft.asked(lines, question, f"label = {_quoted(draft.answers.get('label', question.assumed))}")


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


# --- channels --------------------------------------------------------------------------------------------------------


def _say_channels(
    table: _Table,
    numbers: Dict[str, pl.Series],
    span: tuple[int, int, int] | None,
    columns: Sequence[str],
    draft: _Draft,
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
    for column, series in values.items():
        quantity = quantity_of(column, draft.answers.get(f"unit:{column}", ""))
        generic = bool(span) or len(values) == 1 or _GENERIC.fullmatch(column) is not None
        if naming and generic and (quantity is None or quantity.factor is None):
            channels += _named_by_cells(table.sample, naming, column, series, draft)
        elif quantity is not None and quantity.factor is not None:
            channels += channels_of(column, quantity, series)
        elif quantity is not None or generic:
            unknown.append((column, quantity or _UNKNOWN, series))
    if not channels and not unknown:
        unknown = [(column, _UNKNOWN, series) for column, series in values.items()][:1]
    if not channels and not unknown:
        raise MappingError(f"no column holds numbers; the columns are {_listed(table.header)}")
    kept, over = merged(channels)
    for channel in kept:
        draft.tables += ["", *_channel_lines(channel)]
    fields = {channel.field for channel in kept}
    left = [column for channel in over for column, _ in channel.columns]
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
        question = Question(f"unit:{column}", reason, unit, needed=not kept)
        draft.tables.append("")
        draft.asked(draft.tables, question, *(line for channel in guessed for line in _channel_lines(channel)))
    if left:
        draft.tables += ["", f"# left out, for a field has one channel: {_listed(list(dict.fromkeys(left)))}"]
    _say_quality(table.sample, worded, naming, draft)


def _say_rows(table: _Table, stamp: StampGuess, meter: str | None, columns: Sequence[str], draft: _Draft) -> None:
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
            keep = _listed_toml([draft.answers.get("rows", question.assumed)])
            draft.tables.append("")
            draft.asked(draft.tables, question, "[[rows]]", f"column = {_quoted(column)}", f"keep = {keep}")
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
    sample: pl.DataFrame, naming: str, column: str, series: pl.Series, draft: _Draft
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
    columns = ", ".join(f"{_quoted(column)} = {_number(factor)}" for column, factor in channel.columns)
    lines = ["[[channel]]" + (f"  # {channel.why}" if channel.why else ""), f"field = {_quoted(channel.field)}"]
    lines.append(f"columns = {{ {columns} }}" + ("" if channel.sure else "  # is the factor right?"))
    if channel.kind != "value":
        lines.append(f"kind = {_quoted(channel.kind)}")
    if channel.part != "net":
        lines.append(f"part = {_quoted(channel.part)}")
    if channel.when:
        lines.append("when = { " + ", ".join(f"{_quoted(c)} = {_quoted(cell)}" for c, cell in channel.when) + " }")
    return lines


def _say_quality(sample: pl.DataFrame, columns: Sequence[str], naming: str | None, draft: _Draft) -> None:
    """Marks that may be of quality, for the reader to say."""
    for column in columns:
        marks = sorted(cell for cell in sample[column].drop_nulls().unique() if cell)
        if column != naming and _QUALITY.search(column) and 1 <= len(marks) <= 12:
            shown = _listed_toml([printable(mark) for mark in marks])
            draft.tables += [
                "",
                "# [quality]  # if these marks say how good a value is",
                f"# column = {_quoted(column)}",
            ]
            draft.tables += [f"# good = {shown}", "# estimated = []"]
            return


# --- one row a day ---------------------------------------------------------------------------------------------------


def _clock_run(header: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Columns that name the intervals of a day: where they begin and end, and how long one is in seconds."""
    for read in (_minutes_of, _place_of):
        runs = [read(name) for name in header]
        best = _longest_run(runs)
        if best is not None:
            first, last = best
            step = (runs[first + 1] or 0) - (runs[first] or 0)
            count = last - first
            if read is _minutes_of:
                return first, last, step * 60
            day = next((n for n in _LENGTHS if n <= count <= n + n // 24), None)
            if day is not None and runs[first] in (0, 1) and step == 1:
                return first, last, _DAY_S // day
    return None


def _minutes_of(name: str) -> int | None:
    found = re.fullmatch(r"[A-Za-z_]?(\d{1,2}):?(\d{2})(?::00)?(?:\s*[-–].*)?", name.strip())
    if found is None or int(found[1]) > 24 or int(found[2]) > 59:
        return None
    return int(found[1]) * 60 + int(found[2])


def _place_of(name: str) -> int | None:
    found = re.fullmatch(r"[A-Za-z_]{0,8}?_?(\d{1,4})", name.strip())
    return int(found[1]) if found else None


def _longest_run(values: Sequence[int | None]) -> tuple[int, int] | None:
    """The longest stretch of at least 23 values that rise by the same step; a last 0 closes the day."""
    best: tuple[int, int] | None = None
    first = 0
    while first < len(values) - 1:
        here, following = values[first], values[first + 1]
        if here is None or following is None or following <= here:
            first += 1
            continue
        step, last = following - here, first + 2
        while last < len(values) and (now := values[last]) is not None and (now - (values[last - 1] or 0)) == step:
            last += 1
        if last < len(values) and values[last] == 0 and (values[last - 1] or 0) + step == 1440:
            last += 1
        if last - first >= 23 and (best is None or last - first > best[1] - best[0]):
            best = first, last
        first = last - 1
    return best


# --- TOML ------------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _listed_toml(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(_quoted, texts)) + "]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name, 30) for name in names[:12]) + (", ..." if len(names) > 12 else "")


def _number(value: float) -> str:
    return repr(float(value))
