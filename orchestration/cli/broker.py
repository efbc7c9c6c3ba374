"""`kilowatch broker`: a local Apache Kafka."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestration.cli import home_option
from orchestration.kafka import broker


@click.group("broker")
def command() -> None:
    """Run a local single-node Apache Kafka under the home, on loopback (needs Java 17 or later, and Maven once)."""


@command.command("start")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: as before, else any free one.")
@home_option
def start(home: Path, port: int | None) -> None:
    """Start it, unless it runs, and print its address."""
    click.echo(broker.start(home, port, notify=lambda text: click.echo(text, err=True)))


@command.command("stop")
@home_option
def stop(home: Path) -> None:
    """Stop it; its topics stay."""
    click.echo("stopped" if broker.stop(home) else "not running")


@command.command("status")
@home_option
def status(home: Path) -> None:
    """Print its address; exit code 1 when it does not run."""
    running = broker.status(home)
    click.echo(running.address if running else "not running")
    sys.exit(0 if running else 1)
