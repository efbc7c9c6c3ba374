"""The ledger: which messages are due, which were handed over, and what is known of their subjects. Durable, in SQLite.

Here: the rows of `<home>/notify/ledger.sqlite`, and the transactions that move them. Not here: what is due
(`metering.notices`), handing over (`channels`), outcomes elsewhere (`outcomes`).

A message is `pending`, then `sending` from before it is handed over until its outcome is written, then `sent` or
`failed`. What is `sending` at a start was handed over or not, nobody knows: it is sent again, with the same id. What
was read of topics and what follows from it are one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any

from metering.errors import OperationError
from metering.notices.dispatch import FAILED, FINAL, PENDING, SENDING, SENT, SUPERSEDED, Known, Notice
from metering.notices.events import VIOLATION, Event, Feedback, read
from metering.settings import NoticeSettings
from sinks.notices.statements import COLUMNS, DUE, ENDED, ENDS_NOTHING, INSERT, SCHEMA, TIMES, VERSION

Row = Mapping[str, Any]


class Ledger:
    """The ledger in a file; without one in memory. Used by several threads, each call whole."""

    def __init__(self, path: Path | None, settings: NoticeSettings) -> None:
        self._settings = settings
        self._lock = RLock()
        try:
            self._db = sqlite3.connect(
                path or ":memory:", timeout=10, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            self._db.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise OperationError(f"{path}: the ledger of notices cannot be used: {error}") from error
        found = self._one("SELECT value FROM meta WHERE name = 'version'")
        if found is not None and int(found["value"]) > VERSION:
            raise OperationError(f"{path} was written by a newer Kilowatch: use that one, or move the file away")
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (str(VERSION),))

    def copy(self) -> Ledger:
        """A copy in memory, to try things out on."""
        other = Ledger(None, self._settings)
        with self._lock:
            self._db.backup(other._db)
        return other

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on disk at its end. Raises OperationError when the file cannot be written."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._rolled_back()
                raise OperationError(f"the ledger of notices cannot be written: {error}") from error
            except BaseException:
                self._rolled_back()
                raise

    def first_start(self, now: datetime) -> datetime:
        """When this ledger was first used: now, or then; or so late that what it has forgotten is too old."""
        with self.transaction():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('first_start', ?)", (now.isoformat(),))
            row = self._one("SELECT value FROM meta WHERE name = 'first_start'")
            forgotten = self._one("SELECT value FROM meta WHERE name = 'forgotten_until'")
        assert row is not None
        first = datetime.fromisoformat(row["value"])
        if forgotten is None:
            return first
        expires = timedelta(minutes=self._settings.expire_after_min)
        return max(first, datetime.fromisoformat(forgotten["value"]) + expires)  # what it was is not told anew

    # --- what was read ---

    def positions(self, source: str) -> dict[str, Any]:
        """Where each part of a source was left: what `keep_position` was given."""
        rows = self._all("SELECT part, position FROM positions WHERE source = ?", (source,))
        return {row["part"]: json.loads(row["position"]) for row in rows}

    def keep_position(self, source: str, part: str, position: Any) -> None:
        """Remember where to go on."""
        self._run("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (source, part, json.dumps(position)))

    def drop_positions(self, source: str, parts: Iterable[str]) -> None:
        """Forget parts of a source that are gone."""
        with self.transaction():
            self._db.executemany("DELETE FROM positions WHERE source = ? AND part = ?", ((source, p) for p in parts))

    # --- subjects ---

    def known(self, subject: str) -> Known | None:
        """What is known of a subject."""
        row = self._one("SELECT * FROM subjects WHERE subject = ?", (subject,))
        return None if row is None else self._known(row)

    def members(self, storm: str) -> list[Known]:
        """What is known of a storm's violations."""
        return [self._known(row) for row in self._all("SELECT * FROM subjects WHERE storm = ?", (storm,))]

    def remember(self, known: Known) -> None:
        """Keep what is known of a subject."""
        event = known.event
        value = json.dumps(event.value, ensure_ascii=False, default=_written)
        row = (event.subject, event.kind, event.storm, value, known.severity, known.episode, known.expired)
        self._run("INSERT OR REPLACE INTO subjects VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, known.acknowledged))

    def acknowledge(self, feedback: Feedback) -> None:
        """Somebody has taken up a subject, which need not be known yet."""
        with self.transaction():
            row = (feedback.subject, feedback.action, feedback.at.timestamp())
            self._db.execute("INSERT OR IGNORE INTO feedback VALUES (?, ?, ?)", row)
            self._db.execute("UPDATE subjects SET acknowledged = 1 WHERE subject = ?", (feedback.subject,))

    def is_acknowledged(self, *subjects: str) -> bool:
        """Whether somebody has taken up one of them."""
        marks = ", ".join("?" * len(subjects))
        return self._one(f"SELECT 1 FROM feedback WHERE subject IN ({marks}) LIMIT 1", subjects) is not None

    # --- notices ---

    def notices(self, subject: str) -> list[Notice]:
        """All messages of a subject, in order."""
        return [_notice(r) for r in self._all("SELECT * FROM notices WHERE subject = ? ORDER BY seq", (subject,))]

    def add(self, notices: Iterable[Notice], detail: str | None = None) -> None:
        """Add messages; one that is there stays as it is, but for a storm's that nobody has had yet."""
        with self.transaction():
            for notice in notices:
                values = [_stored(getattr(notice, name)) for name in COLUMNS]
                final = notice.status in FINAL
                at = notice.taken_at.timestamp() if final else None
                self._db.execute(INSERT, (*values, at, detail if final else None))

    def end(self, ended: Iterable[tuple[str, str]], now: datetime, detail: str | None = None) -> None:
        """Messages that nobody has had yet end without being sent."""
        with self.transaction():
            for notice_id, status in ended:
                self._db.execute(
                    "UPDATE notices SET status = ?, at = ?, detail = ? "
                    "WHERE notice_id = ? AND status = 'pending' AND attempts = 0",
                    (status, now.timestamp(), detail, notice_id),
                )

    def recover(self, now: datetime) -> int:
        """What was being handed over when the process died is due again; how many these are."""
        with self.transaction():
            done = self._db.execute(
                "UPDATE notices SET status = 'pending', due_at = ? WHERE status = 'sending'", (now.timestamp(),)
            )
        return done.rowcount

    def claim(self, now: datetime, busy: Collection[str] = (), no_more_members: bool = False) -> Notice | None:
        """The first message that is due, through a channel that is not busy; None where there is none.

        It is `sending` from here on. A message waits for those before it to the same receiver on the same subject. With
        `no_more_members` storms do not wait.
        """
        ahead_s = self._settings.storm_wait_s if no_more_members else 0.0
        sql = DUE.format(busy=", ".join("?" * len(busy)))
        with self.transaction():
            row = self._one(sql, (now.timestamp(), ahead_s, *busy))
            if row is None:
                return None
            self._run("UPDATE notices SET status = 'sending', attempts = attempts + 1 WHERE seq = ?", (row["seq"],))
        return _notice({**dict(row), "status": SENDING, "attempts": row["attempts"] + 1})

    def is_busy(self, now: datetime, no_more_members: bool = False) -> bool:
        """Whether a message is under way, or `claim` would find one."""
        if self._one("SELECT 1 FROM notices WHERE status = 'sending' LIMIT 1") is not None:
            return True
        ahead_s = self._settings.storm_wait_s if no_more_members else 0.0
        return self._one(DUE.format(busy=""), (now.timestamp(), ahead_s)) is not None

    def pending(self) -> list[Notice]:
        """All messages that are due, now or later, in that order."""
        return [_notice(r) for r in self._all("SELECT * FROM notices WHERE status = 'pending' ORDER BY due_at, seq")]

    def record(self, notice: Notice, problem: str | None, now: datetime) -> str:
        """Write down what came of handing a message over: taken, or the problem. Gives its status now."""
        if problem is None:
            return self._settle(notice, SENT, now, None)
        if notice.attempts >= self._settings.attempts:
            return self._settle(notice, FAILED, now, problem)
        due = now.timestamp() + self._settings.retry_s(notice.attempts)
        self._run(
            "UPDATE notices SET status = 'pending', due_at = ?, detail = ? WHERE notice_id = ?",
            (due, problem, notice.notice_id),
        )
        return PENDING

    def next_due(self) -> datetime | None:
        """When the next message is due; None where none is."""
        row = self._one("SELECT min(due_at) AS at FROM notices WHERE status = 'pending'")
        return None if row is None or row["at"] is None else datetime.fromtimestamp(row["at"], UTC)

    def counts(self) -> dict[str, int]:
        """How many messages there are, by status."""
        rows = self._all("SELECT status, count(*) AS n FROM notices GROUP BY status ORDER BY status")
        return {row["status"]: row["n"] for row in rows}

    # --- outcomes ---

    def unpublished(self, most: int = 1000) -> list[Row]:
        """Messages with an outcome that is not on the topic yet."""
        return self._all(
            f"SELECT * FROM notices WHERE published = 0 AND status IN ({ENDED}) ORDER BY seq LIMIT ?", (most,)
        )

    def published(self, rows: Iterable[Row]) -> None:
        """These outcomes are on the topic."""
        with self.transaction():
            self._db.executemany("UPDATE notices SET published = 1 WHERE seq = ?", ((row["seq"],) for row in rows))

    def lake_batch(self, most: int = 50_000) -> tuple[int, list[Row]] | None:
        """Outcomes for the lake, under a number that stays theirs: those of an unfinished batch, or new ones."""
        with self.transaction():
            row = self._one("SELECT min(lake_batch) AS n FROM notices WHERE in_lake = 0 AND lake_batch IS NOT NULL")
            number = None if row is None else row["n"]
            if number is None:
                last = self._one("SELECT value FROM meta WHERE name = 'lake_batch'")
                number = int(last["value"]) + 1 if last else 1
                found = self._db.execute(
                    f"UPDATE notices SET lake_batch = ? WHERE seq IN (SELECT seq FROM notices WHERE in_lake = 0 "
                    f"AND lake_batch IS NULL AND status IN ({ENDED}) ORDER BY seq LIMIT ?)",
                    (number, most),
                )
                if not found.rowcount:
                    return None
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('lake_batch', ?)", (str(number),))
        return number, self._all("SELECT * FROM notices WHERE in_lake = 0 AND lake_batch = ? ORDER BY seq", (number,))

    def in_lake(self, batch: int) -> None:
        """A batch is in the lake."""
        self._run("UPDATE notices SET in_lake = 1 WHERE lake_batch = ?", (batch,))

    # --- what is over ---

    def forget(self, now: datetime) -> int:
        """Delete what has been over for `keep_days`, with all of its storm; how many subjects these were.

        It can never be told again: it is closed, or its time has passed, none of its messages is due, and their
        outcomes are in the lake.
        """
        if self._settings.keep_days <= 0:
            return 0
        until = now - timedelta(days=self._settings.keep_days)
        forgotten, last, storms = 0, "", set[str]()
        while rows := self._all("SELECT * FROM subjects WHERE subject > ? ORDER BY subject LIMIT 500", (last,)):
            last = rows[-1]["subject"]
            with self.transaction():
                gone: set[str] = set()
                for row in rows:
                    if row["storm"] not in storms:
                        gone |= self._forgettable(row, until)
                    storms |= {row["storm"]} - {""}  # looked at once, with all of its members
                for subject in gone:
                    for table in ("subjects", "notices", "feedback"):
                        self._db.execute(f"DELETE FROM {table} WHERE subject = ?", (subject,))
            forgotten += len(gone)
        with self.transaction():
            self._db.execute(
                "DELETE FROM feedback WHERE at < ? AND subject NOT IN (SELECT subject FROM subjects)",
                (until.timestamp(),),
            )
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('forgotten_until', ?)", (until.isoformat(),))
        return forgotten

    def _forgettable(self, row: Row, until: datetime) -> set[str]:
        """The subject, or its storm and all of that, if none of it is of any use after `until`."""
        if not self._is_over(row, until):
            return set()
        members, names = [row], {str(row["subject"])}
        if row["storm"]:
            members = self._all("SELECT * FROM subjects WHERE storm = ?", (row["storm"],))
            names = {str(row["storm"]), *(str(member["subject"]) for member in members)}
            if not all(self._is_over(member, until) for member in members):
                return set()
        marks = ", ".join("?" * len(names))
        waits = f"(status NOT IN ({ENDED}) OR in_lake = 0 OR at >= ?)"
        needed = self._one(
            f"SELECT 1 FROM notices WHERE subject IN ({marks}) AND {waits} LIMIT 1", (*names, until.timestamp())
        )
        return set() if needed is not None else names

    def _is_over(self, row: Row, until: datetime) -> bool:
        event = self._known(row).event
        passed = not event.is_open or (event.ended_at is not None and event.kind != VIOLATION)
        return passed and max(event.at, event.fresh_at) < until

    def _settle(self, notice: Notice, status: str, now: datetime, problem: str | None) -> str:
        with self.transaction():
            self._db.execute(
                "UPDATE notices SET status = ?, at = ?, detail = coalesce(?, detail) WHERE notice_id = ?",
                (status, now.timestamp(), problem, notice.notice_id),
            )
            if status == FAILED:  # who has not heard of it need not hear of its end
                receiver = (notice.subject, notice.contact, notice.channel)
                self._db.execute(ENDS_NOTHING, (SUPERSEDED, now.timestamp(), *receiver, *receiver))
        return status

    def _known(self, row: Row) -> Known:
        event = read(row["kind"], row["value"], self._settings)
        assert isinstance(event, Event)
        seen = bool(row["acknowledged"])
        return Known(
            event=event,
            severity=row["severity"],
            episode=row["episode"],
            expired=bool(row["expired"]),
            acknowledged=seen,
        )

    def _run(self, sql: str, values: Sequence[Any] = ()) -> None:
        with self.transaction():
            self._db.execute(sql, values)

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._lock:
            return list(self._db.execute(sql, values))

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        with self._lock:
            row: Row | None = self._db.execute(sql, values).fetchone()
            return row

    def _rolled_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value


def _notice(row: Row) -> Notice:
    values = {name: row[name] for name in (*COLUMNS, "seq")}
    values |= {name: datetime.fromtimestamp(row[name], UTC) for name in TIMES}
    values |= {"held": bool(row["held"]), "storm": bool(row["storm"]), "members": tuple(json.loads(row["members"]))}
    return Notice(**values)


def _written(value: object) -> str:
    """Values that JSON has no form of: times of the lake's rows."""
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
