"""Reconciliation: what the stream wrote against what batch computes, up to the watermark of each shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.batch import Batch
from assets.reconciliations import WINDOWS, disputed, reconciliations
from metering.calendar import day_bounds
from metering.registry.index import MeterIndex
from metering.supply.compliance import DAYS_SCHEMA, advance, contributions
from metering.tables import LAKE

DAY = date(2026, 3, 2)


@pytest.fixture
def batch(
    tmp_path: Path,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[..., None],
) -> Batch:
    """One day of readings; its windows are materialised, and written to the lake as the stream would."""
    batch = batch_of(make_batch_home(tmp_path / "home", DAY, 1))
    materialise(batch, [DAY], ["windows"])
    for table in ("windows", "compliance"):
        shutil.rmtree(batch.home / "lake" / table)
    return batch


def write(batch: Batch, table: str, rows: pl.DataFrame, name: str = "0.parquet") -> None:
    folder = batch.home / "lake" / table / f"date={DAY}"
    folder.mkdir(parents=True, exist_ok=True)
    rows.drop("date").write_parquet(folder / name)


def result(batch: Batch) -> dict[str, tuple[int, int, int]]:
    (part,) = reconciliations(batch, [DAY])
    return {row[1]: row[2:] for row in part.rows.iter_rows()}


def closed(batch: Batch) -> pl.DataFrame:
    """Without the last window of each meter, which one day of readings does not close (lateness 5 min)."""
    _, end = day_bounds(DAY, "Asia/Shanghai")
    return batch.marts.read(WINDOWS, [DAY]).filter(pl.col("window_end") < end)


def test_equal_windows_do_not_differ_and_open_ones_are_left_out(batch: Batch) -> None:
    write(batch, "windows", closed(batch))
    assert result(batch)["windows"] == (190, 190, 0)
    write(batch, "windows", batch.marts.read(WINDOWS, [DAY]))
    assert result(batch)["windows"] == (190, 190, 0)


def test_later_readings_of_the_shard_close_the_day(batch: Batch) -> None:
    write(batch, "windows", batch.marts.read(WINDOWS, [DAY]))
    later = batch.lake.scan("readings", [DAY]).filter(pl.col("meter_id") == "M1").tail(1).collect()
    folder = batch.home / "lake" / "readings" / f"date={DAY + timedelta(days=3)}"
    folder.mkdir()
    later.with_columns(pl.col("ts") + pl.duration(days=3)).drop("date").write_parquet(folder / "0.parquet")
    assert result(batch)["windows"] == (191, 191, 0)  # M2 is of another shard


@pytest.mark.parametrize(("before_noon", "compared"), [("a.ndjson", 190), ("b.parquet", 190), ("north/a.ndjson", 189)])
def test_files_of_a_folder_are_one_shard(batch: Batch, before_noon: str, compared: int) -> None:
    """Where one file ends and the next goes on, windows are closed; those of another folder's log are not."""
    write(batch, "windows", batch.marts.read(WINDOWS, [DAY]))
    path = batch.home / "lake" / "readings" / f"date={DAY}" / "0.parquet"
    begin, _ = day_bounds(DAY, "Asia/Shanghai")
    first = pl.col("ts") <= begin + timedelta(hours=12)
    pl.read_parquet(path).with_columns(
        source=pl.when(first).then(pl.lit(before_noon)).otherwise(pl.lit("c.ndjson")),
        source_partition=pl.when(first & pl.lit("/" in before_noon)).then(7).otherwise(0).cast(pl.Int32),
    ).write_parquet(path)
    assert result(batch)["windows"] == (compared, compared, 0)


