"""Whatever a mapping and a file hold: readings and rejects that account for every row, or one line for the user."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import KilowatchError, MappingError
from metering.tabular.convert import REASONS, Replayed
from metering.tabular.mapping import Mapping, parse_mapping
from orchestration.home.table_files import read_readings

COLUMNS = ["t", "d", "h", "e", "m", "q", "p", "x", "00:15", "00:30", "p", "Sum (1,5 kWh)", ""]
NAMES = st.sampled_from(
    ["t", "d", "h", "e", "m", "q", "p", "x", "#1", "#2", "#3", "p#2", "Sum*", "*", "00:15", "zz", "value"]
)
MARKS = st.lists(st.sampled_from(["", "A", "B", "kW", "k*", "\\*", "1", "é"]), max_size=3)
CELLS = st.sampled_from(
    """2026-03-29 00:15|2026-03-29 02:15|2026-10-25 02:30|2026-10-25|2026-03-29|01.03.26 00:15|24:00|2026-03-01 24:00|
    0|1|24|25|96|100|3B|2A|1772324100|1772324100000|1e400|
    46082.0104166667|-1|12,5|12.5|1.234,5|1,234.5|1 234,5|1'234.5|
    12,5-|−3|nan|inf|-0.0|9223372036854775807|9223372036854775808|1e308|A|B|kW|kvar|é|中|"|""|"1,2"|x"y|\t|\ufffd|\u00a0|
    15m|PT1H|00:30|2026-03-29T01:00:00+01:00|2026-03-29T00:15Z|2026-10-25 02:30 CET|2026-10-25 02:30 PST|sep=;|
    0026-01-01 00:00|9999-12-31 23:59|1969-12-31 23:59:59|2100-01-01 00:00||*|TRUE|#DIV/0!""".replace(
        "\n    ", ""
    ).split("|")
)
FORMATS = st.sampled_from(
    [
        *("%Y-%m-%d %H:%M", "%Y-%m-%d", "%d.%m.%y %H:%M", "%d.%m.%Y %H:%M", "%Y-%m-%d %H", "%H:%M", "%H", "%I %p"),
        *("%Y-%m-%d %H:%M %Z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M+01:00", "%+", "%s", "%Q", "%"),
        *("epoch_s", "epoch_ms", "epoch_us", "epoch_ns", "epoch", "excel", "excel_1904", "", "x", "%Y%m%d%H%M"),
    ]
)
JUNK = st.one_of(st.integers(-2, 10**19), st.booleans(), st.text(max_size=3), st.lists(st.integers(), max_size=2))


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value)


