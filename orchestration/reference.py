"""The reference pages in docs/, generated from the declarations: tables, KPIs, rules, settings.

`python -m orchestration.reference` writes them; a test says that they are current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path

import polars as pl

from assets.catalogue import RESULTS
from metering.kpi.catalogue import METER_DAYS, from_days, sources
from metering.settings import Kpi
from metering.tables import LAKE, TIMESTAMP, Column, Table, warehouse
from metering.tables.records import FIGURES, KINDS, LINES, MONEY, NAMES, Field, RecordKind
from metering.tables.views import View, views
from orchestration.home.settings import Settings, explained_defaults, load_settings
from orchestration.reference_rules import NOTE, grid, rules_page
from sinks import schemas

DOCS = Path(__file__).parents[1] / "docs"


_RECORDS_HEAD = """# Records: what is read besides telemetry

A record is a JSON object. With `kilowatch stream --kafka` records come from topics (compacted; missing ones are
created; their names are settings, `[topics]`), one to a message or several by newlines; and at each start, in
either mode, from the `*.ndjson`, `*.jsonl` and `*.json` files of the home's folders below, each read on from where
it was left. What is there at a start comes before any reading; beside topics, what comes into the folders later is
taken within a minute, once it has not changed for 20 s (better: write it elsewhere, and move it in).

Types are strict: a number where a string belongs is a reject, times are RFC 3339 with an offset or epoch
milliseconds, money is decimal text. Fields that are not listed are left out. A bad line is rejected alone, with
reason and bytes, into `rejects`: `missing_field`, `bad_value`, `unknown_type` beside those of readings. A tombstone
is housekeeping of its topic, and no record.

Each record is in the lake once, whatever ends the stream: the place in its log is committed together with it. A
record may come late, twice and out of order. All of them stay in the lake's table; of several with one key the last
counts, by its own revision or time, then by its place in the log. Where a topic no longer holds the next offset, or
was made anew, it is read from its beginning: a topic of records says how things are, and nothing in it is missed by
that.

Plans and outages are known to every process of a stream, whichever partition they are in.

Of feedback, the batch joins the last word of each kind to `violations`; `alarm_handling` and two KPIs follow. What
speaks of no alarm, or in an order that cannot be, is told in `quality_results`: `unknown_alarm`,
`impossible_order`, `confirmed_and_false`.
"""
_KPI_HEAD = (
    "# KPIs\n\nTable `kpi`: numerator, denominator, value, target, status and coverage, for each day and month, in "
    "each scope. No data is never a pass: its status is `no_data`.\n\nThe table's rows are `metering/kpi/kpis.toml`; a "
    "home overrides single values in its kilowatch.toml (`[kpi.power_factor]`, `target = 0.92`), and adds rows of its "
    "own.\n\n"
)
_KPI_OWN = """
## A KPI of your own

```toml
[kpi.undervoltage_share]
name_zh = "欠压时间占比"
name_en = "Share of under-voltage minutes"
meaning = "Phase-minutes below the lower limit of monitored phase-minutes"
unit = "%"
source = "voltage_daily"
numerator = "sum(under_min)"
denominator = "sum(monitored_min)"
scopes = ["customer", "feeder", "whole"]
direction = "at_most"
target = 0.5
```

"""
_MANY = 12
"""Tables made from more than this are not drawn: KPIs may be counted from any."""
_LINEAGE = """### Which table from which

Everything comes from the lake and the registry, by these steps; `batch_windows` and `meter_curve` stand between and are
not in the warehouse. `kpi` may be counted from any table; `quality_results` and `restatements` are written with each.

"""
_VIEWS = """A view is asked like a table: `kilowatch query "FROM voltage_worst"`; `kilowatch query --list` shows all of
them. "Newest" is of the data, never of a clock.

"""
_KPI_KEYS = {
    "name_zh": "name in Chinese",
    "name_en": "name in English",
    "meaning": "what is counted, in words",
    "unit": "%: the value is numerator / denominator x 100; any other: the quotient itself",
    "source": "the table whose rows are counted, see below",
    "numerator": "SQL aggregate over the source's columns, and `quarter_hours` of the local day",
    "denominator": "likewise; a value needs one above 0",
    "decimals": "that the value is printed with",
    "rounded": "the value itself is rounded to them, half up",
    "coverage": "share of what should have been looked at that was: SQL aggregate, 0 to 1",
    "dated_by": "column that says which day or month a row belongs to; empty: `date`, else `month`",
    "scopes": "kinds of scope that it has rows for",
    "additive": "whether a month is the sum of its days",
    "month_source": "where a month's rows come from if not; empty: the source itself",
    "direction": "`at_least` or `at_most` the target",
    "weight": "its share where several are put together",
    "target": "in `unit`; none: neither met nor missed",
    "clause": "where the target comes from",
}
_KPI_SCOPES = """## Scopes

