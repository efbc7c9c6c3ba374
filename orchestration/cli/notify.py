"""`kilowatch notify`: tell people."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    from metering.notices.dispatch import Notice
    from orchestration.home.settings import Settings


@click.command()
@click.option("--once", is_flag=True, help="Work off what is there, and end. What is due later waits for the next run.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent; send nothing, write nothing down.")
@click.option("--kafka", "source", flag_value="kafka", help="Read the topics, also where no broker is set up here.")
@click.option("--files", "source", flag_value="files", help="Read the home's lake, also where there is a broker.")
@home_option
def command(home: Path, once: bool, dry_run: bool, source: str | None) -> None:
    """Tell people of violations, outages and load-control plans, as registry/contacts.csv says, once each.

    It reads the topics where bootstrap_servers is set or the home's broker runs, else the lake of the home. Messages
    go through Apprise: mail, SMS gateways, chat, web hooks. Stop it and start it as you like: what was read, what is
    due and what was sent is in the home's ledger. SIGTERM ends what is under way, and exits with 0.
    """
    from orchestration.home.settings import load_settings
    from orchestration.logs import configure
    from orchestration.notify.run import notify, rehearse
    from orchestration.stream.process import stopped_by_signals

    configure("WARNING" if dry_run else "INFO")
    settings, stop = load_settings(home), Event()
    kafka = _kafka(home, settings, source)
    with stopped_by_signals(stop.set):
        if dry_run:
            _print(rehearse(home, settings, kafka, stop), settings.timezone)
            return
        counts = notify(home, settings, kafka, stop, once)
    if once:
        click.echo(", ".join(f"{status} {count:,}" for status, count in counts.items()) or "nothing to tell")


def _kafka(home: Path, settings: Settings, source: str | None) -> dict[str, str] | None:
    """Configuration of Kafka's clients; None where the lake is read."""
    if source == "files":
        return None
    from orchestration.kafka import broker

    try:
        broker.bootstrap(home, settings)
    except UserError:
        if source == "kafka":
            raise
        return None
    return broker.ensure_topics(home, settings)


def _print(notices: list[Notice], zone: str) -> None:
    from zoneinfo import ZoneInfo

    from sinks.notices.channels import reference, scheme

    for notice in notices:
        due = notice.due_at.astimezone(ZoneInfo(zone))
        unless = ", unless acknowledged" if notice.level else ""
        click.echo(
            f"{due:%Y-%m-%d %H:%M}{unless}  {notice.contact} ({notice.role})  {scheme(notice.channel)}  "
            f"{notice.event_class}, {notice.severity}, {notice.event_state}"
        )
        for line in (notice.title, *notice.body.splitlines(), reference(notice)):
            click.echo(f"    {line}")
    click.echo(f"{len(notices):,} messages would be sent; nothing was.")
