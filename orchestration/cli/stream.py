"""`kilowatch stream`: the dataflow, on files or on Kafka."""

from __future__ import annotations

import atexit
import gc
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from metering.errors import ApartError, UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    from orchestration.stream.process import Outcome, Place, Progress
    from pipelines.flow.dataflow import Run
    from pipelines.sources.poll import Reader


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
@click.option(
    "--rebuild",
    is_flag=True,
    help="Make the stream's state anew first, from what the lake holds: for a state that cannot be read.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes of this machine that share the files or partitions; may be another number at each start.",
)
@click.option(
    "--addresses",
    help="host:port of every process of one stream on several machines, with commas; they share the home's folder.",
)
@click.option("--process", type=click.IntRange(0), default=0, help="Which of --addresses this one is, from 0.")
@click.option("--report", type=click.Path(path_type=Path), hidden=True, help="Where progress is written.")
@home_option
def command(
    home: Path,
    source: Path | None,
    kafka: bool,
    accept_gap: bool,
    rebuild: bool,
    workers: int,
    addresses: str | None,
    process: int,
    report: Path | None,
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
    from orchestration.stream.process import Place, stopped_by_signals

    place = Place(_addresses(addresses, process, workers), process, report)
    configure()
    start = time.monotonic()
    stop = Event()
    if workers > 1:
        flags = {"--kafka": kafka, "--accept-gap": accept_gap, "--rebuild": rebuild}
        given = ["--home", str(home), *(flag for flag, wanted in flags.items() if wanted)]
        outcome, code = _in_processes([*given, *(["--source", str(source)] if source else [])], workers)
        if code:
            raise click.exceptions.Exit(code)
    else:
        try:
            with stopped_by_signals(stop.set):  # from now on, for starting takes a while
                outcome = _in_this_process(home, source, kafka, accept_gap, rebuild, place, stop)
        except ApartError:
            if report is None:
                raise
            return  # the command that started this process finds it in the report, and goes on in one
    if report is None:
        show(outcome, time.monotonic() - start)


def _addresses(given: str | None, process: int, workers: int) -> tuple[str, ...]:
    addresses = tuple(part.strip() for part in given.split(",")) if given else ()
    if addresses and workers > 1:
        raise UserError("--addresses and --workers exclude each other: each address is one process")
    if not all(re.fullmatch(r"[^\s:]+:\d+", address) for address in addresses):
        raise UserError(f"--addresses {given}: give host:port of each process, with commas between")
    if process >= max(1, len(addresses)):
        raise UserError(f"--process {process}: --addresses names {len(addresses)}, counted from 0")
    return addresses


def _in_this_process(
    home: Path, source: Path | None, kafka: bool, accept_gap: bool, rebuild: bool, place: Place, stop: Event
) -> Outcome:
    gc.disable()  # what is loaded now stays, and need not be looked through for cycles again and again
    from orchestration.home.settings import load_settings
    from orchestration.stream.run import stream_files, stream_kafka
    from pipelines.flow.dataflow import Run

    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)  # else the interpreter's last act is to look for cycles in all that was ever loaded
    settings, run = load_settings(home), Run(stop)
    if kafka:
        return stream_kafka(home, settings, run, accept_gap, place, rebuild)
    with file_progress(run):
        return stream_files(home, settings, source or home / "telemetry", run, place, rebuild)


def _in_processes(options: list[str], workers: int) -> tuple[Outcome, int]:
    from orchestration.progress import progress_bar
    from orchestration.stream.processes import stream_in_processes

    with progress_bar() as bar:
        task = bar.add_task("streaming")

        def update(done: Progress, processes: int) -> None:
            text = f"streaming, {done.accepted:,} readings, processes: {processes}"
            bar.update(task, description=text, completed=done.read_bytes, total=done.total_bytes or None)

        return stream_in_processes(options, workers, update)


@contextmanager
def file_progress(run: Run) -> Iterator[None]:
    """A progress bar over the files' bytes."""
    from orchestration.progress import progress_bar
    from pipelines.sources.files import FileReader
    from pipelines.sources.records import unwrapped

    with progress_bar() as bar:
        task = bar.add_task("streaming")

        def update(reader: Reader) -> None:
            files = unwrapped(reader)
            if isinstance(files, FileReader):
                read = files.progress
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
