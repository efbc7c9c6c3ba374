"""A mapping is checked before any row is read, and a mistake is named by its key."""

from __future__ import annotations

import pytest

from metering.errors import MappingError
from metering.tabular.formats import READERS
from metering.tabular.mapping import interval_seconds, parse_mapping
from metering.tabular.shape import FIELD_FORMATS, Interval

MINIMAL = """
interval = "15m"
meter_id = "M1"
[timestamp]
column = "t"
[[channel]]
field = "p_kw"
columns = { p = 1 }
"""


def test_all_but_four_keys_are_optional() -> None:
    mapping = parse_mapping(MINIMAL, "Asia/Shanghai")
    assert (mapping.format, mapping.delimiter, mapping.decimal, mapping.encoding) == ("csv", ",", ".", "utf-8-sig")
    assert (mapping.null_values, mapping.timezone) == (("",), "Asia/Shanghai")
    assert mapping.interval == Interval(seconds=(900,))
    assert (mapping.meter_id, mapping.meter_column) == ("M1", None)
    stamp = mapping.timestamp
    assert (stamp.columns, stamp.format, stamp.label, stamp.order) == (("t",), None, "end", "column")
    assert mapping.channels[0].weights == (("p", 1.0),)
    assert mapping.channels[0].kind == "value"


def test_columns_are_named_once_with_the_key_that_names_them() -> None:
    text = MINIMAL.replace('"M1"', '{ column = "m" }').replace('"t"', '["d", "t"]') + (
        '[[channel]]\nfield = "q_kvar"\ncolumns = { p = 1, q = 2 }\n'
    )
    columns = parse_mapping(text, "UTC").columns
    assert list(columns) == ["d", "t", "m", "p", "q"]
    assert columns["q"] == "channel 'q_kvar' columns"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('interval = "15m"', "", "interval: is missing"),
        ('interval = "15m"', 'interval = "15"', "interval: '15' is not an interval"),
        ('interval = "15m"', 'interval = "7m"', "interval: '7m' is not an interval"),
        ('interval = "15m"', "interval = 15", "interval: 15 is not a text"),
        ('meter_id = "M1"', "", "meter_id: is missing"),
        ('meter_id = "M1"', f'meter_id = "{"M" * 65}"', "meter_id: .* longer than 64"),
        ('meter_id = "M1"', "meter_id = { colum = 'm' }", r"meter_id\.colum: there is no such key"),
        ('meter_id = "M1"', 'meter_id = "M1"\nformat = "xls"', "format: 'xls' is not one of csv, parquet"),
        ('meter_id = "M1"', 'meter_id = "M1"\ndelimiter = ";;"', "delimiter: ';;' is not one character"),
        ('meter_id = "M1"', 'meter_id = "M1"\ndecimal = ";"', "decimal: ';' is not one of"),
        ('meter_id = "M1"', 'meter_id = "M1"\nencoding = "utf-9"', "encoding: 'utf-9'"),
        ('meter_id = "M1"', 'meter_id = "M1"\nencoding = "hex"', "encoding: 'hex'"),
        ('meter_id = "M1"', 'meter_id = "M1"\nnull_values = "?"', "null_values: .* is not a list of texts"),
        ('meter_id = "M1"', 'meter_id = "M1"\ntimezone = "Mars/Base"', "timezone: 'Mars/Base'"),
        ('meter_id = "M1"', 'meter_id = "M1"\ntimezone = "../etc"', "timezone: "),
        ('meter_id = "M1"', 'meter_id = "M1"\nmetre = 1', "metre: there is no such key"),
        ('[timestamp]\ncolumn = "t"', "", r"timestamp: the table \[timestamp\] is missing"),
        ('column = "t"', "", r"timestamp\.column: name a column"),
        ('column = "t"', "column = []", r"timestamp\.column: name a column"),
        ('column = "t"', 'column = "t"\nlabel = "middle"', r"timestamp\.label: 'middle' is not one of end, start"),
        ('column = "t"', 'column = "t"\norder = "line"', r"timestamp\.order: 'line' is not one of"),
        ('column = "t"', 'column = "t"\nambiguous = "both"', r"timestamp\.ambiguous: 'both' is not one of"),
        ('[[channel]]\nfield = "p_kw"\ncolumns = { p = 1 }', "", "channel: at least one"),
        ('field = "p_kw"', 'field = "p_mw"', "channel 1 field: 'p_mw' is not one of"),
        ('field = "p_kw"', "", "channel 1 field: is missing"),
        ('field = "p_kw"', 'field = "p_kw"\nkind = "interval_energy"', "channel 1 kind: interval_energy belongs"),
        ("columns = { p = 1 }", "", "channel 1 columns: name at least one"),
        ("columns = { p = 1 }", 'columns = { p = "1" }', "channel 1 columns: the factor of 'p' is '1'"),
        ("columns = { p = 1 }", "columns = { p = inf }", "channel 1 columns: the factor of 'p' is inf"),
        ("columns = { p = 1 }", "columns = { p = true }", "channel 1 columns: the factor of 'p' is True"),
        ("columns = { p = 1 }", "columns = { p = 1", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_by_its_key(old: str, new: str, key: str) -> None:
    assert old in MINIMAL
    with pytest.raises(MappingError, match=key):
        parse_mapping(MINIMAL.replace(old, new), "UTC")


def test_a_field_is_mapped_once() -> None:
    with pytest.raises(MappingError, match="field 'p_kw' is mapped twice"):
        parse_mapping(MINIMAL + '[[channel]]\nfield = "p_kw"\ncolumns = { p = 1 }\n', "UTC")


@pytest.mark.parametrize(("text", "seconds"), [("1m", 60), ("60s", 60), ("5m", 300), ("15m", 900), ("1h", 3600)])
def test_intervals(text: str, seconds: int) -> None:
    assert interval_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "0m", "-1m", "1.5m", "1d", "7m", "48h", "15 minutes"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="is not an interval"):
        interval_seconds(text)


def test_each_format_of_the_field_has_a_reader() -> None:
    assert tuple(READERS) == FIELD_FORMATS
