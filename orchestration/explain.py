"""Why a figure of the warehouse is what it is: the walk from its row back to readings.

Here: finding the row, and of every table that it is made from the rows that are about the same customers and time, down
to the lake's readings, with edits, estimates, restatements and the settings in force. Not here: which rows those are
(`metering.explain`), how it is shown (`orchestration.cli.explain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from assets.catalogue import RESULTS
from metering.errors import UserError
from metering.events.feedback import with_feedback, with_raising
from metering.events.grouping import with_storms
from metering.explain.as_known import as_known
from metering.explain.reach import ALWAYS, Reach, reach_of, within
from metering.kpi.catalogue import METER_DAYS
from metering.tables import LAKE, TIMESTAMP, Column, Table, warehouse
from metering.tables.batch import BATCH
from metering.tables.evidence import RESTATEMENTS
from orchestration.home.settings import Settings
from sinks.edits import load_edits
from sinks.lake.reader import LakeReader, current
from sinks.marts import Marts

SHOWN_ROWS = 5
_SETTINGS = {
    "batch_windows": ("slots", "plausibility"),
    "meter_curve": ("vee", "plausibility"),
    "daily_curve": ("vee",),
    "daily_load": ("tariffs",),
    "load_indices": ("tariffs", "load_rate"),
    "customer_lists": ("lists",),
    "voltage_daily": ("voltage",),
    "voltage_weekly": ("voltage_quality",),
    "voltage_monthly": ("voltage",),
    "unbalance_daily": ("voltage_quality",),
    "power_factor_monthly": ("power_factor",),
    "demand_daily": ("slots",),
    "demand_monthly": ("settlement",),
    "charges_monthly": ("tariffs", "prices", "basic_charge", "settlement", "power_factor"),
    "bill_check": ("settlement",),
    "violations": ("alarms",),
    "metering_faults": ("metering_faults",),
    "meter_events": ("meter_events",),
    "load_control": ("control",),
    "load_control_daily": ("control",),
    "forecast": ("forecast",),
    "forecast_accuracy": ("forecast",),
}
"""Sections of the settings that a step goes by."""
_JUDGED_BY = {"violations": ("readings",), "metering_faults": ("readings",)}
"""What the stream judged, where a table only takes over what it said."""
_METER_DAYS = ("meter_daily", "voltage_daily", "rule_observability")
_AMOUNTS = ("kWh", "kvarh", "min", "h", "yuan", "kVAh")
_KNOWN_BY_REVISION = ("windows", "violations", "compliance", "load_control")
_SHOWN_STEPS = 12


def explain(
    home: Path, settings: Settings, name: str, key: Sequence[str], column: str, as_of: datetime | None = None
) -> dict[str, Any]:
    """Everything that is known of one figure, ready for JSON.

    `key`: values of the table's key columns in their order, or `column=value` of any columns, such that one row is
    left. `as_of`: a data time; then everything is as it was known there. Raises UserError where there is no such table,
    column or row.
    """
    return Walk(home, settings, as_of).explained(name, key, column)


class Walk:
    """Explains figures of a home as it is now; what was read for a row is kept for its other columns."""

    def __init__(self, home: Path, settings: Settings, as_of: datetime | None) -> None:
        self.settings, self.as_of = settings, as_of
        self.marts, self.lake, self.home = Marts(home), LakeReader(home), home
        self.tables = {**BATCH, **warehouse(settings.metering.periods)}
        self.results = {result.asset: result for result in RESULTS}
        self.restatements = self.marts.scan(RESTATEMENTS).collect()
        self._read: tuple[Reach | None, dict[str, pl.DataFrame]] = None, {}

    def explained(self, name: str, key: Sequence[str], column: str) -> dict[str, Any]:
        table = self._table(name)
        if column not in table.names:
            raise UserError(f"{name} has no column {column}; it has {', '.join(table.names)}")
        row = self._row(table, key)
        customers, meters = (self.marts.scan(self.tables[n]).collect() for n in ("customers", "meters"))
        reach = reach_of(row, table, customers, meters, self.settings.timezone)
        if reach != self._read[0]:
            self._read = reach, {}
        told = table.column(column)
        result = next((r for r in RESULTS if r.table == name), None)
        found: dict[str, Any] = {
            "table": name,
            "key": {part: row[part] for part in table.key},
            "column": column,
            "value": row[column],
            "unit": told.unit,
            "meaning": told.comment,
            "table_meaning": table.meaning,
            "beside": {n: row[n] for n in ("status", "rule", "reason", "ruleset", "basis") if n in row and n != column},
            "as_of": self.as_of,
            "settings": self._in_force(result.asset if result else name, reach),
            "restated": self._restated(table, row, column),
        }
        deps, lake = (result.deps, (*result.lake, *_JUDGED_BY.get(name, ()))) if result else ((), ())
        if name == "kpi" and (kpi := self.settings.kpi.get(str(row["kpi_id"]))):
            found["settings"]["kpi"] = {str(row["kpi_id"]): _plain(kpi)}
            deps = _METER_DAYS if kpi.source == METER_DAYS.name else (kpi.source,)
        if rule := self.settings.metering.rules.by_id.get(str(row.get("rule") or "")):
            found["settings"]["rules"] = _plain(rule)
        if alarm := self.settings.metering.control.alarms.get(str(row.get("rule") or "")):
            found["settings"]["control"] = _plain(alarm)
        found["inputs"] = list(self._inputs(deps, lake, told, reach))
        found["edits"] = self._edits(reach)
        return found

    def _table(self, name: str) -> Table:
        known = warehouse(self.settings.metering.periods)
        if name not in known:
            raise UserError(f"there is no table {name}; there are {', '.join(sorted(known))}")
        return known[name]

    def _row(self, table: Table, key: Sequence[str]) -> dict[str, Any]:
        wanted = pl.lit(True)
        for number, part in enumerate(key):
            name, sign, text = part.partition("=")
            if not sign or name not in table.names:
                if number >= len(table.key):
                    raise UserError(f"{table.name} has the key {', '.join(table.key)}; {part} is one too many")
                name, text = table.key[number], part
            wanted &= _cell(table.column(name), text, self.settings.timezone)
        rows = self._known(table, self.marts.scan(table).filter(wanted).collect())
        if rows.is_empty():
            when = f" as of {self.as_of.isoformat()}" if self.as_of else ""
            raise UserError(f"{table.name} has no row {' '.join(key)}{when}; its key is {', '.join(table.key)}")
        if rows.height > 1:
            raise UserError(
                f"{table.name} has {rows.height:,} rows {' '.join(key)}: give all of its key, {', '.join(table.key)}"
            )
        return rows.row(0, named=True)

    def _known(self, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
        if self.as_of is None or table.name not in self.tables:
            return rows
        return as_known(table, rows, self.restatements, self.as_of, self.settings.timezone)

    def _restated(self, table: Table, row: Mapping[str, Any], column: str) -> list[dict[str, Any]]:
        text = ", ".join(f"{part}={_text(row[part])}" for part in table.key)
        mine = self.restatements.filter(
            pl.col("table_name") == table.name, pl.col("key") == text, pl.col("column") == column
        )
        if self.as_of is not None:
            mine = mine.filter(pl.col("restated_at") <= self.as_of)
        return mine.sort("restated_at", "number").select("restated_at", "before", "after", "cause").to_dicts()

    def _in_force(self, asset: str, reach: Reach) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for section in _SETTINGS.get(asset, ()):
            value = getattr(self.settings, section, None)
            if value is not None:
                found[section] = _of_day(value, reach.last)
        return found

    def _inputs(
        self, deps: Iterable[str], lake: Iterable[str], told: Column, reach: Reach, seen: set[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Each table that a figure is made from, nearest first, and those that this is made from in turn."""
        seen = set() if seen is None else seen
        next_deps: list[str] = []
        next_lake: list[str] = [*lake]
        for asset in deps:
            result = self.results.get(asset)
            if result is None or asset in seen or len(seen) >= _SHOWN_STEPS:
                continue
            seen.add(asset)
            table = self.tables[result.table] if asset != "batch_windows" else BATCH["windows"]
            rows = self._rows_of(asset, table, reach)
            yield {"table": asset, **_summary(table, rows, told)}
            next_deps += result.deps
            next_lake += result.lake
        if next_deps:
            yield from self._inputs(next_deps, next_lake, told, reach, seen)
            return
        for name in dict.fromkeys(next_lake):
            yield self._of_lake(name, told, reach)

    def _rows_of(self, asset: str, table: Table, reach: Reach) -> pl.DataFrame:
        kept = self._read[1]
        if asset not in kept:
            kept[asset] = self._known(table, self.marts.scan(table).filter(within(table, reach)).collect())
        return kept[asset]

    def _lake_rows(self, name: str, reach: Reach) -> pl.DataFrame:
        table, kept = LAKE[name], self._read[1]
        if (place := f"lake {name}") in kept:
            return kept[place]
        days = [day for day in self.lake.dates(name) if reach.start <= ALWAYS[0] or reach.first <= day <= reach.last]
        with self.lake.held():
            rows = self.lake.scan(name, days).filter(within(table, reach))
            known = [n for n in ("logged_at", "at", "window_end") if n in table.names]
            if self.as_of is not None and known:
                at = pl.coalesce([pl.col(n) for n in ("logged_at", "ts", *known) if n in table.names])
                rows = rows.filter(at <= self.as_of)
            kept[place] = rows.collect()
        return kept[place]

    def _of_lake(self, name: str, told: Column, reach: Reach) -> dict[str, Any]:
        table, found = LAKE[name], self._lake_rows(name, reach)
        if name in _KNOWN_BY_REVISION:
            late = {"revised_rows": int((found["revision"] > 0).sum())}
            found = current(found.lazy(), table.key).collect()
            return {"table": f"lake {name}", **late, **_summary(table, found, told)}
        if name != "readings":
            return {"table": f"lake {name}", **_summary(table, found, told)}
        places = found.group_by("meter_id", "source", "source_partition").agg(
            pl.len().alias("readings"),
            pl.col("ts").min().alias("first_ts"),
            pl.col("ts").max().alias("last_ts"),
            pl.col("source_offset").min().alias("first_offset"),
            pl.col("source_offset").max().alias("last_offset"),
        )
        return {
            "table": "lake readings",
            **_summary(table, found, told),
            "places": places.sort("meter_id", "source", "source_partition").head(4 * SHOWN_ROWS).to_dicts(),
        }

    def _edits(self, reach: Reach) -> list[dict[str, Any]]:
        edits = load_edits(self.home)
        mine = edits.filter((pl.col("window_end") > reach.start) & (pl.col("window_end") <= reach.end))
        if reach.meters is not None:
            mine = mine.filter(pl.col("meter_id").is_in(list(reach.meters)))
        if self.as_of is not None:
            mine = mine.filter(pl.col("at") <= self.as_of)
        return mine.select("meter_id", "window_end", "energy_kwh", "by", "at", "why").to_dicts()


