"""The registry of customers and meters: parsed whole, or refused whole with file, line and column.

Here: what a valid registry is (`parse_registry`). Not here: what meters' readings are judged by (`meter_versions`),
reading files, and watching them for change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from metering.calendar import instant
from metering.errors import RegistryError
from metering.registry.meter_versions import DAY_S, METER_VERSIONS, meter_versions, validity
from metering.settings import MeteringSettings
from metering.settings.kpis import GROUPS
from metering.tables.schema import Column, Table
from metering.tables.warehouse import CUSTOMERS, METERS, METERS_IN_FILE
from metering.tabular.delimited import Delimited, cut
from metering.tabular.encodings import container, encoding_of
from metering.text import filled

__all__ = ["CUSTOMERS_FILE", "METERS_FILE", "METER_VERSIONS", "Registry", "meter_versions", "parse_registry"]

CUSTOMERS_FILE = "customers.csv"
METERS_FILE = "meters.csv"

_MOMENTS = ("valid_from_at", "valid_to_at")
_MOMENT = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?$"

PF_STANDARDS = (0.90, 0.85, 0.80)
METER_ID_LENGTH = 64
WHOLE_SCOPE = "*"

_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
_SCIENTIFIC = r"^[+-]?\d+([.,]\d+)?[eE][+-]\d+$"
"""How spreadsheets write a long number that they were not told is text."""
_SPREADSHEET_EPOCH = date(1899, 12, 30)
_SERIAL_DAYS = (36526, 73415)  # 2000 to 2100

_POSITIVE = frozenset(
    {
        *("voltage_level_kv", "contract_capacity_kva", "contract_demand_kw"),
        *("nominal_v", "pt_ratio", "ct_ratio", "rated_a", "max_a"),
    }
)


_IDS = ("meter_id", "customer_no")


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """A valid registry. `customers` has CUSTOMERS' schema, `meters` METERS', `meter_versions` METER_VERSIONS.

    A customer has a row for each of its periods in `customers`: ask `customers_on` for one row each.
    """

    customers: pl.DataFrame
    meters: pl.DataFrame
    meter_versions: pl.DataFrame

    def customers_on(self, day: date, since: date | None = None) -> pl.DataFrame:
        """One row for each customer, by customer_no: the one that is valid on a local `day`.

        With `since` customers count too that were valid at some time from then on; the last of their rows is theirs.
        """
        begun = pl.col("valid_from").is_null() | (pl.col("valid_from") <= day)
        not_over = pl.col("valid_to").is_null() | (pl.col("valid_to") >= (since or day))
        rows = self.customers.filter(begun & not_over).sort("customer_no", "valid_from", nulls_last=False)
        return rows.unique("customer_no", keep="last", maintain_order=True)


@dataclass(frozen=True, slots=True)
class _Check:
    """`bad` marks rows that break it; `problem` is an expression that says how."""

    column: str
    bad: pl.Expr
    problem: pl.Expr


def parse_registry(customers_csv: bytes | str, meters_csv: bytes | str, settings: MeteringSettings) -> Registry:
    """A registry from the text of its two files (UTF-8, header row; further columns are ignored).

    Raises RegistryError for the first line that is wrong: nothing of a registry with an error in it is used.
    """
    customers = _typed(CUSTOMERS_FILE, CUSTOMERS, customers_csv)
    _refuse(CUSTOMERS_FILE, customers, _whole_days())
    customers = _with_moments(customers, settings.timezone)
    _refuse(CUSTOMERS_FILE, _with_overlaps(customers, "customer_no"), _customer_checks(settings))
    meters = _with_moments(_typed(METERS_FILE, METERS_IN_FILE, meters_csv), settings.timezone)
    _refuse(METERS_FILE, _with_overlaps(meters, "meter_id"), _meter_checks(customers["customer_no"]))
    judged = meter_versions(customers, meters, settings)
    _refuse(METERS_FILE, meters, [_class_check(judged)])
    return Registry(customers.select(CUSTOMERS.names), meters.select(METERS.names), judged)


# --- from text to typed columns --------------------------------------------------------------------------------------


def _typed(file: str, table: Table, content: bytes | str) -> pl.DataFrame:
    """The table's columns, typed, and `line`."""
    text = _text(file, table, content)
    parsed = cut(text)
    _check_header(file, table, parsed, text.lstrip())
    _refuse(file, parsed.records, list(_shape_checks(parsed)))
    where = {name: index for index, name in enumerate(parsed.header)}
    cells = parsed.records.select(
        "line", *(_cell(where.get(column.name), column).alias(column.name) for column in table.columns)
    )
    _refuse(file, cells, [check for column in table.columns for check in _cell_checks(column)])
    moments = [_moment(column.name).alias(f"{column.name}_at") for column in table.columns if column.dtype == pl.Date]
    return cells.select("line", *moments, *(_value(column).alias(column.name) for column in table.columns))


