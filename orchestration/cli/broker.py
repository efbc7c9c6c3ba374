"""`kilowatch broker`: a local Apache Kafka."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestration.cli import home_option
from orchestration.home.settings import load_settings
from orchestration.kafka import broker


@click.group("broker")
def command() -> None:
    """Run a local single-node Apache Kafka under the home, on loopback (needs Java 17 or later, and Maven once)."""


@command.command("start")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: as before, else any free one.")
@home_option
def start(home: Path, port: int | None) -> None:
    """Start it, unless it runs, and print its address; with bootstrap_servers set, print those and start none."""
    if cluster := _cluster_of_settings(home):
        click.echo("bootstrap_servers is set: that cluster is used, and none is started", err=True)
        click.echo(cluster)
        return
    click.echo(broker.start(home, port, notify=lambda text: click.echo(text, err=True)))


@command.command("stop")
@home_option
def stop(home: Path) -> None:
    """Stop it; its topics stay. A cluster named by bootstrap_servers is not Kilowatch's to stop."""
    stopped = broker.stop(home)
    if cluster := _cluster_of_settings(home):
        also = "stopped the local broker; " if stopped else ""
        click.echo(f"{also}bootstrap_servers is set: {cluster} is not Kilowatch's to stop")
        return
    click.echo("stopped" if stopped else "not running")


@command.command("status")
@home_option
def status(home: Path) -> None:
    """Print its address, or that of bootstrap_servers if it is set; exit code 1 when it does not answer or run."""
    if cluster := _cluster_of_settings(home):
        answers = broker.answers(home, load_settings(home))
        click.echo(cluster if answers else f"{cluster} does not answer")
        sys.exit(0 if answers else 1)
    running = broker.status(home)
    click.echo(running.address if running else "not running")
    sys.exit(0 if running else 1)


def _cluster_of_settings(home: Path) -> str:
    return load_settings(home).bootstrap_servers
