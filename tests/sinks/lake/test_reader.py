"""The lake as batch reads it: typed frames by local date, current state, footers."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from metering.tables import LAKE
from sinks.lake.reader import LakeReader, current, newest, part_facts

D1, D2 = date(2026, 1, 1), date(2026, 1, 2)
AT = datetime(2026, 1, 1, 0, 15, tzinfo=UTC)


def windows(revision: int, p_kw: float, n: int = 2) -> pl.DataFrame:
    rows = [{"meter_id": "M1", "customer_no": "C1", "window_end": AT + k * timedelta(minutes=15)} for k in range(n)]
    return LAKE["windows"].conform(pl.DataFrame(rows), n=1, n_expected=1, p_mean_kw=p_kw, revision=revision, date=D1)


def write(home: Path, day: date, name: str, frame: pl.DataFrame, table: str = "windows") -> Path:
    path = home / "lake" / table / f"date={day}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.drop("date").write_parquet(path)
    return path


def test_rows_carry_the_date_of_their_folder_in_the_declared_schema(tmp_path: Path) -> None:
    lake = LakeReader(tmp_path)
    write(tmp_path, D1, "0-1.parquet", windows(0, 1.0))
    write(tmp_path, D2, "0-1.parquet", windows(0, 2.0))
    assert lake.dates("windows") == [D1, D2]
    rows = lake.scan("windows").collect()
    assert rows.schema == LAKE["windows"].schema
    assert rows["date"].to_list() == [D1, D1, D2, D2]
    assert lake.scan("windows", [D2]).collect()["p_mean_kw"].to_list() == [2.0, 2.0]


def test_absent_tables_and_days_are_typed_and_empty(tmp_path: Path) -> None:
    lake = LakeReader(tmp_path)
    for name, table in LAKE.items():
        assert lake.dates(name) == []
        assert lake.scan(name, [D1]).collect().schema == table.schema


def test_only_parts_are_read_and_a_column_that_an_older_part_lacks_is_null(tmp_path: Path) -> None:
    lake = LakeReader(tmp_path)
    part = write(tmp_path, D1, "0-1.parquet", windows(0, 1.0).drop("pf"))
    part.with_name(".0-2.parquet.tmp").write_bytes(b"half")
    rows = lake.scan("windows", [D1]).collect()
    assert rows.height == 2
    assert rows["pf"].null_count() == 2


def test_the_highest_revision_of_a_key_is_current(tmp_path: Path) -> None:
    write(tmp_path, D1, "0-1.parquet", windows(2, 3.0, n=1))
    write(tmp_path, D1, "0-2.parquet", windows(0, 1.0))
    write(tmp_path, D1, "0-3.parquet", windows(1, 2.0, n=1))
    rows = current(LakeReader(tmp_path).scan("windows"), LAKE["windows"].key).collect()
    assert rows["p_mean_kw"].to_list() == [3.0, 1.0]
    unordered = newest(LakeReader(tmp_path).scan("windows").collect(), LAKE["windows"].key)
    assert unordered.sort(LAKE["windows"].key).equals(rows)


def test_a_footer_tells_rows_and_newest_time(tmp_path: Path) -> None:
    part = write(tmp_path, D1, "0-1.parquet", windows(0, 1.0, n=3))
    facts = part_facts(part, "window_end")
    assert facts.rows == 3
    assert facts.newest == AT + timedelta(minutes=30)
    assert part_facts(write(tmp_path, D1, "0-2.parquet", windows(0, 1.0, n=0)), "window_end").newest is None


def reading(at: datetime) -> pl.DataFrame:
    row = pl.DataFrame({"ts": [at]}, schema={"ts": LAKE["readings"].schema["ts"]})
    return LAKE["readings"].conform(
        row, meter_id="M1", customer_no="C1", source="f", source_partition=0, source_offset=0, source_row=0, date=D1
    )


def test_data_has_come_as_far_as_its_newest_reading_less_the_lateness_or_its_newest_whole_window(
    tmp_path: Path,
) -> None:
    """A stream on Kafka closes windows at its watermark, one on files all of them at the files' end, half ones too."""
    lake = LakeReader(tmp_path)
    assert lake.watermark(300) is None
    end = datetime(2026, 1, 1, 2, 7, tzinfo=UTC)
    write(tmp_path, D1, "0.parquet", reading(end - timedelta(hours=1)), "readings")
    write(tmp_path, D1, "1.parquet", reading(end), "readings")
    assert lake.watermark(300) == end - timedelta(seconds=300)
    ends = {"window_end": [datetime(2026, 1, 1, 2, 0, tzinfo=UTC), datetime(2026, 1, 1, 2, 15, tzinfo=UTC)]}
    rows = pl.DataFrame(ends | {"n": [15, 7], "n_expected": [15, 15]}, schema_overrides={
        "window_end": LAKE["windows"].schema["window_end"]})  # fmt: skip
    write(tmp_path, D1, "0.parquet", LAKE["windows"].conform(rows, meter_id="M1", revision=0, date=D1))
    assert lake.watermark(300) == datetime(2026, 1, 1, 2, 2, tzinfo=UTC)  # the window to 02:15 is not whole
    assert lake.watermark(900) == datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
    write(tmp_path, D1, "2.parquet", reading(datetime(2026, 1, 1, 2, 14, 58, tzinfo=UTC)), "readings")
    whole = rows.with_columns(n=pl.lit(15))
    write(tmp_path, D1, "1.parquet", LAKE["windows"].conform(whole, meter_id="M2", revision=0, date=D1))
    assert lake.watermark(300) == datetime(2026, 1, 1, 2, 15, tzinfo=UTC)
