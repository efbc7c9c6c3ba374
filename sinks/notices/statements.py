"""The ledger's tables and statements, in SQLite's words.

Here: the schema, and what is longer than a line. Not here: what is done with it (`ledger`).
"""

from __future__ import annotations

from dataclasses import fields

from metering.notices.dispatch import FINAL, Notice

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    source TEXT NOT NULL, part TEXT NOT NULL, position TEXT NOT NULL, PRIMARY KEY (source, part)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subjects (
    subject TEXT PRIMARY KEY, kind TEXT NOT NULL, storm TEXT NOT NULL, value TEXT NOT NULL, severity TEXT NOT NULL,
    episode INTEGER NOT NULL, expired INTEGER NOT NULL, acknowledged INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS subjects_of_storm ON subjects (storm) WHERE storm <> '';
CREATE TABLE IF NOT EXISTS feedback (
    subject TEXT PRIMARY KEY, action TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, notice_id TEXT NOT NULL UNIQUE, subject TEXT NOT NULL, kind TEXT NOT NULL,
    contact TEXT NOT NULL, role TEXT NOT NULL, level INTEGER NOT NULL, channel TEXT NOT NULL, language TEXT NOT NULL,
    event_class TEXT NOT NULL, event_state TEXT NOT NULL, severity TEXT NOT NULL, members TEXT NOT NULL,
    customer_no TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL, event_at REAL NOT NULL, taken_at REAL NOT NULL,
    due_at REAL NOT NULL, held INTEGER NOT NULL, storm INTEGER NOT NULL, status TEXT NOT NULL,
    attempts INTEGER NOT NULL, at REAL, detail TEXT, published INTEGER NOT NULL DEFAULT 0, lake_batch INTEGER,
    in_lake INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS notices_of_subject ON notices (subject, contact, channel);
CREATE INDEX IF NOT EXISTS notices_due ON notices (due_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS notices_sending ON notices (seq) WHERE status = 'sending';
CREATE INDEX IF NOT EXISTS notices_unpublished ON notices (seq) WHERE published = 0;
CREATE INDEX IF NOT EXISTS notices_not_in_lake ON notices (seq) WHERE in_lake = 0;
"""
TIMES = ("event_at", "taken_at", "due_at")
COLUMNS = [field.name for field in fields(Notice) if field.name != "seq"]
INSERT = (
    f"INSERT INTO notices ({', '.join(COLUMNS)}, at, detail) VALUES ({', '.join('?' * len(COLUMNS))}, ?, ?) "
    "ON CONFLICT (notice_id) DO UPDATE SET members = excluded.members, title = excluded.title, body = excluded.body, "
    "severity = excluded.severity, customer_no = excluded.customer_no "
    "WHERE excluded.storm AND notices.status = 'pending' AND notices.attempts = 0"
)
ENDED = ", ".join(f"'{state}'" for state in FINAL)
DUE = """
SELECT * FROM notices AS n WHERE status = 'pending'
AND due_at <= ? + CASE WHEN storm AND attempts = 0 AND NOT held THEN ? ELSE 0 END
AND channel NOT IN ({busy}) AND NOT EXISTS (
    SELECT 1 FROM notices AS e WHERE e.subject = n.subject AND e.contact = n.contact AND e.channel = n.channel
    AND e.seq < n.seq AND e.status IN ('pending', 'sending')
) ORDER BY due_at, seq LIMIT 1
"""
ENDS_NOTHING = """
UPDATE notices SET status = ?, at = ?, detail = 'what it ends did not arrive'
WHERE subject = ? AND contact = ? AND channel = ? AND status = 'pending' AND event_state IN ('cleared', 'withdrawn')
AND NOT EXISTS (SELECT 1 FROM notices WHERE subject = ? AND contact = ? AND channel = ? AND status = 'sent')
"""
