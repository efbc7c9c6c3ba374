"""Views: each works on an empty warehouse, gives what it declares, and carries its comments."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pytest

from metering.tables import Column, Table, warehouse
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


def test_what_a_low_power_factor_costs_is_told_where_there_are_charges() -> None:
    charges = Table("charges_monthly", "", (), (Column("customer_no", pl.String, ""),))
    told = views([*TABLES.values(), charges], PERIODS)["below_power_factor_standard"]
    with duckdb.connect() as connection:
        for name in ("customers", "power_factor_monthly"):
            rows = {
                "customer_no": ["A", "B"],
                "month": date(2026, 3, 1),
                "name": ["x", "y"],
                "power_factor": [0.89, 0.9],
            }
            frame = TABLES[name].conform(pl.DataFrame(rows), pf_standard=0.9)
            connection.register(name, frame.to_arrow())
        connection.execute("""
            CREATE TABLE charges_monthly AS SELECT * FROM (VALUES
                ('A', DATE '2026-03-01', 'power_factor_adjustment', 120.50::DECIMAL(18, 2)),
                ('A', DATE '2026-03-01', 'power_factor_adjustment', -20.00::DECIMAL(18, 2)),
                ('A', DATE '2026-03-01', 'energy', 9999.00::DECIMAL(18, 2))
            ) AS c (customer_no, month, component, amount)
        """)
        found = connection.sql(told.sql)
        assert found.columns == [column.name for column in told.columns]
        place = found.columns.index("surcharge_yuan")
        assert [(row[1], row[place]) for row in found.fetchall()] == [("A", Decimal("100.50"))]
