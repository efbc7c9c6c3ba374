"""`kilowatch replay`: someone's table to readings."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import polars as pl
from rich.console import Console
from rich.table import Table

from metering.errors import MappingError, OperationError, RegistryError, UserError
from metering.tabular.convert import REASONS, Replayed
from metering.tabular.mapping import parse_mapping
from metering.text import printable
from orchestration.cli import home_option
from orchestration.cli.guess import guess_mapping
from orchestration.home.registry_files import load
from orchestration.home.settings import Settings, load_settings
from orchestration.home.table_files import read_readings
from orchestration.home.telemetry_files import FileWriter, TopicWriter, slices, write_rejects
from orchestration.progress import progress_bar


@click.command("replay")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--mapping",
    "mapping_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What the columns mean (TOML; docs/replay.md, examples in docs/mappings).",
)
@click.option("--guess", is_flag=True, help="Write a first mapping for FILE to --mapping [default: FILE.toml] instead.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Readings as NDJSON; rows that cannot be read go to OUT.rejects.  [default: <home>/telemetry/<name>.ndjson]",
)
@click.option("--kafka", is_flag=True, help="Send the readings to the topic instead of a file.")
@click.option("--overwrite", is_flag=True, help="Replace OUT where it holds other readings already.")
@home_option
def command(
    home: Path, file: Path, mapping_file: Path | None, guess: bool, out: Path | None, kafka: bool, overwrite: bool
) -> None:
    """Turn FILE, someone's CSV, workbook or Parquet (also in gzip or zip), into readings.

    Rows that cannot be read are counted, and written with line and reason to OUT.rejects. Exit code 1 when the file
    gives no reading at all.

    With --guess nothing is replayed: a mapping is written with comments, its first readings are shown, and what only
    you can know is asked, or listed. Exit code 3 then says that lines are to be filled in.
    """
    if guess:
        sys.exit(guess_mapping(home, file, mapping_file))
    if mapping_file is None:
        raise UserError(f"say what the columns mean with --mapping; --guess writes a first mapping for {file}")
    if not mapping_file.is_file():
        raise UserError(f"{mapping_file} is not a file; --guess writes a first mapping for {file}")
    settings = load_settings(home)
    out = out or home / "telemetry" / f"{_stem(file)}.ndjson"
    with progress_bar() as progress:
        task = progress.add_task(f"reading {file.name}", total=None)
        replayed = _replayed(file, mapping_file, settings)
        if replayed.readings.height:
            progress.update(task, description="sending" if kafka else "writing", total=replayed.readings.height)
            with TopicWriter(home, settings) if kafka else FileWriter(out, keep=not overwrite) as writer:
                for piece in slices(replayed.readings):
                    writer.write(piece)
                    progress.advance(task, piece.height)
    rejects = out.with_name(out.name + ".rejects")
    write_rejects(rejects, replayed)
    target = "nothing" if not replayed.readings.height else f"topic {settings.topics.readings}" if kafka else str(out)
    _report(replayed, target, rejects)
    if not replayed.readings.height:
        why = f"of its {replayed.rows:,} rows none became a reading" if replayed.rows else "it has no rows"
        raise OperationError(f"nothing in {file} could be used: {why}; no telemetry was written")
    _warn_of_unknown_meters(home, settings, replayed.readings)


def _stem(file: Path) -> str:
    """The file's name without its endings for what it is and how it is packed."""
    packed = file.suffix.lower() in (".gz", ".zip", ".bz2", ".xz")
    return Path(file.stem).stem if packed else file.stem


def _replayed(file: Path, mapping_file: Path, settings: Settings) -> Replayed:
    """Mistakes in the mapping are told with its file's name."""
    try:
        mapping = parse_mapping(mapping_file.read_text("utf-8-sig"), settings.timezone)
    except UnicodeDecodeError:
        raise MappingError(f"{mapping_file} is not UTF-8") from None
    except MappingError as error:
        raise MappingError(f"{mapping_file}: {error}") from error
    try:
        return read_readings(file, mapping)
    except MappingError as error:
        raise MappingError(f"{mapping_file}: {error}") from error


def _report(replayed: Replayed, target: str, rejects: Path) -> None:
    table = Table("", "rows", title=f"replayed to {target}")
    table.columns[1].justify = "right"
    table.add_row("rows read", f"{replayed.rows:,}")
    table.add_row("readings written", f"{replayed.readings.height:,}")
    told = {
        "rows joined into the reading of another row": replayed.joined,
        "rows left out by the mapping": replayed.left_out,
        "empty values of times that the day does not have": replayed.absent,
        "lines above the header": replayed.before_header,
    }
    for name, count in told.items():
        if count:
            table.add_row(name, f"{count:,}")
    table.add_row("stamps corrected by the file's order", f"{replayed.corrected:,}")
    table.add_row("gaps", f"{replayed.gaps:,}")
    table.add_row("readings missing in gaps", f"{replayed.missing:,}")
    table.add_row("readings whose meter and time come again (the later row counts)", f"{replayed.doubled:,}")
    if replayed.unsure:
        unsure = "of them in doubled hours, which the file's order cannot tell apart (timestamp.second_pass can)"
        table.add_row(unsure, f"{replayed.unsure:,}")
    for reason, count in replayed.rejects["reason"].value_counts(sort=True).iter_rows():
        table.add_row(f"rejected: {REASONS.get(reason, reason)}", f"{count:,}")
    if replayed.other_step_s:
        step = f"{replayed.other_step_s // 60} min" if replayed.other_step_s % 60 == 0 else f"{replayed.other_step_s} s"
        click.echo(
            f"note: some rows follow one another every {step}, longer than `interval`; if theirs is that long, "
            "list both: docs/replay.md, How long intervals are",
            err=True,
        )
    console = Console()
    console.print(table)
    if replayed.rejects.height:
        console.print(f"rejected rows, with line and reason: {rejects}", soft_wrap=True)


def _warn_of_unknown_meters(home: Path, settings: Settings, readings: pl.DataFrame) -> None:
    """The stream rejects readings of meters that it does not know: better said now."""
    try:
        known = load(home, settings).meters["meter_id"]
    except RegistryError as error:
        click.echo(f"note: the stream will not start with this registry: {error}", err=True)
        return
    except UserError:
        known = pl.Series("meter_id", [], pl.String)
    unknown = readings["meter_id"].unique().sort().filter(~readings["meter_id"].unique().sort().is_in(known.to_list()))
    if unknown.len():
        few = ", ".join(printable(meter) for meter in unknown.head(3)) + (", ..." if unknown.len() > 3 else "")
        click.echo(
            f"note: not in {home / 'registry' / 'meters.csv'} yet, so the stream will reject them: {few}", err=True
        )
