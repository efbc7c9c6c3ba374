"""The warehouse: `<home>/warehouse.duckdb`, a projection of the marts, built aside and published whole.

Here: building, publishing and querying the DuckDB file. Not here: how its rows are computed (they come from
`sinks.marts`). The file is written in a storage version that DuckDB 1.2 and later read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from metering.errors import OperationError, UserError
from metering.tables import TIMESTAMP, Column, Table
from metering.tables.views import View
from sinks.locking import locked
from sinks.marts import Marts, sync

STORAGE_VERSION = "v1.2.0"
NAME = "warehouse.duckdb"
BUILDING = "warehouse.building.duckdb"

_SQL_TYPES: dict[pl.DataType, str] = {
    pl.String(): "VARCHAR",
    pl.Boolean(): "BOOLEAN",
    pl.Int32(): "INTEGER",
    pl.Int64(): "BIGINT",
    pl.Float64(): "DOUBLE",
    pl.Date(): "DATE",
    pl.Binary(): "BLOB",
    TIMESTAMP: "TIMESTAMPTZ",
}


def warehouse_path(home: Path) -> Path:
    return home / NAME


def build(
    home: Path, tables: Mapping[str, Table], views: Iterable[View] = (), memory_limit: str = "2GB"
) -> dict[str, int]:
    """Build the warehouse of `home` from its marts and publish it; gives the rows of each table.

    Every table of `tables` is there, empty when nothing of it has been materialised, sorted by its key, and `views` of
    them, with a comment on each and on every column. Readers keep the file they opened; who opens the path next gets
    the new one. Raises OperationError when the file cannot be built; the published one then stays as it was.
    """
    with _only_builder(home):
        building = home / BUILDING
        _remove(building)
        try:
            rows = _fill(building, Marts(home), tables, views, memory_limit)
        except duckdb.Error as error:
            _remove(building)
            raise OperationError(f"the warehouse could not be built: {_one_line(error)}") from error
        sync(building)
        building.replace(warehouse_path(home))
        sync(home)
        return rows


@dataclass(frozen=True)
class Then:
    """The warehouse at an earlier time: of each table SQL that says which rows there were, `frames` of those that were
    otherwise, and the views of them.
    """

    rows: Mapping[str, str]
    frames: Mapping[str, pl.DataFrame]
    views: Sequence[View]


def query(home: Path, sql: str, timezone: str = "UTC", then: Then | None = None) -> pl.DataFrame:
    """The result of one SQL query on the published warehouse, read-only; times are shown in `timezone`. `then`: on it
    as it was.

    Raises UserError when there is no warehouse yet, or the SQL is wrong or yields no table.
    """
    path = warehouse_path(home)
    if not path.exists():
        raise UserError(f"no warehouse at {path} yet: run `kilowatch materialize --from DATE --to DATE` first")
    try:
        with _opened(path, then) as connection:
            connection.execute("SET TimeZone = ?", [timezone])
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            return _result(connection, sql)
    except duckdb.Error as error:
        raise UserError(_one_line(error)) from error
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise UserError(f"the result cannot be shown: {_one_line(error)}; CAST or rename that column") from error


@contextmanager
def _opened(path: Path, then: Then | None) -> Iterator[duckdb.DuckDBPyConnection]:
    if then is None:
        with duckdb.connect(str(path), read_only=True, config=_config()) as connection:
            yield connection
        return
    with duckdb.connect(":memory:", config=_config()) as connection:
        connection.execute(f"ATTACH {_text(str(path))} AS published (READ_ONLY)")
        there = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        for name, where in then.rows.items():
            if name not in there:  # the warehouse is older than the table
                continue
            if name in then.frames:
                connection.register(f"{name} then", then.frames[name].to_arrow())
                connection.execute(f"CREATE VIEW {_name(name)} AS FROM {_name(f'{name} then')}")
            else:
                connection.execute(f"CREATE VIEW {_name(name)} AS FROM published.{_name(name)} WHERE {where}")
        for view in then.views:
            with suppress(duckdb.CatalogException):
                _view(connection, view)
        yield connection


def _result(connection: duckdb.DuckDBPyConnection, sql: str) -> pl.DataFrame:
    relation = connection.sql(sql)
    if relation is None:
        raise UserError("the statement yields no table: give a query such as SELECT * FROM kpi")
    # Polars knows neither intervals nor 128-bit integers (the type of a sum of integers)
    renamed = {"INTERVAL": "VARCHAR", "HUGEINT": "BIGINT"}
    types = [str(kind) for kind in relation.types]
    if set(types) & set(renamed):
        columns = [
            f"TRY_CAST({_name(c)} AS {renamed[t]}) AS {_name(c)}" if t in renamed else _name(c)
            for c, t in zip(relation.columns, types, strict=True)
        ]
        relation = relation.project(", ".join(columns))
    frame = pl.from_arrow(relation.to_arrow_table())
    if not isinstance(frame, pl.DataFrame):
        raise UserError("the statement yields no table: give a query such as SELECT * FROM kpi")
    return frame


def _config() -> dict[str, str | bool | int | float | list[str]]:
    return {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "memory_limit": "2GB"}


def _fill(
    building: Path, marts: Marts, tables: Mapping[str, Table], views: Iterable[View], memory_limit: str
) -> dict[str, int]:
    config = _config() | {"memory_limit": memory_limit, "temp_directory": f"{building}.tmp"}
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"ATTACH {_text(building)} AS built (STORAGE_VERSION '{STORAGE_VERSION}')")
        connection.execute("USE built")
        connection.execute("BEGIN")  # a commit for each comment would cost more than the rows
        for table in tables.values():
            _create(connection, table)
        for view in views:
            _view(connection, view)
        connection.execute("COMMIT")
        rows = {name: _insert(connection, table, marts.files(name)) for name, table in tables.items()}
        connection.execute("USE memory")
        connection.execute("CHECKPOINT built")
        connection.execute("DETACH built")
    return rows


def _create(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    name = _name(table.name)
    connection.execute(f"CREATE TABLE {name} ({', '.join(_ddl(column) for column in table.columns)})")
    connection.execute(f"COMMENT ON TABLE {name} IS {_text(table.meaning)}")
    _comment(connection, name, table.columns)


def _insert(connection: duckdb.DuckDBPyConnection, table: Table, files: list[Path]) -> int:
    if not files:
        return 0
    connection.execute(f"INSERT INTO {_name(table.name)} {_select(connection, table, files)}")
    counted = connection.execute(f"SELECT count(*) FROM {_name(table.name)}").fetchone()
    return int(counted[0]) if counted else 0


def _view(connection: duckdb.DuckDBPyConnection, view: View) -> None:
    """In the current catalogue, by names of tables alone, so that they hold whatever the file is called."""
    columns = ", ".join(_name(column.name) for column in view.columns)
    connection.execute(f"CREATE VIEW {_name(view.name)} ({columns}) AS {view.sql}")
    connection.execute(f"COMMENT ON VIEW {_name(view.name)} IS {_text(view.meaning)}")
    _comment(connection, _name(view.name), view.columns)


def _comment(connection: duckdb.DuckDBPyConnection, name: str, columns: Iterable[Column]) -> None:
    for column in columns:
        connection.execute(f"COMMENT ON COLUMN {name}.{_name(column.name)} IS {_text(column.comment)}")


def _ddl(column: Column) -> str:
    dtype = column.dtype() if isinstance(column.dtype, type) else column.dtype
    kind = f"DECIMAL({dtype.precision}, {dtype.scale})" if isinstance(dtype, pl.Decimal) else _SQL_TYPES[dtype]
    return f"{_name(column.name)} {kind}{'' if column.nullable else ' NOT NULL'}"


def _select(connection: duckdb.DuckDBPyConnection, table: Table, files: list[Path]) -> str:
    listed = ", ".join(_text(path) for path in files)
    source = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    columns = ", ".join(_name(n) if n in present else f"NULL AS {_name(n)}" for n in table.names)
    return f"SELECT {columns} FROM {source} ORDER BY {', '.join(_name(key) for key in table.key)}"


@contextmanager
def _only_builder(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / ".warehouse.lock"):
        yield


def _remove(building: Path) -> None:
    building.unlink(missing_ok=True)
    building.with_name(building.name + ".wal").unlink(missing_ok=True)


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(value: str | Path) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _one_line(error: Exception) -> str:
    before_excerpt = str(error).partition("\nLINE ")[0]
    return " ".join(before_excerpt.split())
