"""`kilowatch lists`: who is on which customer list, what the rules propose, and approving of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metering.errors import UserError
from orchestration.cli import home_option
from orchestration.cli.materialize import DAY
from orchestration.cli.query import show as show_rows

if TYPE_CHECKING:
    import polars as pl

    from metering.registry.lists import Member


@click.group("lists")
def command() -> None:
    """Show customer lists, and approve of what the rules propose.

    The rules are rows of the settings, [lists.profile]; who is proposed is computed with the daily assets. A list is
    what somebody approved; each approval is kept, signed, in <home>/lists. See docs/lists.md.
    """


@command.command("show")
@home_option
@click.argument("name", metavar="[LIST]", required=False)
def show(home: Path, name: str | None) -> None:
    """Show every list's members and proposed changes; with LIST its rows."""
    import polars as pl

    rows = _published(home, name)
    if name is None:
        rows = rows.group_by("list", maintain_order=True).agg(
            (pl.col("state") == "approved").sum().alias("approved"),
            (pl.col("change") == "add").sum().alias("to be added"),
            (pl.col("change") == "remove").sum().alias("to be removed"),
            pl.col("as_of").first(),
        )
    show_rows(rows if name is None else rows.drop("list"))


@command.command("approve")
@home_option
@click.option("--by", required=True, metavar="ROLE", help="Role or office that approves, no person's name.")
@click.option(
    "--from", "first", type=DAY, metavar="DATE", help="First local day it holds; by default the day of the proposal."
)
@click.option("--why", default="", help="What is to be remembered of the decision.")
@click.option("--add", multiple=True, metavar="CUSTOMER", help="Put on the list whom the rules do not propose.")
@click.option("--drop", multiple=True, metavar="CUSTOMER", help="Leave off the list whom the rules propose, or keep.")
@click.argument("name", metavar="LIST")
def approve(
    home: Path, by: str, first: datetime | None, why: str, add: Sequence[str], drop: Sequence[str], name: str
) -> None:
    """Approve of a list as proposed: whoever is to be added is, whoever is to be removed is no more.

    The decision is kept in <home>/lists for ever; a later one counts from its own day on. The warehouse follows at
    once.
    """
    from metering.registry.lists import Decision
    from orchestration.batch.materialise import materialise
    from sinks.lists import keep_decision

    rows = _published(home, name)
    as_of: date = rows["as_of"][0]
    members = _members(home, rows, name, add, drop, why)
    decision = Decision(
        list=name,
        valid_from=first.date() if first else as_of,
        by=_said(by),
        at=datetime.now(UTC).replace(microsecond=0),
        why=why,
        members=tuple(members),
    )
    kept = keep_decision(home, decision)
    click.echo(f"{name}: {len(members)} customers from {decision.valid_from} on, approved by {by}; kept as {kept}")
    materialise(home, as_of, as_of, assets=("customer_lists", "warehouse"))


def _said(by: str) -> str:
    if not by.strip():
        raise UserError("--by: name the role or the office that approves")
    return by.strip()


def _published(home: Path, name: str | None) -> pl.DataFrame:
    """Rows of customer_lists as published; refuses a list that there is not."""
    import polars as pl

    from metering.tables.lists import CUSTOMER_LISTS
    from orchestration.home.settings import load_settings
    from sinks.marts import Marts

    settings = load_settings(home).lists
    known = dict.fromkeys(settings.profile[profile].list for profile in settings.in_force)
    rows = Marts(home).scan(CUSTOMER_LISTS).collect()
    if rows.is_empty():
        raise UserError("nothing is proposed yet: run `kilowatch materialize --from DATE --to DATE` first")
    if name is None:
        return rows
    known |= dict.fromkeys(rows["list"].unique(maintain_order=True))
    if name not in known:
        raise UserError(f"there is no list '{name}'; there are {', '.join(known)}")
    of_list = rows.filter(pl.col("list") == name)
    if of_list.is_empty():
        raise UserError(f"nobody is on the list '{name}', and nobody is proposed for it (as of {rows['as_of'][0]})")
    return of_list


def _members(
    home: Path, rows: pl.DataFrame, name: str, add: Sequence[str], drop: Sequence[str], why: str
) -> list[Member]:
    import polars as pl

    from metering.registry.lists import BY_HAND, Member
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings

    as_of = rows["as_of"][0]
    holds = (pl.col("valid_from") <= as_of) & pl.col("valid_to").is_null()
    wanted = rows.filter(((pl.col("change") == "add") | (holds & pl.col("change").is_null())).fill_null(False))
    members = {
        row["customer_no"]: Member(**{key: row[key] for key in ("customer_no", "rule_profile", "reason")})
        for row in wanted.iter_rows(named=True)
    }
    there = {*load(home, load_settings(home)).customers_on(as_of)["customer_no"]}
    for customer in add:
        if customer not in there:
            raise UserError(f"--add {customer}: there is no such customer on {as_of}")
        members.setdefault(customer, Member(customer_no=customer, rule_profile=BY_HAND, reason=why or "put on by hand"))
    for customer in drop:
        if members.pop(customer, None) is None:
            raise UserError(f"--drop {customer}: the customer is not on the list '{name}', nor proposed for it")
    return list(members.values())
