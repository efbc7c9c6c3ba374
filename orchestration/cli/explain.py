"""`kilowatch explain`: one figure of the warehouse, walked back to its readings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from metering.errors import UserError
from orchestration.cli import home_option


@click.command("explain")
@home_option
@click.option("--as-of", "as_of", help="As it was known at this data time, such as 2026-03-03T08:00.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.argument("table")
@click.argument("key_and_column", nargs=-1, required=True)
def command(home: Path, as_of: str | None, as_json: bool, table: str, key_and_column: tuple[str, ...]) -> None:
    """Say why a figure is what it is: its meaning and clause, the settings in force, what it was made from down to the
    readings, estimates, edits and restatements on the way.

    KEY is the table's key in its order, or column=value; COLUMN comes last. For example:
    kilowatch explain daily_load C00001 2026-03-02 energy_kwh
    """
    from orchestration.explain import explain, instant_of
    from orchestration.home.settings import load_settings

    settings = load_settings(home)
    *key, column = key_and_column
    if not key:
        raise UserError("give the row's key and then the column: kilowatch explain TABLE KEY... COLUMN")
    try:
        at = instant_of(as_of, settings.timezone) if as_of else None
    except ValueError as error:
        raise UserError(f"--as-of '{as_of}' is no time such as 2026-03-03T08:00") from error
    found = explain(home, settings, table, key, column, at)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2, default=_json))
        return
    zone = ZoneInfo(settings.timezone)
    for line in _lines(found, zone):
        click.echo(line)


def _json(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _lines(found: Mapping[str, Any], zone: ZoneInfo) -> Iterator[str]:
    key = ", ".join(f"{name} {_shown(value, zone)}" for name, value in found["key"].items())
    unit = f" {found['unit']}" if found["unit"] else ""
    yield f"{found['table']}.{found['column']} = {_shown(found['value'], zone)}{unit}"
    yield f"  of {key}"
    if found["as_of"]:
        yield f"  as known at {_shown(found['as_of'], zone)}"
    yield f"  {found['meaning']}"
    for name, value in found["beside"].items():
        if value not in (None, ""):
            yield f"  {name}: {_shown(value, zone)}"
    yield from _restated(found["restated"], zone)
    for section, value in found["settings"].items():
        yield f"Settings in force: [{section}]"
        yield from _setting(value)
    for step in found["inputs"]:
        yield from _step(step, zone)
    if found["edits"]:
        yield "Edits"
    for edit in found["edits"]:
        yield f"  {_pairs(edit, zone)}"


def _restated(rows: list[dict[str, Any]], zone: ZoneInfo) -> Iterator[str]:
    if rows:
        yield "Restated"
    for row in rows:
        yield f"  {_shown(row['restated_at'], zone)}: {row['before']} -> {row['after']} ({row['cause']})"


def _setting(value: Any) -> Iterator[str]:
    rows = value if isinstance(value, list) else [value]
    for row in rows[:6]:
        if isinstance(row, Mapping):
            parts = [f"{k} = {_brief(v)}" for k, v in row.items() if v not in (None, "", [], {})]
            yield f"  {'; '.join(parts)}"
        else:
            yield f"  {_brief(row)}"
    if len(rows) > 6:
        yield f"  and {len(rows) - 6} more (--json has all)"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=_json)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _step(step: Mapping[str, Any], zone: ZoneInfo) -> Iterator[str]:
    yield f"From {step['table']}: {step['rows']:,} rows"
    for name, figure in step["figures"].items():
        yield f"  {name}: " + ", ".join(f"{kind} {_shown(value, zone)}" for kind, value in figure.items())
    if late := step.get("revised_rows"):
        yield f"  {late:,} rows that were revised"
    for status in step.get("statuses", ()):
        yield f"  {_pairs(status, zone)}"
    for place in step.get("places", ()):
        yield (
            f"  {place['meter_id']}: {place['readings']:,} readings from {place['source']} "
            f"[{place['source_partition']}] {place['first_offset']}-{place['last_offset']}"
        )
    for row in step["some"]:
        yield f"    {_pairs(row, zone)}"


def _pairs(row: Mapping[str, Any], zone: ZoneInfo) -> str:
    return ", ".join(f"{name} {_shown(value, zone)}" for name, value in row.items() if value is not None)


def _shown(value: Any, zone: ZoneInfo) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, datetime):
        return value.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.1f}"
    return str(value)
