"""Editing: values put right by hand, with who, when and why.

Here: what a correction file must hold, its signature, and applying it as the last layer of a meter's curve. Raw data
is never changed, and an edit is taken back by a later one only. Not here: where the log of edits is kept (`sinks`), the
command (`orchestration.cli.edit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from metering.errors import UserError
from metering.tables.schema import TIMESTAMP, Column, Table
from metering.tabular.delimited import cut
from metering.text import filled

EDITS = Table(
    "edits",
    "Values put right by hand. Append-only; of several edits of one quarter-hour the last one counts.",
    ("edit_id", "meter_id", "window_end"),
    (
        Column("edit_id", pl.String, "Digest of the correction file", nullable=False),
        Column("line", pl.Int32, "Line in the correction file", nullable=False, minimum=1),
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("window_end", TIMESTAMP, "End of the quarter-hour", "UTC", nullable=False),
        Column("energy_kwh", pl.Float64, "Active energy drawn from the grid", "kWh", minimum=0),
        Column("export_kwh", pl.Float64, "Active energy fed into the grid", "kWh", minimum=0),
        Column("import_kvarh", pl.Float64, "Reactive import energy", "kvarh", minimum=0),
        Column("export_kvarh", pl.Float64, "Reactive export energy", "kvarh", minimum=0),
        Column("by", pl.String, "Role or office that answers for it", nullable=False),
        Column("at", TIMESTAMP, "When it was decided", "UTC", nullable=False),
        Column("why", pl.String, "The reason", nullable=False),
        Column(
            "beyond_rating",
            pl.Boolean,
            "Whether who answers for it knows that the meter cannot have made it",
            nullable=False,
            default=False,
        ),
        Column("number", pl.Int64, "Place in the home's log of edits, from 0", nullable=False, minimum=0),
    ),
)
VALUES = ("energy_kwh", "export_kwh", "import_kvarh", "export_kvarh")
SIGNATURE = "# sha256: "
_MUST = ("meter_id", "window_end", "energy_kwh", "by", "at", "why")
_HOURS = 0.25
EDITED = "edited"
BEYOND_RATING = "beyond_rating"
_YES_OR_NO = {"": False, "no": False, "false": False, "yes": True, "true": True}


def digest(body: bytes) -> str:
    """The digest that signs a correction file: SHA-256 of everything before its signature line."""
    return hashlib.sha256(body).hexdigest()


def signed(content: bytes) -> bytes:
    """`content` with its signature line in place of any that it had."""
    body = _body(content)[0]
    body = body if body.endswith(b"\n") or not body else body + b"\n"
    return body + f"{SIGNATURE}{digest(body)}\n".encode()


def parse(content: bytes, name: str, number: int = 0) -> pl.DataFrame:
    """EDITS of a correction file (CSV, UTF-8, signed by its last line), numbered from `number` on.

    Columns: meter_id; window_end and at (RFC 3339 with offset); energy_kwh [kWh], and where they are to change too
    export_kwh, import_kvarh, export_kvarh; by (a role or an office); why; where they are beyond what the meter can have
    made beyond_rating (yes), which its reason then says too. Raises UserError naming the line and the
    column: a file with one error in it is refused whole.
    """
    body, told = _body(content)
    if told is None:
        raise UserError(
            f"{name}: it is not signed: its last line must be '{SIGNATURE}<digest>'; check the file, then sign it with "
            f"`kilowatch edit {name} --sign`"
        )
    if told != digest(body):
        raise UserError(
            f"{name}: it has been changed since it was signed (digest {digest(body)[:12]}…, signed {told[:12]}…): "
            "check it, and sign it again"
        )
    try:
        parsed = cut(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{name}: it is not UTF-8; save the file as UTF-8") from None
    for column in _MUST:
        if parsed.header.count(column) != 1:
            raise UserError(f"{name}, line 1, column {column}: it must stand once in the header")
    rows = [_row(name, parsed.header, record) for record in parsed.records.iter_rows(named=True)]
    if not rows:
        raise UserError(f"{name}: there is nothing to edit in it")
    frame = pl.DataFrame(rows, infer_schema_length=None)
    twice = frame.filter(frame.select("meter_id", "window_end").is_duplicated())
    if twice.height:
        second = twice.row(1, named=True)
        raise UserError(
            f"{name}, line {second['line']}: meter {second['meter_id']} at {second['window_end']:%Y-%m-%dT%H:%MZ} "
            "stands in the file twice; keep the line that is right"
        )
    numbers = pl.Series("number", range(number, number + frame.height), dtype=pl.Int64)
    return EDITS.conform(frame.with_columns(numbers), edit_id=told)


def in_force(edits: pl.DataFrame) -> pl.DataFrame:
    """The edit that counts for each meter and quarter-hour: the one of the highest number."""
    return edits.sort("number").unique(["meter_id", "window_end"], keep="last", maintain_order=True)


def applied(points: pl.DataFrame, edits: pl.DataFrame) -> pl.DataFrame:
    """`points` (columns of METER_CURVE) with the edits that are in force as the last layer.

    A value that an edit does not name stays as it was; power agrees with the energy. Reasons say who edited, when and
    why, and what the status was before.
    """
    if edits.is_empty():
        return points
    named = {name: f"{name}_edited" for name in VALUES}
    given = in_force(edits).select("meter_id", "window_end", "by", "at", "why", *VALUES).rename(named)
    rows = points.join(given, on=["meter_id", "window_end"], how="left", maintain_order="left")
    is_edited = pl.col("by").is_not_null()
    values = rows.with_columns(pl.coalesce(edited, name).alias(name) for name, edited in named.items())
    net_p = (pl.col("energy_kwh") - pl.col("export_kwh").fill_null(0)) / _HOURS
    net_q = (pl.col("import_kvarh") - pl.col("export_kvarh").fill_null(0)) / _HOURS
    reactive = pl.any_horizontal(pl.col(named[name]).is_not_null() for name in VALUES[2:])
    said = filled("by {} on {}: {} (was {})", "by", pl.col("at").dt.strftime("%Y-%m-%dT%H:%MZ"), "why", "status")
    return values.with_columns(
        pl.when(is_edited).then(net_p).otherwise("p_kw").alias("p_kw"),
        pl.when(is_edited & reactive).then(net_q).otherwise("q_kvar").alias("q_kvar"),
        pl.when(is_edited).then(said).otherwise("reason").alias("reason"),
        pl.when(is_edited).then(pl.lit(EDITED)).otherwise("rule").alias("rule"),
        pl.when(is_edited).then(pl.lit(EDITED)).otherwise("status").alias("status"),
    ).drop(*named.values(), "by", "at", "why")


def _body(content: bytes) -> tuple[bytes, str | None]:
    """Everything before the signature line, and the digest that it tells; None where there is no such line."""
    stripped = content.rstrip(b"\r\n")
    before, newline, last = stripped.rpartition(b"\n")
    mark = SIGNATURE.encode()
    if last.startswith(mark):
        return before + newline, last[len(mark) :].decode("ascii", "replace").strip()
    return content, None


def _row(name: str, header: tuple[str, ...] | list[str], record: dict[str, object]) -> dict[str, object]:
    line = record["line"]
    cells = record["cells"]
    assert isinstance(cells, list)
    if record.get("problem") or len(cells) != len(header):
        raise UserError(f"{name}, line {line}: it has {len(cells)} cells, the header {len(header)}")
    given = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    row: dict[str, object] = {"line": line}
    for column in ("meter_id", "by", "why"):
        row[column] = given[column]
        if not given[column]:
            raise UserError(f"{name}, line {line}, column {column}: it must not be empty")
    for column in ("window_end", "at"):
        row[column] = _instant(name, line, column, given[column])
    end = row["window_end"]
    assert isinstance(end, datetime)
    if (end - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds() % 900:
        raise UserError(
            f"{name}, line {line}, column window_end: '{given['window_end']}' is not the end of a quarter-hour"
        )
    row |= dict(_values(name, line, given))
    consent = given.get(BEYOND_RATING, "").lower()
    if consent not in _YES_OR_NO:
        raise UserError(f"{name}, line {line}, column {BEYOND_RATING}: '{given[BEYOND_RATING]}' is neither yes nor no")
    if row.setdefault(BEYOND_RATING, _YES_OR_NO[consent]):
        row["why"] = f"{row['why']} (beyond the meter's rating, knowingly)"
    return row


def beyond_rating(edits: pl.DataFrame, most_kw: pl.Series) -> Iterator[tuple[int, str]]:
    """Line, and what is wrong with it, of edits whose energies no meter of that rating (`most_kw`, row by row) can have
    made in a quarter-hour [kWh, kvarh], and that do not say so.
    """
    rows = edits.with_columns((most_kw * _HOURS).alias("most")).filter(~pl.col(BEYOND_RATING))
    for row in rows.iter_rows(named=True):
        for name in VALUES:
            if row[name] is not None and row[name] > row["most"]:
                unit = name.partition("_")[2].replace("kwh", "kWh")
                yield (
                    row["line"],
                    f"column {name}: {row[name]:,.10g} {unit} is more than meter {row['meter_id']} can have made in a "
                    f"quarter-hour ({row['most']:,.4g}): put it right, or say yes in its column {BEYOND_RATING}",
                )


def _values(name: str, line: object, given: dict[str, str]) -> Iterator[tuple[str, float | None]]:
    for column in VALUES:
        text = given.get(column, "")
        if not text and column == "energy_kwh":
            raise UserError(f"{name}, line {line}, column {column}: it must not be empty")
        try:
            value = float(text) if text else None
        except ValueError:
            value = float("nan")
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"{name}, line {line}, column {column}: '{text}' is not a number from 0")
        yield column, value


def _instant(name: str, line: object, column: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise UserError(
            f"{name}, line {line}, column {column}: '{text}' is not a time with offset, such as "
            "2026-03-02T10:15:00+08:00"
        )
    return at.astimezone(UTC)
