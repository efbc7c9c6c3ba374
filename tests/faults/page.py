"""docs/reliability.md: what the runs are, and one table of figures for each kind; each run writes its own row.

Not here: the runs (`soak`, `fuzz`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
COLUMNS: Mapping[str, Sequence[str]] = {
    "runs": (
        "run", "date", "kill cycles", "lines in the log", "lost", "twice", "differing", "seen to vanish or double",
        "worst recovery", "worst SIGTERM", "repeat with",
    ),
    "fuzz": (
        "date", "inputs", "of them Arrow messages", "accepted", "rejected", "crashes", "differing", "repeat with",
    ),
}  # fmt: skip
TEXT = """# Reliability: what the fault runs found

A fault run streams a seeded log through the real `kilowatch stream --kafka`, a process on a real Apache Kafka, and
kills it (`kill -9`) again and again while telemetry keeps coming: while it starts, at random moments, after a stop of
up to a second (SIGSTOP, SIGCONT), and inside the commit - with parts staged and no record, with the record aside, and
with the record in place and parts not revealed. Those moments are found by watching the home's folders; the product
has no hook for them. Every tenth cycle the stream is ended by SIGTERM besides and started again.

The log holds what meters do: jitter within the allowed lateness, readings up to 95 minutes late, repeats,
corrections, gaps, registers that roll over, meters exchanged at a local midnight (some for ones that report more
often), intervals of 1, 5 and 15 minutes, bursts over every limit, head-end messages with many readings, and lines that
cannot be used; with VERY_LATE=0.001 that share of readings comes up to ten hours late besides, when the state has
let go of their windows. In the end an independent account (DuckDB SQL over the messages as they stand in the topic; for
violations, reading by reading) is compared with the lake and with what a keyed consumer of each topic ends with:

- **lost**: lines of the log that are neither in `readings` nor in `rejects`;
- **twice**: positions (partition, offset, row) that stand there more than once;
- **differing**: final values that are not the account's, over readings, rejects, windows (every column, revision
  included), compliance, violations, each topic's last value by key, and revisions that a key has twice;
- **seen to vanish or double**: rows that a reader with a bare glob over `lake/readings`, reading all the while, saw
  vanish or stand twice;
- **worst recovery**: the longest time from a start to its first commit.

<!-- runs -->
<!-- end of runs -->


The table holds the runs that were made, no others, on a busy machine of two cores.
The run of `make soak` is 200 kill cycles over 1,000,000 readings; `make soak CYCLES=30 READINGS=200000 SEED=7` is a
smaller one. A run of 6 cycles, and the replay of its log into a second home with other batches, which must end in the
same bytes, is part of `make test` (`tests/faults/test_kills.py`).
Full disks, owners that stall, a topic that grows while meters move, and a log in files are tested there too
(`test_disk.py`, `test_owner.py`, `test_growth.py`, `test_files.py`), brokers that are killed for 10 s or, with
`OUTAGE_S=300`, as long as you like (`test_outage.py`), and topics that are made anew (`test_gap.py`).
A run writes its own row here, whatever it finds.

## Input from hell

A fuzz run puts seeded damage through the decoding of messages, in batches as the stream sees them: random bytes,
truncation, gigantic numbers, wrong types, deep nesting, other encodings, null bytes, byte order marks, lone surrogates,
doubled keys, messages of 1 MB, content-type headers that lie, and Arrow streams with flipped bits, wrong lengths,
absurd dimensions, dictionaries, nested and unknown types, compressed buffers, and little that unpacks to very much.
What each line should become is told by a referee that uses the standard library alone (for Arrow: pyarrow alone).

- **crashes**: inputs that ended the process;
- **differing**: lines and rows that are in neither or in both of accepted and rejected, that are accepted where they
  should not be or with another value (a null for a number, say), rejected where they should be accepted, or rejects
  without their bytes or their key. A damaged Arrow stream may be rejected whole.

<!-- fuzz -->
<!-- end of fuzz -->

A slice of it is part of `make test` (`tests/metering/readings/test_fuzz.py`), and so is one through a real Kafka and
the real stream, with tombstones, empty messages, lying headers and messages of 1 MB among good readings
(`tests/faults/test_malformed_inputs.py`).
An Arrow message holds at most 250,000 rows and 64 MiB unpacked; one with more is
rejected.
"""


def add_row(table: str, values: Sequence[str]) -> None:
    """Add a run's row to a table, in place of one of the same command, which is a row's last value."""
    old = PAGE.read_text("utf-8") if PAGE.exists() else ""
    text = TEXT
    for name, columns in COLUMNS.items():
        rows = _rows(old, name)
        if name == table:
            rows = [row for row in rows if values[-1] not in row] + [f"| {' | '.join(values)} |"]
        lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows] if rows else []
        begin, end = _marks(name)
        text = text.replace(begin + end, begin + "".join(f"{line}\n" for line in lines) + end)
    PAGE.write_text(text, "utf-8")


def _rows(page: str, table: str) -> list[str]:
    begin, end = _marks(table)
    return page.partition(begin)[2].partition(end)[0].splitlines()[2:]


def _marks(table: str) -> tuple[str, str]:
    return f"<!-- {table} -->\n", f"<!-- end of {table} -->"
