"""What encoding a text is in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.tabular.encodings import container, encoding_of

CHINESE = "户号,电表资产号,数据日期\n800001,电表一,2026-03-01\n"
GERMAN = "Zählpunkt;Güte\nAT001;gültig\nAT002;Ersatzwert\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"", "utf-8-sig"),
        (b"stamp,kW\n", "utf-8-sig"),
        (CHINESE.encode(), "utf-8-sig"),
        (CHINESE.encode("utf-8-sig"), "utf-8-sig"),
        (CHINESE.encode("gb18030"), "gb18030"),
        (GERMAN.encode("cp1252"), "cp1252"),
        (GERMAN.encode("utf-16"), "utf-16"),
        (GERMAN.encode("utf-16-le"), "utf-16-le"),
        (GERMAN.encode("utf-16-be"), "utf-16-be"),
    ],
)
def test_encodings_are_told(content: bytes, encoding: str) -> None:
    assert encoding_of(content) == encoding
    assert content.decode(encoding).isprintable() or "\n" in content.decode(encoding)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_encoding(content: bytes) -> None:
    content.decode(encoding_of(content), errors="replace")


@given(st.text(max_size=50))
def test_utf8_is_utf8(text: str) -> None:
    assert encoding_of(("x" + text.replace("\0", "")).encode()) == "utf-8-sig"


def test_containers_are_told() -> None:
    assert container(b"PAR1\x15\x04") == "a Parquet file"
    assert container(b"PK\x03\x04\x14\x00") == "an Excel workbook or another zip archive"
    assert container(b"stamp,kW\n") is None
