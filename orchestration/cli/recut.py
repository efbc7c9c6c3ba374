"""`kilowatch recut`: results anew after a change of the registry, or of settings, for a time that is past."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestration.cli import home_option

if TYPE_CHECKING:
    from orchestration.home.settings import Settings

_TABLES = ("windows", "violations", "compliance", "load_control")


@click.command("recut")
@home_option
@click.option("--kafka", is_flag=True, help="Put the result topics right too: of a home that streams from Kafka.")
@click.option("--materialize/--no-materialize", default=True, help="Then materialise the days that change, or not.")
def command(home: Path, kafka: bool, materialize: bool) -> None:
    """Cut windows, violations, compliance and load control anew, under the registry and settings of today.

    For a registry, or settings (intervals, ratios, limits, plausibility), that were wrong for a time that is past: the
    lake's readings go through the stream's own turns again, and what comes out otherwise is emitted again with a higher
    revision; readings stay as they came. The stream must be stopped meanwhile. Broken off, it can simply be repeated.
    A home's time zone cannot be changed so: its days are the lake's folders.
    """
    from orchestration.home.settings import load_settings

    settings = load_settings(home)
    changed = _recut(home, settings, kafka)
    days = [*changed]
    for name in _TABLES:
        if count := sum(tables.get(name, 0) for tables in changed.values()):
            click.echo(f"{name}: {count:,} rows emitted again")
    if not days:
        click.echo("nothing differs: all results are those of today's registry and settings")
    if materialize:
        _materialise(home, days)
    elif days:
        click.echo(f"now `kilowatch materialize --from {days[0]} --to {days[-1]}`")


def _recut(home: Path, settings: Settings, kafka: bool) -> dict[date, dict[str, int]]:
    from orchestration.progress import progress_bar
    from orchestration.stream.recut import recut

    with progress_bar() as bar:
        task = bar.add_task("cutting", total=None)
        return recut(
            home,
            settings,
            kafka,
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )


def _materialise(home: Path, changed: list[date]) -> None:
    """Days that have been materialised before, from the first that changed or was refused: later ones look back."""
    from orchestration.cli.materialize import materialize
    from sinks.marts import Marts

    known = Marts(home).days("meter_curve")
    first = min([*changed, *Marts(home).refused()], default=None)
    days = [day for day in known if first is not None and day >= first]
    if days:
        materialize(home, days[0], days[-1])