def known_tables(home: Path, settings: Settings, at: datetime) -> dict[str, pl.DataFrame]:
    """Of the warehouse's tables those that were otherwise at the data time `at` than rows of time then over are now."""
    marts, lake = Marts(home), LakeReader(home)
    tables = warehouse(settings.metering.periods)
    restatements = marts.scan(RESTATEMENTS).collect()
    since = restatements.filter(pl.col("restated_at") > at)
    found = {"restatements": restatements.filter(pl.col("restated_at") <= at)}
    for name in since["table_name"].unique():
        if table := tables.get(name):
            found[name] = as_known(table, marts.scan(table).collect(), since, at, settings.timezone)
    with lake.held():
        told = lake.scan("violations").filter(pl.col("at") <= at).collect()
        feedback = lake.scan("feedback").filter(pl.col("at") <= at).collect()
    then = with_raising(current(told.lazy(), LAKE["violations"].key).collect(), told)
    said = with_feedback(with_storms(then, settings.metering.alarms), feedback)
    found["violations"] = tables["violations"].conform(said)
    return found


def _cell(column: Column, text: str, timezone: str) -> pl.Expr:
    own = pl.col(column.name)
    try:
        if column.dtype == pl.Date:
            return own == date.fromisoformat(text if len(text) > 7 else f"{text}-01"[:10])
        if column.dtype == TIMESTAMP:
            return own == instant_of(text, timezone)
        if column.dtype == pl.String:
            return own == text
        return own == pl.lit(text).cast(column.dtype)
    except (ValueError, pl.exceptions.PolarsError) as error:
        kind = "a day such as 2026-03-02" if column.dtype == pl.Date else f"a {column.dtype}"
        raise UserError(f"{column.name}: '{text}' is not {kind}") from error


