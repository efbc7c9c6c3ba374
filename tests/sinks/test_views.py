"""Views: each works on an empty warehouse, gives what it declares, and carries its comments."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest

from metering.tables import warehouse
from metering.tables.views import views
from sinks.warehouse import build, query, warehouse_path

PERIODS = ("peak", "flat", "deep_valley")
TABLES = warehouse(PERIODS)
VIEWS = views(TABLES.values(), PERIODS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("views")
    build(home, TABLES, VIEWS.values())
    return home


def test_no_view_has_the_name_of_a_table() -> None:
    assert not {*VIEWS} & {*TABLES}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_gives_what_it_declares(home: Path, name: str) -> None:
    frame = query(home, f'FROM "{name}"')
    declared = {column.name: column.dtype for column in VIEWS[name].columns}
    assert frame.columns == list(declared)
    for column, dtype in declared.items():
        found = frame.schema[column]
        assert found == dtype or (isinstance(found, pl.Datetime) and isinstance(dtype, pl.Datetime)), column
    assert frame.height == (len(TABLES) if name == "freshness" else 0)


def test_views_and_their_columns_are_commented_under_any_name_of_the_file(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another-name.duckdb"
    copy.write_bytes(warehouse_path(home).read_bytes())
    with duckdb.connect(str(copy), read_only=True) as connection:
        said = dict(connection.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall())
        bare = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM voltage_worst").fetchone() == (0,)
    assert said == {view.name: view.meaning for view in VIEWS.values()}
    assert bare == []
