"""`kilowatch whatif`: the lake's readings under other rules, so that thresholds are tuned on evidence."""

from __future__ import annotations

import tomllib
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metering.errors import UserError
from orchestration.cli import home_option

if TYPE_CHECKING:
    import polars as pl

    from metering.settings import MeteringSettings
    from orchestration.home.settings import Settings

DAY = click.DateTime(formats=["%Y-%m-%d"])
_SHOWN = 20
_RUN_UP_DAYS = 1


@click.command("whatif")
@home_option
@click.option(
    "--rules",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    metavar="NEW.toml",
    help="Rows of [[rules]], as in kilowatch.toml; they are laid over the home's.",
)
@click.option("--from", "first", type=DAY, required=True, metavar="DATE", help="First local day, YYYY-MM-DD.")
@click.option("--to", "last", type=DAY, required=True, metavar="DATE", help="Last local day, included.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where every alarm (whatif.parquet) and the picture (whatif.png) go; default: <home>/whatif.",
)
def command(home: Path, rules: Path, first: datetime, last: datetime, out: Path | None) -> None:
    """Replay the lake under other rules: which alarms appear, vanish or move, by rule and customer, and counts a day.

    Only the rules that differ are judged, once as they are and once as they would be, over readings in order of time.
    Nothing of the home changes. `reading_missing` and `clock_drift` are not among them: they depend on when a reading
    came.
    """
    days = [first.date() + timedelta(days=n) for n in range((last.date() - first.date()).days + 1)]
    if not days:
        raise UserError(f"--to {last.date()} is before --from {first.date()}")
    found = whatif(home, rules, days)
    folder = out or home / "whatif"
    folder.mkdir(parents=True, exist_ok=True)
    found.write_parquet(folder / "whatif.parquet")
    _picture(found, days, folder / "whatif.png", _timezone(home))
    _show(found, days)
    click.echo(f"every alarm: {folder / 'whatif.parquet'}; the picture: {folder / 'whatif.png'}", err=True)


def whatif(home: Path, rules: Path, days: list[date]) -> pl.DataFrame:
    """Alarms of some days as they are and as they would be (`metering.events.whatif.compared`).

    Raises UserError and SettingsError that say which file and row is wrong, and what to do.
    """
    from metering.events.catalogue import told_apart
    from metering.events.whatif import compared, restricted, touched
    from metering.registry.index import MeterIndex
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings
    from sinks.lake.calendar import check_timezone
    from sinks.lake.reader import LakeReader

    settings = load_settings(home)
    check_timezone(home, settings.timezone)
    before = settings.metering
    after = _under(settings, rules)
    names = touched(before.rules, after.rules) - {*told_apart(after.rules)}
    if not names:
        raise UserError(f"{rules}: the rules would be judged as they are: nothing to compare")
    lake, index = LakeReader(home), MeterIndex.of(load(home, settings).meter_versions)
    there = [day for day in lake.dates("readings") if _before(days) <= day <= days[-1]]
    if not any(day in days for day in there):
        raise UserError(f"no readings of {days[0]} to {days[-1]} in {home / 'lake'}: run `kilowatch stream` first")
    own = [restricted(each, names) for each in (before, after)]
    was, would_be = (_of_days(found, days, settings.timezone, names) for found in _replay(lake, index, own, there))
    return compared(was, would_be)


def _before(days: list[date]) -> date:
    """Alarms of the first day may have begun before it."""
    return days[0] - timedelta(days=_RUN_UP_DAYS)


def _under(settings: Settings, path: Path) -> MeteringSettings:
    from dataclasses import replace

    from metering.events.catalogue import rulebook

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    if unknown := sorted(set(content) - {"rules"}):
        raise UserError(f"{path}: {unknown[0]}: only rows of [[rules]] can be tried")
    rows: list[dict[str, Any]] = content.get("rules", [])
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: there are no rows of [[rules]]; docs/rules.md tells of their keys")
    named = [{"version": f"whatif {number}", **row} for number, row in enumerate(rows, 1)]
    return replace(settings.metering, rules=rulebook([*settings.rules, *named], settings.rulesets))


def _replay(lake: Any, index: Any, settings: list[MeteringSettings], days: list[date]) -> list[pl.DataFrame]:
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from pipelines.whatif import replayed

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found: list[pl.DataFrame] = []
    with Progress(*columns, console=Console(file=sys.stderr)) as shown:
        task = shown.add_task("days", total=len(days))
        for done, replays in replayed(lake, index, settings, days):
            shown.update(task, completed=done)
            if done == len(days):
                found = [replay.alarms for replay in replays]
    return found


def _of_days(alarms: pl.DataFrame, days: list[date], timezone: str, names: set[str]) -> pl.DataFrame:
    """Alarms of the rules in question that were going on at some time of the days."""
    import polars as pl

    from metering.calendar import day_bounds

    (start, _), (_, end) = day_bounds(days[0], timezone), day_bounds(days[-1], timezone)
    going_on = (pl.col("started_at") < end) & (pl.col("ended_at").is_null() | (pl.col("ended_at") > start))
    return alarms.filter(going_on, pl.col("rule").is_in(list(names)))


def _timezone(home: Path) -> str:
    from orchestration.home.settings import load_settings

    return load_settings(home).timezone


def _show(found: pl.DataFrame, days: list[date]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from metering.events.whatif import OUTCOMES, counted

    for by, title in (("rule", "by rule"), ("customer_no", "by customer")):
        rows = counted(found, by, len(days))
        shown = f", the {_SHOWN} that differ most" if rows.height > _SHOWN else ""
        table = Table(title=f"{title}{shown}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(by)
        for name in ("now", "then", *OUTCOMES, "now a day", "then a day"):
            table.add_column(name, justify="right")
        for row in rows.head(_SHOWN).iter_rows(named=True):
            counts = (f"{row[name]:,}" for name in ("before", "after", *OUTCOMES))
            table.add_row(str(row[by]), *counts, f"{row['before_a_day']:.2f}", f"{row['after_a_day']:.2f}")
        Console(width=100).print(table)
    if found.is_empty():
        click.echo("no alarm of these rules on these days, neither now nor then")


def _picture(found: pl.DataFrame, days: list[date], path: Path, timezone: str) -> None:
    """Alarms that begin on each day, now and then."""
    import polars as pl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from metering.calendar import local_date
    from metering.events.whatif import APPEARED, VANISHED

    began = pl.coalesce("started_at", "started_at_after")
    rows = found.with_columns(local_date(began, timezone).alias("day"))
    figure = Figure(figsize=(8, 3), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for label, left_out, style in (("now", APPEARED, "-"), ("then", VANISHED, "--")):
        counts = dict(rows.filter(pl.col("outcome") != left_out).group_by("day").len().iter_rows())
        axes.stairs([counts.get(day, 0) for day in days], linestyle=style, linewidth=1.6, label=label)
    every = max(1, len(days) // 10)
    axes.set_xticks([n + 0.5 for n in range(0, len(days), every)], [str(day) for day in days[::every]], rotation=25)
    axes.set(ylabel="alarms that begin", xlim=(0, len(days)), ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
