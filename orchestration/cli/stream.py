"""`kilowatch stream`: the dataflow, on files or on Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    from orchestration.streaming import Outcome
    from pipelines.dataflow import Run


@click.command()
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="A telemetry file, or a folder of them, read to the end. Default: <home>/telemetry.",
)
@click.option("--kafka", is_flag=True, help="Read the readings topic, and publish results, until stopped.")
@click.option(
    "--accept-gap",
    is_flag=True,
    help="With --kafka: go on where the log no longer holds what comes next, leaving a row in the lake's table gaps.",
)
@click.option("--workers", type=click.IntRange(1, 1), default=1, show_default=True, help="Processes; one so far.")
@home_option
def command(
    home: Path,
    source: Path | None,
    kafka: bool,
    accept_gap: bool,
    workers: int,  # noqa: ARG001 - one worker so far
) -> None:
    """Run the dataflow: readings in; windows, violations and compliance out, to the lake and, with --kafka, to topics.

    Each file is a shard of its own, each Kafka partition too. What a shard has done is committed together with where
    to go on; run it again after any end and it goes on from there. SIGTERM commits and ends with exit code 0.
    """
    if source and kafka:
        raise UserError("--source and --kafka exclude each other: name one")
    if accept_gap and not kafka:
        raise UserError("--accept-gap goes with --kafka: files have no gaps")
    from orchestration.logs import configure
    from orchestration.settings import load_settings
    from orchestration.streaming import stream_files, stream_kafka
    from pipelines.dataflow import Run

    configure()
    settings = load_settings(home)
    run = Run()
    start = time.monotonic()
    if kafka:
        outcome = stream_kafka(home, settings, run, accept_gap)
    else:
        with file_progress(run):
            outcome = stream_files(home, settings, source or home / "telemetry", run)
    show(outcome, time.monotonic() - start)


@contextmanager
def file_progress(run: Run) -> Iterator[None]:
    """A progress bar over the files' bytes."""
    from orchestration.progress import progress_bar
    from pipelines.file_source import FileReader

    with progress_bar() as bar:
        task = bar.add_task("streaming")

        def update(reader: object) -> None:
            if isinstance(reader, FileReader):
                read = reader.progress
                text = f"streaming, {run.metrics.readings:,} readings"
                bar.update(task, description=text, completed=read.read_bytes, total=read.total_bytes)

        run.on_poll = update
        yield


def show(outcome: Outcome, seconds: float) -> None:
    """The run's figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "readings", title=f"stream, {seconds:,.1f} s", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("accepted", f"{outcome.accepted:,}")
    for reason, count in sorted(outcome.rejected.items()):
        table.add_row(f"rejected: {reason}", f"{count:,}")
    Console().print(table)