def some(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


INTERVALS = st.sampled_from(["15m", "30m", "1h", "1m", "24h", "10m"])
PERIOD = some({"column": NAMES, "first": st.integers(0, 1)}, length=INTERVALS)
STAMP = some(
    {"column": st.one_of(NAMES, st.lists(NAMES, min_size=1, max_size=3))},
    format=FORMATS,
    label=st.sampled_from(["start", "end", "wall_end", "x"]),
    end=st.one_of(NAMES, st.lists(NAMES, max_size=2)),
    period=st.one_of(PERIOD, st.lists(PERIOD, max_size=2)),
    clock=st.sampled_from(["elapsed", "wall"]),
    order=st.sampled_from(["file", "column"]),
    ambiguous=st.sampled_from(["infer", "earliest", "latest"]),
    second_pass=some({"column": NAMES, "values": MARKS}),
)
CHANNEL = some(
    {
        "field": st.sampled_from(["p_kw", "q_kvar", "import_kwh", "export_kwh", "status", "ua_v", "zz"]),
        "columns": st.dictionaries(NAMES, st.sampled_from([1, 4.0, -1.0, 0.25, 1e300, 0]), min_size=1, max_size=2),
    },
    kind=st.sampled_from(["value", "interval_energy", "mean_power"]),
    part=st.sampled_from(["positive", "negative", "net"]),
    when=st.dictionaries(NAMES, st.one_of(MARKS, st.just("k*")), max_size=2),
)
MAPPINGS = some(
    {
        "interval": st.one_of(
            INTERVALS, st.lists(INTERVALS, max_size=3), some({"column": NAMES}, unit=st.sampled_from("smh"))
        ),
        "meter_id": st.one_of(st.just("M1"), some({"column": NAMES})),
        "timestamp": STAMP,
        "channel": st.lists(CHANNEL, min_size=1, max_size=3),
    },
    format=st.sampled_from(["csv", "parquet"]),
    delimiter=st.sampled_from([",", ";", "\t", "|", " "]),
    decimal=st.sampled_from([",", "."]),
    thousands=st.sampled_from([",", ".", " ", "'", [" ", "'"], "x"]),
    encoding=st.sampled_from(["utf-8-sig", "gb18030", "utf-16", "latin-1", "utf-7", "punycode", "base64"]),
    null_values=MARKS,
    timezone=st.sampled_from(
        ["Europe/Vienna", "Asia/Shanghai", "America/Sao_Paulo", "Australia/Lord_Howe", "UTC", "../x"]
    ),
    header=some({}, line=st.integers(0, 4), contains=NAMES, lines=st.integers(0, 3)),
    rows=st.lists(some({"column": NAMES}, keep=MARKS, drop=MARKS), max_size=2),
    wide=some({"first": NAMES}, last=NAMES, value=st.sampled_from(["value", "p", "t"])),
    quality=some(
        {"column": NAMES},
        good=MARKS,
        estimated=MARKS,
        reject=MARKS,
        status=st.dictionaries(st.sampled_from("AB"), st.integers(0, 9)),
    ),
    member=st.sampled_from(["a.csv", "*.csv", "zz"]),
    sheet=st.just("Sheet1"),
)
HEADER = ["t", "d", "h", "e", "m", "q", "p", "x", "00:15", "00:30"]
PLACED = st.sampled_from([*HEADER, "#3", "#7", "00:1*"])
STAMPS = st.sampled_from([None, None, "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m-%d %H:%M %Z", "epoch", "epoch_s", "excel"])
STAMP_CELLS = st.builds(
    lambda day, minute: f"{day} {minute // 60:02}:{minute % 60:02}",
    st.sampled_from(["2026-03-28", "2026-03-29", "2026-10-25"]),
    st.sampled_from([0, 15, 30, 60, 120, 135, 150, 180, 195, 1425]),
)
DAY_CELLS = st.sampled_from(["2026-03-28", "2026-03-29", "2026-10-25"])
NUMBER_CELLS = st.sampled_from(["1", "2.5", "-3", "1 234", "0", "1e3", "", "12,5", "7"])
LIKELY = [STAMP_CELLS, DAY_CELLS, st.integers(0, 100).map(str), STAMP_CELLS, st.sampled_from("MN")]
LIKELY += [st.sampled_from(["A", "B", "kW", ""]), *[NUMBER_CELLS] * 4]
ROW = st.tuples(*(st.one_of(likely, likely, likely, CELLS) for likely in LIKELY)).map(list)
ROWS = st.lists(st.one_of(ROW, ROW, ROW, st.lists(CELLS, max_size=11)), max_size=12)
STAMPED, VALUED = st.sampled_from(["t", "t", "d", "e"]), st.sampled_from(["p", "p", "x", "00:15", "#7", "00:1*", "q"])


@st.composite
def channels(draw: st.DrawFn, wide: bool, when: bool) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = []
    field = st.sampled_from(["p_kw", "q_kvar", "import_kwh", "export_kwh", "status", "ua_v"])
    for name in draw(st.lists(field, min_size=1, max_size=3, unique=not when)):
        values = st.just("value") if wide else VALUED
        factor = st.sampled_from([1, 4, -1]) if name == "status" else st.sampled_from([1, 0.25, -1.0, 1e299])
        channel: dict[str, Any] = {
            "field": name,
            "columns": draw(st.dictionaries(values, factor, min_size=1, max_size=2)),
        }
        if name.endswith("kwh"):
            channel |= {"kind": "interval_energy", "part": draw(st.sampled_from(["net", "positive", "negative"]))}
        if name == "p_kw":
            channel["kind"] = "mean_power"
        if when:
            channel["when"] = draw(st.dictionaries(PLACED, MARKS, min_size=1, max_size=2))
        given.append(channel)
    return given


@st.composite
def sound(draw: st.DrawFn) -> dict[str, Any]:
    """Mappings that a table with HEADER has the columns for, each of the language's parts now and then."""
    some_of = draw(
        st.sets(st.sampled_from(["numbered", "wide", "end", "when", "rows", "quality", "marker", "several"]))
    )
    stamp: dict[str, Any] = {"column": draw(st.one_of(STAMPED, STAMPED, st.lists(PLACED, min_size=1, max_size=2)))}
    given: dict[str, Any] = {"interval": draw(INTERVALS), "timestamp": stamp}
    given["meter_id"] = draw(st.one_of(st.just("M1"), st.builds(lambda name: {"column": name}, PLACED)))
    if format := draw(STAMPS):
        stamp["format"] = format
    wide = "wide" in some_of
    if wide:
        given["wide"] = draw(st.sampled_from([{"first": "p", "last": "00:30"}, {"first": "x"}, {"first": "#2"}]))
    elif "numbered" in some_of:
        stamp["period"] = draw(
            st.lists(some({"column": st.just("h"), "first": st.integers(0, 1)}), min_size=1, max_size=2)
        )
    elif "end" in some_of:
        stamp["end"] = draw(STAMPED)
        given["interval"] = draw(st.lists(INTERVALS, min_size=1, max_size=3))
    else:
        stamp["label"] = draw(st.sampled_from(["start", "end", "wall_end"]))
        if "several" in some_of and stamp["label"] != "wall_end":
            given["interval"] = draw(st.one_of(st.lists(INTERVALS, min_size=1, max_size=3), some({"column": PLACED})))
        elif "when" not in some_of:
            stamp["order"] = draw(st.sampled_from(["file", "column"]))
    if wide or "numbered" in some_of:
        stamp |= draw(st.sampled_from([{"column": "d"}, {"column": "d", "format": "%Y-%m-%d"}, {}]))
        stamp |= draw(
            some({"clock": st.sampled_from(["elapsed", "wall"])}, first_ends=st.sampled_from(["00:00", "12:30"]))
        )
    if "marker" in some_of:
        stamp["second_pass"] = {"column": draw(PLACED), "values": draw(MARKS)}
    given["channel"] = draw(channels(wide, "when" in some_of))
    if "rows" in some_of:
        given["rows"] = draw(st.lists(some({"column": PLACED, "drop": MARKS}, keep=MARKS), max_size=2))
    if "quality" in some_of:
        marks = st.fixed_dictionaries({"column": PLACED, "good": MARKS, "estimated": MARKS, "reject": st.just(["B"])})
        given["quality"] = draw(marks)
    given["decimal"] = draw(st.sampled_from([",", "."]))
    given["thousands"] = [" ", "'", "." if given["decimal"] == "," else ","]
    given["timezone"] = draw(
        st.sampled_from(["Europe/Vienna", "Asia/Shanghai", "America/Sao_Paulo", "Australia/Lord_Howe"])
    )
    return given


DELIMITERS = st.sampled_from([",", ";", "\t"])
CONTAINERS = st.sampled_from(["", "gzip", "zip", "zip2", "gzip-cut", "utf-16", "gb18030", "latin-1", "sep"])


def packed(text: str, container: str) -> bytes:
    if container in ("utf-16", "gb18030", "latin-1"):
        return text.encode(container, errors="replace")
    content = ("sep=;\n" + text if container == "sep" else text).encode()
    if container.startswith("gzip"):
        whole = gzip.compress(content)
        return whole[: len(whole) // 2 + 8] if container == "gzip-cut" else whole
    if container.startswith("zip"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in ("a.csv", "b.csv")[: 2 if container == "zip2" else 1]:
                archive.writestr(name, content)
        return out.getvalue()
    return content


def mapped(given: dict[str, Any]) -> Mapping:
    return parse_mapping("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in given.items()), "UTC")


def replayed(content: bytes, mapping: Mapping) -> Replayed | None:
    """None with one line for the user that any terminal can show."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content)
        try:
            done = read_readings(path, mapping)
        except KilowatchError as error:
            told = str(error)
        else:
            told = ""
    if told:
        assert told.isprintable(), repr(told)
        return None
    counted = done.readings.height + done.rejects.height + done.left_out + done.joined + done.absent
    assert done.rows == counted
    assert set(done.rejects["reason"]) <= set(REASONS)
    assert done.rejects["detail"].null_count() == 0
    times = done.readings["ts"]
    assert times.is_sorted()
    assert times.is_between(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), closed="left").all()
    for name in done.readings.columns:
        if done.readings.schema[name].is_float():
            assert done.readings[name].is_finite().fill_null(True).all()
    return done


def parsed(given: dict[str, Any]) -> Mapping | None:
    try:
        return mapped(given)
    except MappingError as error:
        told = str(error)
    assert told.isprintable(), repr(told)
    return None


@given(given=MAPPINGS, header=st.lists(st.sampled_from(COLUMNS), min_size=1), rows=ROWS, container=CONTAINERS)
def test_any_text_with_any_mapping(
    given: dict[str, Any], header: list[str], rows: list[list[str]], container: str
) -> None:
    mapping = parsed(given)
    if mapping is not None:
        replayed(packed("\n".join(";".join(row) for row in [header, *rows]), container), mapping)


@given(given=sound(), rows=ROWS, delimiter=DELIMITERS)
def test_any_text_with_a_mapping_that_fits_it(given: dict[str, Any], rows: list[list[str]], delimiter: str) -> None:
    mapping = mapped(given | {"delimiter": delimiter})
    replayed("\n".join(delimiter.join(row) for row in [HEADER, *rows]).encode(), mapping)


@given(
    key=st.sampled_from(
        sorted(
            [
                "interval",
                "meter_id",
                "timestamp",
                "channel",
                "header",
                "rows",
                "wide",
                "quality",
                "thousands",
                "null_values",
                "encoding",
                "timezone",
                "member",
            ]
        )
    ),
    junk=JUNK,
)
def test_a_value_of_the_wrong_kind_is_told_by_its_key(key: str, junk: object) -> None:
    sound = {
        "interval": "15m",
        "meter_id": "M",
        "timestamp": {"column": "t"},
        "channel": [{"field": "p_kw", "columns": {"p": 1}}],
    }
    parsed(sound | {key: junk})


TYPED = st.sampled_from(
    [
        pl.Series("t", [datetime(2026, 3, 29, 0, 15), None, datetime(1, 1, 1), datetime(9999, 12, 31)]),
        pl.Series("t", [date(2026, 3, 29), date(2026, 3, 28), None, date(2026, 10, 25)]),
        pl.Series("t", [1772324100, 2**62, -1, None], dtype=pl.Int64),
        pl.Series("t", [2**64 - 1, 1772324100000, 0, 5], dtype=pl.UInt64),
        pl.Series("t", [float("nan"), float("inf"), 46082.25, 1e300]),
        pl.Series("t", ["2026-03-01 00:15", None, "", "x"]),
        pl.Series("t", [True, False, None, True]),
        pl.Series("t", [[1], None, [], [2, 3]]),
        pl.Series("t", [{"a": 1}, None, {"a": 2}, {"a": None}]),
        pl.Series("t", [b"x", None, b"\xff", b""]),
        pl.Series("t", ["1.5", "2", None, "3"]).cast(pl.Decimal(20, 3)),
        pl.Series("t", [1, 2, None, 3]).cast(pl.Duration("ns")),
        pl.Series("t", ["a", "b", None, "a"], dtype=pl.Categorical),
        pl.Series("t", [datetime(2026, 1, 1, 0, 15, tzinfo=UTC)] * 4)
        .dt.convert_time_zone("Asia/Tokyo")
        .cast(pl.Datetime("ns", "Asia/Tokyo")),
        pl.Series("t", [None] * 4),
    ]
)


@given(given=sound(), series=st.lists(TYPED, min_size=len(HEADER), max_size=len(HEADER)))
def test_any_parquet_with_a_mapping_that_fits_it(given: dict[str, Any], series: list[pl.Series]) -> None:
    out = io.BytesIO()
    pl.DataFrame([column.alias(name) for name, column in zip(HEADER, series, strict=True)]).write_parquet(out)
    replayed(out.getvalue(), mapped(given))


@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.sampled_from(
            [
                b"PK\x03\x04",
                b"PAR1",
                b"\xd0\xcf\x11\xe0",
                b"\x1f\x8b",
                b"BZh9",
                b"\xfd7zXZ\x00",
                b"\xff\xfe",
                b"%PDF-1",
                b"<html>",
            ]
        ).flatmap(lambda head: st.binary(max_size=60).map(lambda rest: head + rest)),
    )
)
def test_any_bytes(content: bytes) -> None:
    mapping = mapped(
        {
            "interval": "15m",
            "meter_id": "M",
            "timestamp": {"column": "#1"},
            "channel": [{"field": "p_kw", "columns": {"#1": 1}}],
        }
    )
    replayed(content, mapping)


@given(
    at=st.floats(0, 1, exclude_max=True),
    damage=st.one_of(st.binary(max_size=4), st.just(None)),
    container=st.sampled_from(["parquet", "zip", "gzip", "utf-16"]),
)
def test_a_damaged_file(at: float, damage: bytes | None, container: str) -> None:
    """Bytes in the middle are others, or the rest is gone."""
    cells = {"t": ["2026-03-01 00:15", "2026-03-01 00:30"], "p": ["1", "2"]}
    out = io.BytesIO()
    pl.DataFrame(cells | {"d": [date(2026, 3, 1)] * 2}).write_parquet(out)
    text = "t,p\n" + "".join(f"{t},{p}\n" for t, p in zip(*cells.values(), strict=True))
    whole = out.getvalue() if container == "parquet" else packed(text, container)
    cut = int(at * len(whole))
    content = whole[:cut] if damage is None else whole[:cut] + damage + whole[cut + len(damage) :]
    channel = {"field": "p_kw", "columns": {"p": 1}}
    replayed(content, mapped({"interval": "15m", "meter_id": "M", "timestamp": {"column": "t"}, "channel": [channel]}))
