"""Files are read whole, in order, in any chunks, and from wherever a commit left off: a folder is one log."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering.errors import OperationError, UserError
from metering.readings.decode import Lines
from pipelines.sources.files import FileReader, FileSource, Progress, partition_of_folder
from pipelines.sources.poll import Batch, OwnShard, Position, Segment


def never(_: str) -> None:
    return None


def drain(reader: FileReader, at_most: int = 10_000) -> list[Batch]:
    batches: list[Batch] = []
    while not reader.finished and len(batches) < at_most:
        batches += reader.poll()
    reader.close()
    return batches


def read(path: Path, batch_rows: int, positions: dict[str, Position] | None = None) -> list[Batch]:
    return drain(FileSource(path, batch_rows).open(0, 1, (positions or {}).get))


def joined(batches: list[Batch]) -> bytes:
    return b"".join(data_of(batch) for batch in batches)


def data_of(batch: Batch) -> bytes:
    assert isinstance(batch.content, Lines)
    return batch.content.data


def frames(batches: list[Batch]) -> list[pl.DataFrame]:
    parts = [batch.content for batch in batches if isinstance(batch.content, pl.DataFrame)]
    assert len(parts) == len([batch for batch in batches if items(batch)])
    return parts


def items(batch: Batch) -> int:
    return sum(segment.items for segment in batch.segments)


def segments(batches: list[Batch]) -> list[Segment]:
    return [segment for batch in batches for segment in batch.segments]


def places(batches: list[Batch]) -> list[tuple[str, int, int]]:
    """File, number in it, and number in the log of every row."""
    return [
        (segment.source, row, row + segment.log_base)
        for segment in segments(batches)
        for row in range(segment.first_row, segment.first_row + segment.items)
    ]


def lines_of(batches: list[Batch]) -> list[bytes]:
    return joined(batches).split(b"\n")[:-1]


# --- one file ---------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(st.binary(max_size=600).map(lambda line: line.replace(b"\n", b"")), max_size=30),
    st.booleans(),
    st.integers(1, 10),
    st.integers(0, 40),
)
def test_lines_are_whole_and_resumable(
    tmp_path: Path, lines: list[bytes], ends_in_newline: bool, batch_rows: int, stop_after: int
) -> None:
    path = tmp_path / "a.ndjson"
    data = b"\n".join(lines) + (b"\n" if ends_in_newline else b"")
    path.write_bytes(data)
    first = drain(FileSource(path, batch_rows).open(0, 1, never), stop_after)
    position = first[-1].segments[-1].after if first else None
    second = drain(FileSource(path, batch_rows).open(0, 1, lambda shard: position if shard == "." else None))
    batches = first + second
    told = data.removeprefix(b"\xef\xbb\xbf")
    assert joined(batches) == told + (b"\n" if told and not told.endswith(b"\n") else b"")
    assert all(batch.content.count == items(batch) for batch in batches if isinstance(batch.content, Lines))
    assert [segment.end for segment in segments(second)] == [False] * (len(segments(second)) - 1) + [True]
    count = told.count(b"\n") + (bool(told) and not told.endswith(b"\n"))
    assert places(batches) == [("a.ndjson", row, row) for row in range(count)]
    assert [segment.after["next"] for segment in segments(batches) if segment.items][-1:] == [count][: bool(count)]


def test_chunks_hold_about_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(10_000)))
    rows = [items(batch) for batch in read(path, 100)]
    assert sum(rows) == 10_000
    assert all(50 <= count <= 200 for count in rows[1:-1])


def test_a_line_longer_than_any_chunk_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"x" * 100_000 + b"\n" + b"y\n")
    batches = read(path, 1)
    assert lines_of(batches) == [b"x" * 100_000, b"y"]
    assert batches[-1].segments[-1].after["next"] == 2


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path) -> None:
    for name in ("a.ndjson", "b.ndjson"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf{}\n{}\n")
    assert joined(read(tmp_path, 1)) == joined(read(tmp_path, 100)) == b"{}\n" * 4


@pytest.mark.parametrize("other", [b"9\n8\n7\n", b"1\n"])
def test_another_file_of_the_same_name_is_refused(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"1\n2\n")
    position = read(path, 10)[-1].segments[-1].after
    path.write_bytes(other)
    with pytest.raises(UserError, match="is not the file that was read before"):
        read(path, 10, {".": position})


# --- a folder is one log ----------------------------------------------------------------------------------------------


def test_a_folders_files_are_one_log_in_order_of_name_and_its_sub_folders_others(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.ndjson", "c.json", "sub/d.ndjson", "sub/deep/e.ndjson"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"{name}"\n', "utf-8")
    for ignored in ("a.ndjson.rejects", "notes.txt", ".hidden.ndjson", ".hid/x.ndjson"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("no", "utf-8")
    batches = read(tmp_path, 10)
    found = [(segment.shard, segment.source, segment.log_base, segment.end) for segment in segments(batches)]
    assert found == [
        (".", "a.ndjson", 0, False), (".", "b.jsonl", 1, False), (".", "c.json", 2, True),
        ("sub", "sub/d.ndjson", 0, True), ("sub/deep", "sub/deep/e.ndjson", 0, True),
    ]  # fmt: skip
    partitions = {segment.shard: segment.partition for segment in segments(batches)}
    assert partitions == {shard: partition_of_folder(shard) for shard in (".", "sub", "sub/deep")}
    assert partitions["."] == 0
    assert len(set(partitions.values())) == 3
    assert all(0 <= partition < 2**31 for partition in partitions.values())


def test_workers_share_the_folders(tmp_path: Path) -> None:
    for name in ("a.ndjson", "b.ndjson", "n/a.ndjson", "o/a.ndjson", "o/b.ndjson", "p/a.ndjson"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n", "utf-8")
    source = FileSource(tmp_path, 1)
    readers = [source.open(worker, 2, never) for worker in (0, 1)]
    assert [sorted({segment.shard for segment in segments(drain(reader))}) for reader in readers] == [
        [".", "o"], ["n", "p"],
    ]  # fmt: skip
    assert [source.worker_of(shard, 2) for shard in (".", "n", "o", "p", "q", "t-0")] == [0, 1, 0, 1, None, None]
    assert readers[0].own_shard("o/gone.ndjson", 7) == OwnShard("o", over=True)
    assert readers[1].own_shard("o/a.ndjson", 0) is None
    assert readers[0].own_shard("meter.readings.v1", 0) is None


def test_more_workers_than_folders_leaves_some_without_work(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text("{}\n", "utf-8")
    reader = FileSource(tmp_path, 10).open(1, 2, never)
    assert reader.finished
    assert reader.poll() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.lists(st.sampled_from([b"{}", b'{"meter_id":"310105200001"}', b""]), max_size=9), min_size=1, max_size=6
    ),
    st.integers(1, 12),
    st.integers(0, 20),
)
def test_files_read_together_keep_their_places_and_go_on_anywhere(
    tmp_path: Path, contents: list[list[bytes]], batch_rows: int, stop_after: int
) -> None:
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    names = [f"2026-03-{number:02}.ndjson" for number in range(1, len(contents) + 1)]
    for name, lines in zip(names, contents, strict=True):
        (folder / name).write_bytes(b"\n".join(lines))  # most of them end without a newline
    first = drain(FileSource(folder, batch_rows).open(0, 1, never), stop_after)
    position = first[-1].segments[-1].after if first else None
    batches = first + drain(FileSource(folder, batch_rows).open(0, 1, lambda _: position))
    held = [b"\n".join(lines) for lines in contents]
    rows = [data.count(b"\n") + (bool(data) and not data.endswith(b"\n")) for data in held]
    wanted = [(name, row) for name, count in zip(names, rows, strict=True) for row in range(count)]
    assert places(batches) == [(*place, number) for number, place in enumerate(wanted)]
    told = [line for data, count in zip(held, rows, strict=True) for line in data.split(b"\n")[:count]]
    assert lines_of(batches) == told
    for batch in batches:
        assert all(segment.after == batch.segments[0].after for segment in batch.segments)


def test_a_folder_of_small_files_is_few_batches(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}.ndjson").write_bytes(b"{}\n" * 10)
    batches = read(tmp_path, 1000)
    assert sum(map(items, batches)) == 3000
    assert len(batches) <= 5


def test_a_file_that_grew_and_one_with_an_earlier_name_go_on_at_the_logs_end(tmp_path: Path) -> None:
    (tmp_path / "b.ndjson").write_bytes(b"1\n2\n")
    (tmp_path / "c.ndjson").write_bytes(b"3\n")
    position = read(tmp_path, 10)[-1].segments[-1].after
    again = read(tmp_path, 10, {".": position})
    assert [(joined([batch]), [s.end for s in batch.segments], batch.segments[0].after) for batch in again] == [
        (b"", [True], position)
    ]
    with (tmp_path / "b.ndjson").open("ab") as file:
        file.write(b"4\n")
    (tmp_path / "a.ndjson").write_bytes(b"5\n6\n")
    (tmp_path / "d.ndjson").write_bytes(b"7\n")
    more = read(tmp_path, 10, {".": position})
    assert joined(more) == b"5\n6\n4\n7\n"
    assert places(more) == [("a.ndjson", 0, 3), ("a.ndjson", 1, 4), ("b.ndjson", 2, 5), ("d.ndjson", 0, 6)]
    assert read(tmp_path, 10, {".": more[-1].segments[-1].after})[0].content == Lines(b"")


def test_a_file_that_is_gone_keeps_its_position(tmp_path: Path) -> None:
    for name in ("a.ndjson", "b.ndjson"):
        (tmp_path / name).write_bytes(b"1\n2\n")
    position = read(tmp_path, 10)[-1].segments[-1].after
    (tmp_path / "a.ndjson").rename(tmp_path / "aside")
    without = read(tmp_path, 10, {".": position})[-1].segments[-1].after
    (tmp_path / "aside").rename(tmp_path / "a.ndjson")
    back = read(tmp_path, 10, {".": without})
    assert (joined(back), back[-1].segments[-1].after) == (b"", position)


def test_positions_that_tell_rows_alone_go_on_after_them(tmp_path: Path) -> None:
    """As they are made anew from the lake."""
    (tmp_path / "a.ndjson").write_bytes(b"\xef\xbb\xbf1\n\n3\n4")
    (tmp_path / "b.ndjson").write_bytes(b"5\n6\n")
    position = {"next": 9, "files": {"a.ndjson": {"row": 3}, "b.ndjson": {"row": 2}}}
    batches = read(tmp_path, 10, {".": position})
    assert (joined(batches), places(batches)) == (b"4\n", [("a.ndjson", 3, 9)])
    after = batches[-1].segments[-1].after
    assert (after["next"], after["files"]["a.ndjson"]["byte"]) == (10, 9)
    assert joined(read(tmp_path, 10, {".": after})) == b""
    with pytest.raises(UserError, match="is not the file that was read before"):
        read(tmp_path, 10, {".": {"next": 9, "files": {"b.ndjson": {"row": 3}}}})


# --- Parquet ----------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(0, 60), st.integers(1, 25), st.integers(1, 20), st.integers(0, 20))
def test_parquet_rows_are_whole_and_resumable(
    tmp_path: Path, rows: int, group_rows: int, batch_rows: int, stop_after: int
) -> None:
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"meter_id": [f"M{i}" for i in range(rows)], "p_kw": range(rows)})
    frame.write_parquet(path, row_group_size=group_rows)
    first = drain(FileSource(path, batch_rows).open(0, 1, never), stop_after)
    position = first[-1].segments[-1].after if first else None
    batches = first + drain(FileSource(path, batch_rows).open(0, 1, lambda _: position))
    assert [n for part in frames(batches) for n in part["p_kw"]] == list(range(rows))
    assert segments(batches)[-1].end
    assert all(part.height <= batch_rows for part in frames(batches))
    assert places(batches) == [("a.parquet", row, row) for row in range(rows)]
    for batch in batches:
        assert items(batch) == (batch.content.height if isinstance(batch.content, pl.DataFrame) else 0)


def test_parquet_among_lines_keeps_the_order_of_names(tmp_path: Path) -> None:
    for number, name in enumerate(("a.ndjson", "c.ndjson", "e.ndjson")):
        (tmp_path / name).write_bytes(b"%d\n" % number)
    for name in ("b.parquet", "d.parquet"):
        pl.DataFrame({"p_kw": range(3)}).write_parquet(tmp_path / name)
    batches = read(tmp_path, 2)
    names = ["a.ndjson", *["b.parquet"] * 3, "c.ndjson", *["d.parquet"] * 3, "e.ndjson"]
    found = places(batches)
    assert [name for name, _, _ in found] == names
    assert [number for _, _, number in found] == list(range(9))
    stopped = drain(FileSource(tmp_path, 2).open(0, 1, never), 2)
    rest = read(tmp_path, 2, {".": stopped[-1].segments[-1].after})
    assert places(stopped) + places(rest) == found


def test_another_parquet_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"p_kw": range(10)}).write_parquet(path)
    position = read(path, 100)[-1].segments[-1].after
    assert [segment.end for segment in segments(read(path, 100, {".": position}))] == [True]
    pl.DataFrame({"p_kw": range(1, 11)}).write_parquet(path)
    with pytest.raises(UserError, match="is not the file that was read before"):
        read(path, 100, {".": position})


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"a\.parquet is not a Parquet file that can be read"):
        read(tmp_path, 10)
    numbers = random.Random(1)
    pl.DataFrame({"p_kw": [numbers.random() for _ in range(5000)]}).write_parquet(path)
    data = bytearray(path.read_bytes())
    data[8:4000] = bytes(3992)
    path.write_bytes(data)
    with pytest.raises(OperationError, match=r"a\.parquet cannot be read from row 0 on"):
        read(tmp_path, 10)


# --- what a user meets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "does not exist"), ("empty", "holds no telemetry"), ("a.csv", "kilowatch replay")]
)
def test_a_path_without_telemetry_is_a_users_mistake(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x\n", "utf-8")
    with pytest.raises(UserError, match=message):
        FileSource(tmp_path / name, 10).open(0, 1, never)


def test_progress_runs_from_none_to_all_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"{}\n" * 1000)
    pl.DataFrame({"p_kw": range(100)}).write_parquet(tmp_path / "b.parquet")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.ndjson").write_bytes(b"{}\n" * 500)
    total = sum(path.stat().st_size for path in tmp_path.rglob("*.*"))
    reader = FileSource(tmp_path, 40).open(0, 1, never)
    assert reader.progress == Progress(0, total)
    seen = [reader.progress.read_bytes for _ in iter(lambda: bool(reader.poll()), False)]
    assert seen == sorted(seen)
    assert reader.finished
    assert reader.progress == Progress(total, total)


def test_a_folder_of_many_files_holds_few_of_them_open(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.ndjson").write_bytes(b"{}\n" * 5)
    reader = FileSource(tmp_path, 7).open(0, 1, never)
    most = 0
    while not reader.finished:
        reader.poll()
        most = max(most, _open_below(tmp_path))
    assert most <= 2
    reader.close()
    assert _open_below(tmp_path) == 0


def _open_below(folder: Path) -> int:
    opened: Sequence[Path] = list(Path("/proc/self/fd").iterdir())
    return sum(path.exists() and str(path.resolve()).startswith(f"{folder}/") for path in opened)
