"""`kilowatch edit`: values put right by hand, from a signed correction file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    import polars as pl


@click.command("edit")
@home_option
@click.option("--sign", is_flag=True, help="Sign the file: write its digest as its last line. Nothing is edited yet.")
@click.argument("corrections", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def command(home: Path, sign: bool, corrections: Path) -> None:
    """Put values right by hand, from a signed file CORRECTIONS.csv.

    \b
    Its columns: meter_id, window_end (end of the quarter-hour, RFC 3339 with offset), energy_kwh (drawn from the grid),
    by (a role or an office), at (when it was decided, RFC 3339), why; and where they are to change too export_kwh,
    import_kvarh, export_kvarh. Its last line is its signature:
    # sha256: <digest of all before it>

    A file that was changed after it was signed is refused, and so is one with an error in any line. An accepted file is
    kept for ever in <home>/edits; of several edits of one quarter-hour the last counts. Readings stay as they came: the
    edit is the last layer, status 'edited', and the days that it touches are materialised again.
    """
    if sign:
        _sign(corrections)
        return
    edit(home, corrections)


def _sign(corrections: Path) -> None:
    from metering.vee.edits import parse, signed

    content = signed(corrections.read_bytes())
    count = parse(content, corrections.name).height
    corrections.write_bytes(content)
    click.echo(f"{corrections} is signed: {count} values; now `kilowatch edit {corrections}`")


def edit(home: Path, corrections: Path) -> None:
    """Keep the file and materialise the days it touches anew. Raises UserError when it cannot be used."""
    from metering.calendar import day_of
    from metering.vee.edits import parse
    from orchestration.cli.materialize import materialize
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings
    from sinks.edits import keep_edits
    from sinks.marts import Marts, day_partition

    settings = load_settings(home)
    content = corrections.read_bytes()
    ends = _window_ends(corrections.name, parse(content, corrections.name), load(home, settings).meter_versions)
    kept, edits = keep_edits(home, content, corrections.name)
    click.echo(f"{edits.height} values edited; kept as {kept}")
    days = sorted({day for end in ends if (day := day_of(end, settings.timezone))})
    published = [day for day in days if Marts(home).files("meter_curve", [day_partition(day)])]
    for first, last in _runs(published):
        materialize(home, first, last)
    if waiting := [day for day in days if day not in published]:
        said = ", ".join(str(day) for day in waiting[:5])
        click.echo(f"not materialised yet, and edited when they are: {said}{' ...' if len(waiting) > 5 else ''}")


def _window_ends(name: str, edits: pl.DataFrame, meter_versions: pl.DataFrame) -> list[datetime]:
    """Ends of the quarter-hours of meters that the registry knows then; refuses others."""
    from metering.registry.index import MeterIndex
    from metering.vee.edits import beyond_rating

    index = MeterIndex.of(meter_versions)
    code = index.code(edits["meter_id"])
    version = index.version_of_window(code.fill_null(0), edits["window_end"])
    for row in edits.filter(code.is_null()).iter_rows(named=True):
        raise UserError(f"{name}, line {row['line']}, column meter_id: '{row['meter_id']}' is not in the registry")
    for row in edits.filter(version.is_null()).iter_rows(named=True):
        raise UserError(
            f"{name}, line {row['line']}, column window_end: meter {row['meter_id']} is not valid at that time"
        )
    for line, problem in beyond_rating(edits, meter_versions["step_most_kw"].gather(version)):
        raise UserError(f"{name}, line {line}, {problem}, and sign the file again")
    return edits["window_end"].to_list()


def _runs(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Days as ranges without a hole."""
    first: date | None = None
    for n, day in enumerate(days):
        first = first or day
        if n + 1 == len(days) or days[n + 1] != day + timedelta(days=1):
            yield first, day
            first = None
