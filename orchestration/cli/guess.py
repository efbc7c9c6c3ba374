"""`kilowatch replay FILE --guess`: a first mapping for a file, its first readings, and what only its owner can know.

Here: asking, showing, writing. Not here: what can be seen of a file (`metering.tabular.guess`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import replace
from pathlib import Path

import click
import polars as pl
from rich.console import Console
from rich.table import Table

from metering.errors import MappingError, UserError
from metering.tabular.convert import Replayed
from metering.tabular.guess import guess_frame, guess_records, guess_text
from metering.tabular.guess_draft import Guess, Question
from metering.tabular.mapping import parse_mapping
from metering.tabular.shape import FIELD_FORMATS
from orchestration.home.settings import load_settings
from orchestration.home.table_files import looked_into, read_readings

OPEN_QUESTIONS = 3
"""Exit code where the mapping was written, but has lines that only the file's owner can fill in."""
_WIDTH = 80
_SHOWN_READINGS = 5
_SHOWN_FIELDS = 4

Look = Callable[[Dict[str, str]], Guess]
"""A guess by what is known of its questions."""


def guess_mapping(home: Path, file: Path, target: Path | None) -> int:
    """Write a mapping for `file` to `target` (default: `<file>.toml`), never over one that is there; show its readings.

    On a terminal the questions are asked. Returns the exit code: 0, or OPEN_QUESTIONS. Raises UserError, MappingError.
    """
    target = target or file.with_name(file.name + ".toml")
    if target.exists():
        raise UserError(f"{target} exists already: name another file with --mapping, or move it away")
    zone = load_settings(home).timezone
    look = _look(file, zone)
    answers = _asked(look) if sys.stdin.isatty() else {}
    guess = look(answers)
    target.write_text(guess.text, "utf-8")
    click.echo(f"wrote {target}")
    assumed = {question.key: question.assumed for question in guess.questions}
    _show(file, look({**answers, **assumed}), zone)
    for question in guess.questions:
        click.echo(f"? {question.key}: {question.reason}")
    if guess.questions:
        click.echo(f"Fill in the lines of {target} that begin with '# ?', then: {_replay_command(file, target)}")
        return OPEN_QUESTIONS
    click.echo(f"Read it through, then: {_replay_command(file, target)}")
    return 0


def _replay_command(file: Path, target: Path) -> str:
    return f"kilowatch replay {file} --mapping {target}"


def _look(file: Path, zone: str) -> Look:
    nothing_said = parse_mapping(f'format = "{FIELD_FORMATS[0]}"', zone)

    def look(answers: Dict[str, str]) -> Guess:
        member, sheet = answers.get("member"), answers.get("sheet")
        try:
            return guess(answers, looked_into(file, replace(nothing_said, member=member, sheet=sheet)))
        except MappingError as error:
            raise MappingError(f"{file}: {error}") from error

    def guess(answers: Dict[str, str], found: bytes | pl.DataFrame | tuple[pl.DataFrame]) -> Guess:
        if isinstance(found, bytes):
            return guess_text(found, file.name, zone, answers)
        if isinstance(found, pl.DataFrame):
            return guess_frame(found, file.name, zone, answers)
        return guess_records(found[0], file.name, zone, answers)

    return look


def _asked(look: Look) -> dict[str, str]:
    """Answers of whoever sits at the terminal; an empty one leaves the question open."""
    answers: dict[str, str] = {}
    skipped: set[str] = set()
    while questions := [q for q in look(answers).questions if q.key not in answers and q.key not in skipped]:
        answer = _ask(questions[0])
        if answer:
            answers[questions[0].key] = answer
        else:
            skipped.add(questions[0].key)
    return answers


def _ask(question: Question) -> str:
    hint = " or ".join(question.options) if question.options else f"such as {question.assumed}"
    while True:
        answer: str = click.prompt(
            f"{question.key}: {question.reason} ({hint}; empty: later)", default="", show_default=False
        ).strip()
        if not answer or not question.options or answer in question.options:
            return answer


def _show(file: Path, assumed: Guess, zone: str) -> None:
    """The first readings under the mapping, with what is not known assumed."""
    try:
        mapping = parse_mapping(assumed.text, zone)
        replayed = read_readings(file, mapping)
    except MappingError as error:
        click.echo(f"The mapping does not read the file yet: {error}")
        return
    console = Console(width=_WIDTH)
    console.print(_table(replayed, mapping.timezone))
    click.echo(f"{replayed.readings.height:,} readings, {replayed.rejects.height:,} rejects", nl=False)
    first = replayed.rejects.row(0, named=True) if replayed.rejects.height else None
    click.echo(f"; the first, line {first['line']}: {first['reason']}, {first['detail']}"[:_WIDTH] if first else "")


def _table(replayed: Replayed, zone: str) -> Table:
    rows = replayed.readings.head(_SHOWN_READINGS)
    fields = [name for name in rows.columns if name not in ("meter_id", "ts")][:_SHOWN_FIELDS]
    table = Table("meter_id", "ts, local", *fields, title="The first readings", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    local = rows.with_columns(pl.col("ts").dt.convert_time_zone(zone).dt.strftime("%Y-%m-%d %H:%M:%S"))
    for meter, ts, *values in local.select("meter_id", "ts", *fields).iter_rows():
        table.add_row(meter, ts, *("" if value is None else f"{value:g}" for value in values))
    return table