def instant_of(text: str, timezone: str) -> datetime:
    """A moment: with an offset, or of the home's local time. Raises ValueError."""
    from zoneinfo import ZoneInfo

    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=ZoneInfo(timezone))).astimezone(UTC)


def _text(value: object) -> str:
    return str(pl.select(pl.lit(value).cast(pl.String)).item())


def _summary(table: Table, rows: pl.DataFrame, told: Column) -> dict[str, Any]:
    """How many rows there are, what the columns like the one that is explained add up to, statuses, some rows."""
    same = [c.name for c in table.columns if c.name == told.name]
    alike = [c.name for c in table.columns if told.unit and c.unit == told.unit and c.dtype == pl.Float64]
    numeric = [c.name for c in table.columns if c.dtype == pl.Float64 and c.unit]
    shown = list(dict.fromkeys([*same, *alike]))[:6] or numeric[:4]
    figures = {
        name: {**_total(table, name, rows), "min": rows[name].min(), "max": rows[name].max()}
        for name in shown
        if rows.schema[name].is_numeric() and rows[name].null_count() < rows.height
    }
    found: dict[str, Any] = {"meaning": table.meaning, "rows": rows.height, "figures": figures}
    if "status" in rows.columns and rows.height and rows.schema["status"] == pl.String:
        by = [name for name in ("status", "rule", "reason") if name in rows.columns]
        counted = rows.group_by(by).agg(pl.len().alias("rows")).sort("rows", *by, descending=True)
        found["statuses"] = counted.head(2 * SHOWN_ROWS).to_dicts()
    key = [name for name in ("meter_id", "customer_no", "ts", *table.key) if name in rows.columns]
    names = list(dict.fromkeys([*key, *shown, *(n for n in ("status", "reason") if n in rows.columns)]))
    order = [name for name in key if name in rows.columns]
    ordered = rows.select(names).sort(order)
    some = ordered if ordered.height <= SHOWN_ROWS else pl.concat([ordered.head(SHOWN_ROWS - 2), ordered.tail(2)])
    return {**found, "some": some.to_dicts()}


def _total(table: Table, name: str, rows: pl.DataFrame) -> dict[str, Any]:
    """A sum, where one means something: of amounts, not of levels or registers."""
    adds_up = table.column(name).unit in _AMOUNTS and table is not LAKE["readings"]
    return {"sum": rows[name].sum()} if adds_up else {}


def _of_day(value: Any, day: date) -> Any:
    """Of effective-dated rows those in force on a day; of anything else all."""
    if isinstance(value, tuple):
        dated = [row for row in value if getattr(row, "effective_from", None) is not None]
        if dated:
            newest: dict[Any, Any] = {}
            for row in sorted(dated, key=lambda each: each.effective_from):
                if row.effective_from <= day:
                    newest[getattr(row, "name", "")] = row
            return [_plain(row) for row in newest.values()]
        return [_plain(row) for row in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {k: _plain(v) for k, v in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    return value