def test_the_highest_revision_counts(batch: Batch) -> None:
    good = closed(batch)
    write(batch, "windows", good.with_columns(p_mean_kw=pl.col("p_mean_kw") + 1))
    write(batch, "windows", good.with_columns(revision=pl.lit(1, pl.Int32)), "1.parquet")
    assert result(batch)["windows"] == (190, 190, 0)


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        (lambda w: w.slice(1), (189, 190, 1)),
        (lambda w: pl.concat([w.head(3).with_columns(n=pl.lit(99, pl.Int32)), w.slice(3)]), (190, 190, 3)),
        (lambda w: w.with_columns(energy_kwh=pl.col("energy_kwh") * (1 + 1e-6)), (190, 190, 190)),
        (lambda w: w.with_columns(energy_kwh=pl.col("energy_kwh") * (1 + 1e-12)), (190, 190, 0)),
        (lambda w: pl.concat([w, w.head(1).with_columns(meter_id=pl.lit("M9"))]), (191, 190, 1)),
        (lambda w: w.clear(), (0, 190, 190)),
    ],
    ids=["a window is missing", "counts differ", "energy differs", "rounding", "a window too many", "no stream"],
)  # fmt: skip
def test_differences_are_counted_by_key(
    batch: Batch, changed: Callable[[pl.DataFrame], pl.DataFrame], counts: tuple[int, int, int]
) -> None:
    write(batch, "windows", changed(closed(batch)))
    assert result(batch)["windows"] == counts


def _compliance_of(batch: Batch) -> pl.DataFrame:
    """What the stream says of the closed windows' day."""
    meter_versions = batch.registry.meter_versions
    rows = closed(batch)
    index = MeterIndex.of(meter_versions)
    placed = rows.with_columns(meter=index.code(rows["meter_id"]))
    placed = placed.with_columns(version=index.version(placed["meter"], placed["window_end"]))
    empty = pl.DataFrame(schema=DAYS_SCHEMA)
    return advance(empty, contributions(placed, batch.settings), empty, meter_versions, batch.settings.timezone)[1]


def test_compliance_of_the_day_is_held_to_its_closed_windows(batch: Batch) -> None:
    told = _compliance_of(batch)
    write(batch, "compliance", LAKE["compliance"].conform(told))
    assert result(batch)["compliance"] == (2, 2, 0)
    write(batch, "compliance", told.with_columns(day_over_min=pl.col("day_over_min") + 1))
    assert result(batch)["compliance"] == (2, 2, 2)


def test_one_differing_meter_marks_its_own_windows_and_does_not_hold_the_day_back(batch: Batch) -> None:
    good = closed(batch)
    theirs = pl.col("meter_id") == "M1"
    write(batch, "windows", good.with_columns(n_expected=pl.when(theirs).then(3).otherwise("n_expected")))
    write(batch, "compliance", _compliance_of(batch))
    marked = disputed(batch, DAY)
    assert set(marked["meter_id"]) == {"M1"}
    assert marked["window_end"].to_list() == good.filter(theirs)["window_end"].to_list()
    assert set(marked["severity"]) == {"warning"}
    assert "kilowatch recut" in marked["detail"][0]
    (part,) = reconciliations(batch, [DAY])
    assert not part.problem
    assert part.rows.filter(table_name="windows")["differing_rows"].item() == 95
    assert not batch.marts.refused()


def test_a_day_of_which_all_meters_differ_is_refused_by_name_until_they_are_alike(batch: Batch) -> None:
    write(batch, "windows", closed(batch).with_columns(n_expected=3))
    assert disputed(batch, DAY).is_empty()
    (part,) = reconciliations(batch, [DAY])
    assert "meters M1, M2" in part.problem
    assert "kilowatch recut" in part.problem
    assert batch.marts.refused() == {DAY: part.problem}
    write(batch, "windows", closed(batch))
    write(batch, "compliance", _compliance_of(batch))
    (part,) = reconciliations(batch, [DAY])
    assert not part.problem
    assert not batch.marts.refused()


def test_windows_that_are_taken_back_are_no_windows(batch: Batch) -> None:
    good = closed(batch)
    write(batch, "windows", good)
    gone = LAKE["windows"].conform(
        good.head(3).select("window_end", "customer_no", "date", meter_id=pl.lit("M9")),
        n=0, n_expected=0, covered_min=0.0, revision=1,
    )  # fmt: skip
    write(batch, "windows", gone, "1.parquet")
    assert result(batch)["windows"] == (190, 190, 0)
