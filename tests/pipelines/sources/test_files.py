"""Files are read whole, in order, in any chunks, and from wherever a commit left off."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering.errors import OperationError, UserError
from metering.readings.decode import Lines
from pipelines.sources.files import FileReader, FileSource, Progress
from pipelines.sources.poll import Poll, Position


def never(_: str) -> None:
    return None


def drain(reader: FileReader, at_most: int = 10_000) -> list[Poll]:
    polls: list[Poll] = []
    while not reader.finished and len(polls) < at_most:
        polls += reader.poll()
    reader.close()
    return polls


def read(path: Path, batch_rows: int, positions: dict[str, Position] | None = None) -> list[Poll]:
    return drain(FileSource(path, batch_rows).open(0, 1, (positions or {}).get))


def joined(polls: list[Poll]) -> bytes:
    parts = [poll.content.data for poll in polls if isinstance(poll.content, Lines)]
    assert len(parts) == len(polls)
    return b"".join(parts)


def frames(polls: list[Poll]) -> list[pl.DataFrame]:
    parts = [poll.content for poll in polls if isinstance(poll.content, pl.DataFrame)]
    assert len(parts) == len(polls)
    return parts


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
    position = first[-1].after if first else None
    second = drain(FileSource(path, batch_rows).open(0, 1, lambda _: position))
    polls = first + second
    assert joined(polls) == data.removeprefix(b"\xef\xbb\xbf")
    assert [poll.end for poll in second] == [False] * (len(second) - 1) + [True]
    row = 0
    for poll in polls:
        assert isinstance(poll.content, Lines)
        assert poll.first_row == poll.content.first_row == row
        row = poll.after["row"]
    assert row == data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))


def test_chunks_hold_about_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(10_000)))
    polls = read(path, 100)
    rows = [poll.after["row"] - poll.first_row for poll in polls]
    assert sum(rows) == 10_000
    assert all(50 <= count <= 200 for count in rows[1:-1])


def test_a_line_longer_than_any_chunk_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"x" * 100_000 + b"\n" + b"y\n")
    polls = read(path, 1)
    assert joined(polls).count(b"\n") == 2
    assert polls[-1].after["row"] == 2


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"\xef\xbb\xbf{}\n{}\n")
    assert joined(read(path, 1)) == b"{}\n{}\n"


def test_a_folder_is_read_file_by_file_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.ndjson", "c.json", "sub/d.ndjson"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"{name}"\n', "utf-8")
    for ignored in ("a.ndjson.rejects", "notes.txt", ".hidden.ndjson", ".hid/x.ndjson"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("no", "utf-8")
    polls = read(tmp_path, 10)
    assert [poll.shard for poll in polls] == ["a.ndjson", "b.jsonl", "c.json", "sub/d.ndjson"]
    assert all(poll.end and poll.source == poll.shard and poll.partition == 0 for poll in polls)
    halves = [[p.shard for p in drain(FileSource(tmp_path, 10).open(w, 2, never))] for w in (0, 1)]
    assert halves == [["a.ndjson", "c.json"], ["b.jsonl", "sub/d.ndjson"]]


def test_more_workers_than_files_leaves_some_without_work(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text("{}\n", "utf-8")
    reader = FileSource(tmp_path, 10).open(1, 2, never)
    assert reader.finished
    assert reader.poll() == []


def test_a_finished_file_ends_at_once_unless_it_grew(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"1\n2\n")
    position = read(path, 10)[-1].after
    again = read(path, 10, {"a.ndjson": position})
    assert [(joined([poll]), poll.end, poll.after) for poll in again] == [(b"", True, position)]
    with path.open("ab") as file:
        file.write(b"3\n")
    grown = read(path, 10, {"a.ndjson": position})
    assert joined(grown) == b"3\n"
    assert grown[0].first_row == 2


@pytest.mark.parametrize("other", [b"9\n8\n7\n", b"1\n"])
def test_another_file_of_the_same_name_is_refused(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"1\n2\n")
    position = read(path, 10)[-1].after
    path.write_bytes(other)
    with pytest.raises(UserError, match="is not the file that was read before"):
        read(path, 10, {"a.ndjson": position})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(0, 60), st.integers(1, 25), st.integers(1, 20), st.integers(0, 20))
def test_parquet_rows_are_whole_and_resumable(
    tmp_path: Path, rows: int, group_rows: int, batch_rows: int, stop_after: int
) -> None:
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"meter_id": [f"M{i}" for i in range(rows)], "p_kw": range(rows)})
    frame.write_parquet(path, row_group_size=group_rows)
    first = drain(FileSource(path, batch_rows).open(0, 1, never), stop_after)
    position = first[-1].after if first else None
    second = drain(FileSource(path, batch_rows).open(0, 1, lambda _: position))
    numbers = [n for part in frames(first + second) if part.height for n in part["p_kw"]]
    assert numbers == list(range(rows))
    assert second[-1].end
    assert all(part.height <= batch_rows for part in frames(first + second))
    firsts = [poll.content["p_kw"][0] for poll in first + second if poll.content.height]  # type: ignore[union-attr]
    assert firsts == [poll.first_row for poll in first + second if poll.content.height]  # type: ignore[union-attr]


def test_another_parquet_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"p_kw": range(10)}).write_parquet(path)
    position = read(path, 100)[-1].after
    assert [poll.end for poll in read(path, 100, {"a.parquet": position})] == [True]
    pl.DataFrame({"p_kw": range(1, 11)}).write_parquet(path)
    with pytest.raises(UserError, match="is not the file that was read before"):
        read(path, 100, {"a.parquet": position})


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
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    reader = FileSource(tmp_path, 40).open(0, 1, never)
    assert reader.progress == Progress(0, total)
    seen = [reader.progress.read_bytes for _ in iter(lambda: bool(reader.poll()), False)]
    assert seen == sorted(seen)
    assert reader.finished
    assert reader.progress == Progress(total, total)
