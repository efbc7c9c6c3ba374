"""`kilowatch registry`: is the registry valid?"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from metering.registry.parse import Registry
from orchestration.cli import home_option
from orchestration.home.registry_files import load
from orchestration.home.settings import load_settings


@click.group("registry")
def command() -> None:
    """Check the registry of customers and meters."""


@command.command("check")
@home_option
def check(home: Path) -> None:
    """Validate registry/customers.csv and registry/meters.csv: counts, or file, line and column of what is wrong."""
    registry = load(home, load_settings(home))
    table = Table("", "count", title=f"{home / 'registry'} is valid")
    table.columns[1].justify = "right"
    for name, count in _counts(registry):
        table.add_row(name, f"{count:,}")
    Console().print(table)


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
