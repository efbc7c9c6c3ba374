"""The static page of what checks found: it needs nothing else, says all, and shows text as text."""

from __future__ import annotations

from datetime import date
from html.parser import HTMLParser

import polars as pl

from assets.quality_report import page
from metering.tables.evidence import QUALITY_RESULTS, RECONCILIATION

DAY = date(2026, 3, 2)


class _Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _found(*rows: tuple[str, str, str, int, str | None]) -> pl.DataFrame:
    return pl.DataFrame([(DAY, *row) for row in rows], schema=QUALITY_RESULTS.schema, orient="row")


def _compared(*rows: tuple[str, int, int, int]) -> pl.DataFrame:
    return pl.DataFrame([(DAY, *row) for row in rows], schema=RECONCILIATION.schema, orient="row")


def test_findings_are_told_worst_first_in_both_languages_and_as_text() -> None:
    found = _found(
        ("daily_load", "one_energy", "info", 1, None),
        ("meter_curve", "missing", "warning", 1800, "meter 440100000001 <script>alert(1)</script>"),
        ("violations", "state", "error", 1, "v1"),
    )
    text = page(DAY, found, _compared(("windows", 668, 667, 1)))
    read = _Read(text)
    assert "script" not in read.tags
    assert "meter 440100000001 <script>alert(1)</script>" in read.words
    assert [word for word in read.words if word.split()[-1:] and word.split()[-1] in ("error", "warning", "info")] == [
        "剔除 error", "告警 warning", "提示 info",
    ]  # fmt: skip
    assert "1,800" in read.words
    assert "The stream and batch agree" not in text
    assert "http" not in text
    assert not {"link", "img"} & set(read.tags)


def test_a_day_without_findings_says_so() -> None:
    text = page(DAY, _found(), _compared(("windows", 668, 668, 0)))
    assert "Nothing was found" in text
    assert "The stream and batch agree" in text
    assert "agree" not in page(DAY, _found(), _compared())