def _moment(name: str) -> pl.Expr:
    """A date's cell as the local time that it names; null where it is a date alone."""
    cell = pl.when(pl.col(name).str.contains(_MOMENT)).then(pl.col(name).str.replace("T", " ").str.slice(0, 16))
    seconds = pl.col(name).str.slice(17, 2).cast(pl.Int64, strict=False).fill_null(0)
    return cell.str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False) + pl.duration(seconds=seconds)


def _with_moments(meters: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Validity as instants: local times that a cell names, or whole local days."""
    named = meters.with_columns(instant(pl.col(name), zone).alias(name) for name in _MOMENTS)
    return named.with_columns(validity(zone))


def _cell(index: int | None, column: Column) -> pl.Expr:
    """A column's cells without blanks around; null, or the column's default, where they or the column are not there."""
    default = pl.lit(column.default, pl.String)
    if index is None:
        return default
    cell = pl.col("cells").list.get(index).str.strip_chars().replace("", None)
    return pl.coalesce(cell, default) if column.default else cell


def _text(file: str, table: Table, content: bytes | str) -> str:
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    if kind := _no_text(content):
        raise RegistryError(file, 1, table.names[0], f"{kind}; save it as CSV in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        line = before.count("\n") + 1
        header = cut(before).header if line > 1 else table.names
        cell = cut(before.rpartition("\n")[2] + "x").header
        column = header[min(len(cell), len(header)) - 1]
        guess = (
            " but seems to be GB18030, as Excel's plain CSV is in Chinese" if encoding_of(content) == "gb18030" else ""
        )
        raise RegistryError(file, line, column, f"is not UTF-8{guess}; save the file as UTF-8") from None


def _no_text(content: bytes) -> str | None:
    """What a file is that is no text of single bytes for all to see."""
    if kind := container(content):
        return f"the file is {kind}, not CSV"
    if encoding_of(content).startswith("utf-16"):
        return "the file is UTF-16, as Excel's 'Unicode text' is"
    return None


def _check_header(file: str, table: Table, parsed: Delimited, text: str) -> None:
    line = max(parsed.header_line, 1)
    needed = [column.name for column in table.columns if not column.optional]
    for column in table.columns:
        count = parsed.header.count(column.name)
        if count > 1 or (not count and not column.optional):
            problem = "stands twice in the header" if count else "is missing from the header"
            for separator, name in _SEPARATORS.items():
                if not count and set(needed) <= set(cut(text.partition("\n")[0], separator).header):
                    problem = f"is in the header, but cells are separated by {name}; separate them by commas"
            raise RegistryError(file, line, column.name, f"{problem}; expected {','.join(table.names)}")


def _shape_checks(parsed: Delimited) -> Iterator[_Check]:
    count = pl.col("cells").list.len()
    width = len(parsed.header)
    yield _Check(parsed.header[0], pl.col("problem").is_not_null(), pl.col("problem"))
    said = filled("the line has {} cells, the header {}", count, pl.lit(width))
    extra = pl.col("cells").list.slice(width).list.join("") != ""
    yield _Check(parsed.header[-1], (count < width) | extra, said)


def _cell_checks(column: Column) -> Iterator[_Check]:
    cell = pl.col(column.name)
    if not column.nullable:
        yield _Check(column.name, cell.is_null(), pl.lit("is empty"))
    value = _value(column)
    if column.name in _IDS:
        said = "'{}' is a number as spreadsheets shorten it, its digits are lost: format the column as text there"
        yield _Check(column.name, cell.str.contains(_SCIENTIFIC), filled(said, cell))
    yield _Check(column.name, cell.is_not_null() & value.is_null(), _no_value(column))
    if column.dtype == pl.Float64:
        yield _Check(column.name, ~value.is_finite(), filled("'{}' is not a finite number", cell))
    if column.name in _POSITIVE:
        yield _Check(column.name, value <= 0, filled("'{}' is not above 0", cell))
    if column.minimum is not None and column.maximum is not None:
        span = f"is not between {column.minimum:g} and {column.maximum:g}"
        yield _Check(
            column.name, ~value.is_between(column.minimum, column.maximum), filled("'{}' {}", cell, pl.lit(span))
        )
    if column.allowed:
        yield _Check(
            column.name,
            ~cell.is_in(column.allowed),
            filled("'{}' is not one of {}", cell, pl.lit(", ".join(column.allowed))),
        )


def _no_value(column: Column) -> pl.Expr:
    """How a cell is not what its column wants."""
    cell = pl.col(column.name)
    plain = filled("'{}' is not {}", cell, pl.lit(_kind(column)))
    if column.dtype != pl.Date:
        return plain
    serial = cell.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    day = pl.when(serial.is_between(*_SERIAL_DAYS)).then(pl.lit(_SPREADSHEET_EPOCH) + pl.duration(days=serial))
    counted = filled("'{}' is a date as spreadsheets count days: write it as {}", cell, day.cast(pl.Date))
    parts = cell.str.extract_groups(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})$").struct
    year, month, of_month = (parts.field(str(part)).str.zfill(2) for part in (1, 2, 3))
    turned = filled("{}: write it as {}-{}-{}", plain, year, month, of_month)
    return pl.coalesce(counted, turned, plain)


def _kind(column: Column) -> str:
    if column.dtype == pl.Float64:
        return "a number"
    if column.dtype == pl.Int32:
        return "a whole number"
    return "true or false" if column.dtype == pl.Boolean else "a date such as 2026-01-31, or a time 2026-01-31T12:00"


def _value(column: Column) -> pl.Expr:
    """A column's cells as its type; null where they are not."""
    cell = pl.col(column.name)
    if column.dtype == pl.Boolean:
        lower = cell.str.to_lowercase()
        return pl.when(lower == "true").then(True).when(lower == "false").then(False)
    if column.dtype == pl.Date:
        # four-digit years only: 26-01-31 would be a date in the first century
        day = cell.str.contains(r"^\d{4}-\d{2}-\d{2}$") | _moment(column.name).is_not_null()
        return pl.when(day).then(cell.str.slice(0, 10)).str.to_date("%Y-%m-%d", strict=False)
    return cell.cast(column.dtype, strict=False)


# --- rules between columns and rows ----------------------------------------------------------------------------------


def _whole_days() -> list[_Check]:
    said = "names a time of the day: the period of a customer's row is whole days"
    return [_Check(name, pl.col(f"{name}_at").is_not_null(), pl.lit(said)) for name in ("valid_from", "valid_to")]


def _customer_checks(settings: MeteringSettings) -> list[_Check]:
    tariffs = list(dict.fromkeys(tariff.name for tariff in settings.tariffs))
    number, standard, tariff = pl.col("customer_no"), pl.col("pf_standard"), pl.col("tariff")
    first, last, suspended = pl.col("valid_from"), pl.col("valid_to"), pl.col("suspended_kva")
    return [
        _Check("customer_no", number == WHOLE_SCOPE, pl.lit("'*' stands for all customers; use another number")),
        _Check(
            "customer_no",
            number.str.contains(f"^({'|'.join(GROUPS)}):"),
            filled("'{}' stands for a group of customers; use another number", number),
        ),
        _Check(
            "customer_no",
            pl.col("overlaps") & pl.col("valid_from").is_null() & pl.col("valid_to").is_null(),
            filled("{} stands in the file twice, as on line {}", number, pl.col("before")),
        ),
        _Check("valid_to", last < first, filled("{} is before valid_from {}", last, first)),
        _Check(
            "valid_from",
            pl.col("overlaps"),
            filled("overlaps the validity of {} on line {}", number, pl.col("before")),
        ),
        _Check("suspended_kva", suspended < 0, filled("{} is below 0", suspended)),
        _Check("protected_kw", pl.col("protected_kw") < 0, filled("{} is below 0", pl.col("protected_kw"))),
        _Check(
            "suspended_kva",
            suspended > pl.col("contract_capacity_kva"),
            filled("{} is more than the contract capacity, {}", suspended, pl.col("contract_capacity_kva")),
        ),
        _Check("pf_standard", ~standard.is_in(PF_STANDARDS), filled("{} is not 0.90, 0.85 or 0.80", standard)),
        _Check(
            "tariff",
            ~tariff.is_in(tariffs),
            filled("'{}' is not in the settings, which name {}", tariff, pl.lit(", ".join(tariffs))),
        ),
    ]


def _meter_checks(customer_nos: pl.Series) -> list[_Check]:
    meter, interval, digits = pl.col("meter_id"), pl.col("interval_s"), pl.col("register_digits")
    before, first, last = pl.col("before"), pl.col("valid_from"), pl.col("valid_to")
    begin, end = (pl.col(name) for name in _MOMENTS)
    return [
        _Check("meter_id", meter.str.len_chars() > METER_ID_LENGTH, pl.lit(f"is longer than {METER_ID_LENGTH}")),
        _Check(
            "customer_no",
            ~pl.col("customer_no").is_in(customer_nos.to_list()),
            filled("{} is not in {}", pl.col("customer_no"), pl.lit(CUSTOMERS_FILE)),
        ),
        _Check("register_digits", digits < 1, filled("{} is not above 0", digits)),
        _Check(
            "interval_s",
            DAY_S % interval != 0,
            filled("{} s does not divide a day", interval),
        ),
        _Check("valid_to", end <= begin, filled("{} is before valid_from {}", last, first)),
        _Check(
            "valid_from",
            pl.col("overlaps"),
            filled("overlaps the validity of {} on line {}", meter, before),
        ),
    ]


def _class_check(judged: pl.DataFrame) -> _Check:
    bare = judged.filter(pl.col("u_lower_v").is_null())["meter_id"].to_list()
    return _Check(
        "wiring",
        pl.col("meter_id").is_in(bare),
        filled("no class of [[voltage.classes]] covers {} at its customer's voltage level", pl.col("wiring")),
    )


def _with_overlaps(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """`overlaps` marks a row that starts before an earlier one of its key ends; `before` is that one's line."""
    begin = pl.col("valid_from_at").fill_null(datetime.min.replace(tzinfo=UTC))
    ends = pl.col("valid_to_at").fill_null(datetime.max.replace(tzinfo=UTC)).shift(1).cum_max().over(key)
    versions = (
        rows.filter(pl.col(key).is_duplicated())
        .with_columns(begin.alias("begin"))
        .sort(key, "begin", "line")
        .select(
            "line",
            pl.col("line").shift(1).over(key).alias("before"),
            (pl.col("begin") < ends).alias("overlaps"),
        )
    )
    return rows.join(versions, on="line", how="left", maintain_order="left")


def _refuse(file: str, rows: pl.DataFrame, checks: list[_Check]) -> None:
    """Raise RegistryError for the first line that breaks a check; of several on that line, the first check."""
    marked = rows.select("line", *(check.bad.fill_null(False).alias(str(i)) for i, check in enumerate(checks)))
    first = marked.filter(pl.any_horizontal(pl.exclude("line"))).head(1)
    if first.is_empty():
        return
    broken = next(check for i, check in enumerate(checks) if first[str(i)][0])
    line = int(first["line"][0])
    # the problem is worded over all rows, so that expressions over neighbours still see them
    worded = rows.with_columns(broken.problem.cast(pl.String).alias("problem")).filter(pl.col("line") == line)
    raise RegistryError(file, line, broken.column, str(worded["problem"][0]))
