"""`kilowatch lists`: proposed by the assets, approved by an office, in the warehouse at once; errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from assets.batch import Batch, gated
from assets.catalogue import RESULTS
from metering.errors import UserError
from metering.tables.batch import BATCH
from orchestration.cli import cli
from orchestration.home.registry_files import load
from orchestration.home.settings import load_settings
from sinks.warehouse import query

DAY = date(2026, 3, 2)
TABLES = ("customers", "meters", "windows", "meter_curve", "meter_daily", "daily_curve", "daily_load", "customer_lists")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, make_batch_home: Callable[[Path, date, int], Path]) -> Path:
    home = make_batch_home(tmp_path_factory.mktemp("lists") / "home", DAY, 1)
    settings = load_settings(home)
    batch = Batch(home, settings.metering, lambda: load(home, settings))
    for result in RESULTS:
        if result.table in TABLES:
            table = batch.tables.get(result.table) or BATCH[result.table]
            gated(batch, table, [DAY], result.compute(batch, [DAY])).stage.publish()
    return home


def run(home: Path, *arguments: str) -> str:
    ran = CliRunner().invoke(cli, ["lists", *arguments, "--home", str(home)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_a_proposal_is_approved_and_the_warehouse_follows(home: Path) -> None:
    shown = run(home, "show").split()
    assert [word for word in shown if word in ("large", "top20", "important")] == ["important", "large", "top20"]
    said = run(home, "approve", "top20", "--by", "营销部", "--drop", "C2", "--why", "review")
    assert "1 customers from 2026-03-02 on, approved by 营销部" in said
    rows = query(
        home, "SELECT customer_no, state, change, approver FROM customer_lists WHERE list = 'top20' ORDER BY ALL"
    )
    assert rows.rows() == [("C1", "approved", None, "营销部"), ("C2", "proposed", "add", None)]
    assert "C2" in run(home, "show", "top20")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("approve", "larg", "--by", "x"), "no list 'larg'; there are large"),
        (("approve", "large", "--by", " "), "--by"),
        (("approve", "large", "--by", "x", "--add", "C9"), "no such customer"),
        (("approve", "large", "--by", "x", "--drop", "C2"), "not on the list"),
        (("approve", "closure", "--by", "x"), "nobody is on the list"),
    ],
)
def test_what_cannot_be_approved_is_said(home: Path, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(home.glob("lists/*"))
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(cli, ["lists", *arguments, "--home", str(home)], catch_exceptions=False)
    assert sorted(home.glob("lists/*")) == before


def test_without_results_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kilowatch materialize"):
        CliRunner().invoke(cli, ["lists", "show", "--home", str(tmp_path)], catch_exceptions=False)
