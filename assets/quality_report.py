"""What checks found on a day, as a page that needs nothing but a browser: `<home>/reports/quality/`.

Here: the pages, Chinese and English. Not here: what is found (`metering.tables.quality`), the checks (`quality`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from html import escape
from pathlib import Path

import polars as pl

from assets.batch import Batch
from metering.tables import Table
from metering.tables.evidence import QUALITY_RESULTS, RECONCILIATION
from sinks.marts import day_partition

_COLUMNS = {
    "table_name": "表 Table", "rule": "规则 Rule", "severity": "等级 Severity", "failing_rows": "行数 Rows",
    "sample": "样例 Such as", "stream_rows": "流计算 Stream", "batch_rows": "批计算 Batch",
    "differing_rows": "差异 Differing",
}  # fmt: skip
_SEVERITIES = {"blocking": "阻断", "error": "剔除", "warning": "告警", "info": "提示"}
_STYLE = (
    "body{font:14px/1.5 sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;width:100%}th,td{border:1px solid #ccc;padding:.3em .6em;text-align:left;"
    "vertical-align:top}th{background:#f2f2f2}.n{text-align:right}.blocking,.error{background:#fde0dc}"
    ".warning{background:#fff3cd}.good{color:#1b7f3b}"
)


def report_path(home: Path, day: date) -> Path:
    return home.resolve() / "reports" / "quality" / f"{day}.html"


def write_reports(batch: Batch, days: Sequence[date]) -> Path:
    """A page for each of `days`, and the list of all pages; gives the path of the list."""
    for day in days:
        found = _of_day(batch, QUALITY_RESULTS, day)
        compared = _of_day(batch, RECONCILIATION, day)
        _replace(report_path(batch.home, day), page(day, found, compared))
    folder = report_path(batch.home, days[-1]).parent
    links = (f'<li><a href="{path.name}">{path.stem}</a></li>' for path in sorted(folder.glob("2*.html"), reverse=True))
    index = folder / "index.html"
    _replace(index, _html("数据质量报告 Quality reports", [f"<ul>{''.join(links)}</ul>"]))
    return index


def page(day: date, found: pl.DataFrame, compared: pl.DataFrame) -> str:
    """The page of `day`: rows of quality_results and of reconciliation."""
    worst_first = list(_SEVERITIES)
    ordered = found.sort(
        pl.col("severity").replace_strict(worst_first, range(len(worst_first)), return_dtype=pl.Int8),
        "table_name",
        "rule",
    )
    differing = int(compared["differing_rows"].sum())
    nothing = '<p class="good">未发现问题。 Nothing was found.</p>'
    equal = '<p class="good">流批一致。 The stream and batch agree.</p>'
    return _html(
        f"数据质量报告 Quality report {day}",
        [
            "<h2>检查结果 What checks found</h2>",
            _table(ordered.drop("date")) if ordered.height else nothing,
            "<h2>流批对账 Stream against batch</h2>",
            equal if compared.height and not differing else "",
            _table(compared.drop("date")),
            "<p>剔除 error: kept out. 告警 warning: marked. 阻断 blocking: not published.</p>",
        ],
    )


def _of_day(batch: Batch, table: Table, day: date) -> pl.DataFrame:
    """Of a table that several assets write to, each its own part of a day, or that one writes."""
    folder = batch.marts.root / table.name
    names = {path.parent.name for path in folder.glob(f"{day_partition(day)}*/*.parquet")}
    return batch.marts.scan(table, sorted(names)).filter(pl.col("date") == day).collect() if names else table.empty()


def _table(rows: pl.DataFrame) -> str:
    head = "".join(f"<th>{escape(_COLUMNS.get(name, name))}</th>" for name in rows.columns)
    return f"<table><tr>{head}</tr>{''.join(map(_row, rows.to_dicts()))}</table>"


def _row(row: dict[str, object]) -> str:
    severity = str(row.get("severity", ""))
    cells = "".join(_cell(name, value) for name, value in row.items())
    return f'<tr class="{escape(severity)}">{cells}</tr>'


def _cell(name: str, value: object) -> str:
    if name == "severity":
        value = f"{_SEVERITIES.get(str(value), '')} {value}"
    number = ' class="n"' if isinstance(value, int) else ""
    return f"<td{number}>{'' if value is None else escape(f'{value:,}' if isinstance(value, int) else str(value))}</td>"


def _html(title: str, body: Iterable[str]) -> str:
    return (
        f'<!doctype html><html lang="zh"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(body)}</body></html>\n"
    )


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, for somebody may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(path)