| `scope` | kind | which |
| --- | --- | --- |
| `*` | `whole` | all customers |
| `100001` | `customer` | one customer, by its number |
| `segment:large` | `segment` | customers of a segment |
| `feeder:10kV-01` | `feeder` | customers on a feeder |
| `voltage_level_kv:10` | `voltage_level_kv` | customers of a supply voltage level, kV |
| `manager:城东供电所` | `manager` | customers that a role or office looks after |

A group counts the rows of its customers together; who is in none (no feeder, say) counts for `*` alone. Where a table
has rows of `*` itself, such as `forecast_accuracy`, those are its.

## Sources

"""


def pages(settings: Settings) -> dict[str, str]:
    """Content of each generated page, by its name in docs/."""
    return {
        "tables.md": _tables(settings),
        "kpi.md": _kpis(settings),
        "rules.md": rules_page(settings.rulebook),
        "settings.md": _settings(),
        "records.md": _records(),
    }


def _tables(settings: Settings) -> str:
    periods = settings.metering.periods
    tables = warehouse(periods)
    lake = "".join(_table(table) for table in LAKE.values())
    house = "".join(_table(table, _made_from(name)) for name, table in tables.items())
    answers = "".join(_view(view, tables) for view in views(tables.values(), periods).values())
    return (
        f"{NOTE}# Tables\n\n"
        "Times are UTC instants, labelled by the end of their interval; `date` and `month` are local dates.\n\n"
        "## The lake: `<home>/lake/<table>/date=YYYY-MM-DD/*.parquet`\n\n"
        "`date` is the folder's name. `windows`, `violations` and `compliance` are append-only with revisions: the row "
        f"with the highest `revision` of a key is the current one.\n\n{lake}"
        "## The warehouse: `<home>/warehouse.duckdb`\n\n"
        f"Time-of-use periods of the default settings: {', '.join(f'`{p}`' for p in periods)}.\n\n"
        f"{_LINEAGE}```mermaid\n{_picture()}```\n\n{house}"
        f"## Views: first answers\n\n{_VIEWS}{answers}"
    )


def _made_from(table: str) -> str:
    """What a table of the warehouse is computed from."""
    result = next((result for result in RESULTS if result.table == table), None)
    if result is None:
        return "Made from: what every table above finds, or changes, while it is made.\n\n"
    if len(result.deps) > _MANY:
        return "Made from: any table of a customer and a day or month, as its rows say.\n\n"
    names = [f"`{name}`" for name in result.deps] + [f"the lake's `{name}`" for name in result.lake]
    return f"Made from: {', '.join(names) or 'the registry'}.\n\n"


def _picture() -> str:
    """The lineage as a Mermaid flowchart: lake, steps between, tables."""
    drawn = [result for result in RESULTS if len(result.deps) <= _MANY]
    lake = sorted({name for result in drawn for name in result.lake})
    nodes = [f"  lake_{name}[(lake: {name})]\n" for name in lake]
    arrows = [f"  {dep} --> {result.asset}\n" for result in drawn for dep in result.deps]
    arrows += [f"  lake_{name} --> {result.asset}\n" for result in drawn for name in result.lake]
    return "".join(["flowchart LR\n", *nodes, "  registry[/registry/] --> customers & meters\n", *arrows])


def _view(view: View, tables: Iterable[str]) -> str:
    read = [name for name in tables if re.search(rf"\b{name}\b", view.sql)]
    listed = "every table" if view.name == "freshness" else ", ".join(f"`{name}`" for name in read)
    rows = ([f"`{column.name}`", column.unit, column.meaning] for column in view.columns)
    columns = grid(("column", "unit", "meaning"), rows)
    return f"### {view.name}\n\n{view.meaning}\n\nReads: {listed}\n\n{columns}\n"


def _table(table: Table, beside: str = "") -> str:
    key = ", ".join(f"`{name}`" for name in table.key)
    rows = ([f"`{c.name}`", str(c.dtype), c.unit, _with_allowed(c), c.source] for c in table.columns)
    columns = grid(("column", "type", "unit", "meaning", "source"), rows)
    return f"### {table.name}\n\n{table.meaning}\n\nKey: {key}\n\n{beside}{columns}\n"


def _with_allowed(column: Column) -> str:
    return (
        f"{column.meaning}; one of {', '.join(f'`{value}`' for value in column.allowed)}"
        if column.allowed
        else column.meaning
    )


def _kpis(settings: Settings) -> str:
    known = sources(warehouse(settings.metering.periods))
    rows = [
        [
            f"`{kpi_id}`",
            kpi.name_zh,
            kpi.name_en,
            kpi.meaning,
            kpi.unit,
            f"{'at most' if kpi.direction == 'at_most' else 'at least'} {kpi.target:g}"
            if kpi.target is not None
            else "",
            f"{kpi.weight:g}",
            f"`{kpi.source}`",
            ", ".join(kpi.scopes),
            "sum of its days" if from_days(kpi, known[kpi.source]) else f"`{kpi.month_source or kpi.source}`",
            kpi.clause,
        ]
        for kpi_id, kpi in settings.kpi.items()
    ]
    heads = ("kpi_id", "指标", "name", "counts", "unit", "target", "weight", "source", "scopes", "month", "clause")
    keys = grid(("key", "default", "meaning"), _kpi_keys())
    tables = f"Tables: {', '.join(f'`{name}`' for name in known)}.\n\n{_table(METER_DAYS)}"
    return f"{NOTE}{_KPI_HEAD}{grid(heads, rows)}{_KPI_OWN}{keys}\n{_KPI_SCOPES}{tables}"


def _kpi_keys() -> Iterable[tuple[str, str, str]]:
    for field in fields(Kpi):
        default = "required" if field.default is MISSING else f"`{_toml(field.default)}`"
        yield f"`{field.name}`", default, _KPI_KEYS[field.name]


def _toml(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _records() -> str:
    return f"{NOTE}{_RECORDS_HEAD}{''.join(map(_record_kind, KINDS.values()))}"


def _record_kind(kind: RecordKind) -> str:
    rows = (
        [f"`{f.name}`", f"`{f.column.name}`", _shape(f), "required" if f.required else "", f.column.comment]
        for f in kind.fields
    )
    listed = grid(("field", "column", "type", "", "meaning"), rows)
    variants = [
        [f"`{name}`", ", ".join(f"**`{field}`**" if must else f"`{field}`" for field, must in own.items())]
        for name, own in kind.variants.items()
    ]
    of_types = f"\nFields of each `{kind.variant}` (bold: required):\n\n{grid((kind.variant, 'fields'), variants)}"
    return (
        f"\n## {kind.table.name}: topic `{kind.topic}`, folder `<home>/{kind.folder}/`\n\n{kind.table.meaning} "
        f"Message key: `{'/'.join(kind.key)}`. [JSON Schema](../sinks/schemas/{kind.file}).\n\n"
        f"{listed}{of_types if variants else ''}"
    )


def _shape(field: Field) -> str:
    if field.month:
        return "YYYY-MM"
    shapes = {
        pl.String(): "string", pl.Float64(): "number", pl.Int32(): "integer", pl.Boolean(): "true, false",
        TIMESTAMP: "time", pl.Date(): "YYYY-MM-DD", NAMES: "strings", FIGURES: "number, or numbers by name",
        MONEY: "decimal text", LINES: "objects",
    }  # fmt: skip
    return next(said for dtype, said in shapes.items() if dtype == field.column.dtype)


def _settings() -> str:
    return (
        f"{NOTE}# Settings\n\n`<home>/kilowatch.toml` overrides these key by key (lists are replaced whole), and "
        "environment variables override that: `KILOWATCH_STREAM__COMMIT_INTERVAL_S=5`. "
        f"`kilowatch init` writes a commented copy.\n\n```toml\n{explained_defaults()}```\n"
    )


def write() -> None:
    """Write the pages in docs/ anew."""
    for name, text in pages(load_settings(Path("a-home-without-settings"))).items():
        (DOCS / name).write_text(text, "utf-8")


def write_home(settings: Settings, folder: Path) -> list[Path]:
    """Write a home's own reference: the pages, and the JSON Schemas of its topics, with its own rules and tariffs."""
    files = {folder / name: text for name, text in pages(settings).items()}
    files |= schemas.texts(settings.rulebook, folder / "schemas")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(files)


if __name__ == "__main__":
    write()
