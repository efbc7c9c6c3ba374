"""`kilowatch registry`: is the registry valid?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from metering.errors import RegistryError
from metering.notices.contacts import CONTACTS_FILE, Contact
from metering.registry.parse import Registry
from orchestration.cli import home_option
from orchestration.home.registry_files import contacts_path, load, load_contacts
from orchestration.home.settings import load_settings


@click.group("registry")
def command() -> None:
    """Check the registry of customers, meters and contacts."""


@command.command("check")
@home_option
def check(home: Path) -> None:
    """Validate registry/customers.csv, meters.csv and, if there is one, contacts.csv.

    Prints counts, or file, line and column of what is wrong.
    """
    settings = load_settings(home)
    registry = load(home, settings)
    contacts = load_contacts(home, settings, registry.customers) if contacts_path(home).exists() else ()
    table = Table("", "count", title=f"{home / 'registry'} is valid")
    table.columns[1].justify = "right"
    for name, count in [*_counts(registry), *_contact_counts(contacts)]:
        table.add_row(name, f"{count:,}")
    Console().print(table)


def _contact_counts(contacts: Sequence[Contact]) -> list[tuple[str, int]]:
    """Raises RegistryError for a channel that is none; one whose variables are not set here cannot be looked at."""
    if not contacts:
        return [("contacts", 0)]
    from sinks.notices.channels import Channels

    channels, unset = Channels(), 0
    for contact in contacts:
        for url in contact.channels:
            if channels.unset(url):
                unset += 1
            elif problem := channels.problem(url):
                raise RegistryError(CONTACTS_FILE, contact.line, "channels", problem)
    counts = [("contacts", len({contact.contact for contact in contacts})), ("  rows", len(contacts))]
    return [*counts, ("  channels with variables that are not set here", unset)] if unset else counts


def _counts(registry: Registry) -> list[tuple[str, int]]:
    customers = registry.customers.sort("valid_from").unique("customer_no", keep="last")
    meters = registry.meters
    segments = customers["segment"].value_counts(sort=True).iter_rows()
    wirings = meters["wiring"].value_counts(sort=True).iter_rows()
    return [
        ("customers", customers.height),
        *((f"  {segment}", count) for segment, count in segments),
        ("  with dual supply", int(customers["dual_supply"].sum())),
        ("  without a meter", customers.join(meters, on="customer_no", how="anti").height),
        ("meters", meters["meter_id"].n_unique()),
        *((f"  {wiring}", count) for wiring, count in wirings),
        ("meter versions", meters.height),
    ]
