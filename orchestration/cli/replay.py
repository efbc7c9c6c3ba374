"""`kilowatch replay`: someone's CSV or Parquet to readings."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import polars as pl
from rich.console import Console
from rich.table import Table

from metering.errors import MappingError, RegistryError, UserError
from metering.tabular.convert import REASONS, Replayed
from metering.tabular.mapping import parse_mapping
from orchestration.cli import home_option
from orchestration.cli.guess import guess_mapping
from orchestration.home.registry_files import load
from orchestration.home.settings import Settings, load_settings
from orchestration.home.telemetry_files import FileWriter, TopicWriter, Writer, read_readings, slices, write_rejects
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
@home_option
def command(home: Path, file: Path, mapping_file: Path | None, guess: bool, out: Path | None, kafka: bool) -> None:
    """Turn FILE, someone's CSV or Parquet, into readings.

    Rows that cannot be read are counted, and written with line and reason to OUT.rejects. With --guess nothing is
    replayed: a mapping is written with comments, its first readings are shown, and what only you can know is asked, or
    listed. Exit code 3 then says that lines are to be filled in.
    """
    if guess:
        sys.exit(guess_mapping(home, file, mapping_file))
    if mapping_file is None:
        raise UserError(f"say what the columns mean with --mapping; --guess writes a first mapping for {file}")
    if not mapping_file.is_file():
        raise UserError(f"{mapping_file} is not a file; --guess writes a first mapping for {file}")
    settings = load_settings(home)
    out = out or home / "telemetry" / f"{file.stem}.ndjson"
    with progress_bar() as progress:
        task = progress.add_task(f"reading {file.name}", total=None)
        replayed = _replayed(file, mapping_file, settings)
        progress.update(task, description="sending" if kafka else "writing", total=replayed.readings.height)
        with _writer(home, settings, out, kafka) as writer:
            for piece in slices(replayed.readings):
                writer.write(piece)
                progress.advance(task, piece.height)
    rejects = out.with_name(out.name + ".rejects")
    write_rejects(rejects, replayed)
    target = f"topic {settings.topics.readings}" if kafka else str(out)
    _report(replayed, target, rejects)
    _warn_of_unknown_meters(home, settings, replayed.readings)


def _replayed(file: Path, mapping_file: Path, settings: Settings) -> Replayed:
    """Mistakes in the mapping are told with its file's name."""
    try:
        mapping = parse_mapping(mapping_file.read_text("utf-8-sig"), settings.timezone)
        return read_readings(file, mapping)
    except UnicodeDecodeError:
        raise MappingError(f"{mapping_file} is not UTF-8") from None
    except MappingError as error:
        raise MappingError(f"{mapping_file}: {error}") from error


def _writer(home: Path, settings: Settings, out: Path, kafka: bool) -> Writer:
    return TopicWriter(home, settings) if kafka else FileWriter(out)


def _report(replayed: Replayed, target: str, rejects: Path) -> None:
    table = Table("", "rows", title=f"replayed to {target}")
    table.columns[1].justify = "right"
    table.add_row("rows read", f"{replayed.rows:,}")
    table.add_row("readings written", f"{replayed.readings.height:,}")
    table.add_row("stamps corrected by the file's order", f"{replayed.corrected:,}")
    table.add_row("gaps", f"{replayed.gaps:,}")
    table.add_row("readings missing in gaps", f"{replayed.missing:,}")
    table.add_row("readings whose meter and time come again (the later row counts)", f"{replayed.doubled:,}")
    for reason, count in replayed.rejects["reason"].value_counts(sort=True).iter_rows():
        table.add_row(f"rejected: {REASONS[reason]}", f"{count:,}")
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
        few = ", ".join(unknown.head(3)) + (", ..." if unknown.len() > 3 else "")
        click.echo(
            f"note: not in {home / 'registry' / 'meters.csv'} yet, so the stream will reject them: {few}", err=True
        )
