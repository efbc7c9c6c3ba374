"""What people say of alarms, against plain Python: the last word counts, and what cannot be is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metering.events.feedback import doubts, said_of, with_feedback
from metering.tables.records import ACTIONS, FEEDBACK

T0 = datetime(2026, 7, 14, 1, tzinfo=UTC)
_WORD = st.tuples(st.sampled_from(("A", "B")), st.sampled_from(ACTIONS), st.integers(0, 5))


def feedback(*words: tuple[str, str, int]) -> pl.DataFrame:
    """Rows of the lake: (violation, action, minutes after T0), in the order of their log."""
    rows = [
        {"violation_id": violation, "action": action, "at": T0 + timedelta(minutes=minute), "log_offset": place}
        for place, (violation, action, minute) in enumerate(words)
    ]
    frame = pl.DataFrame(rows) if rows else FEEDBACK.table.empty()
    fixed: dict[str, Any] = {"source": "t", "source_partition": 0, "source_offset": 0, "source_row": 0}
    return FEEDBACK.table.conform(frame.with_columns(date=pl.lit(T0.date())), **fixed)


def alarms(**started: int) -> pl.DataFrame:
    """Violations that began so many minutes after T0."""
    rows = [(name, f"3101052000{name}", T0 + timedelta(minutes=minute)) for name, minute in started.items()]
    frame = pl.DataFrame(rows, schema=["violation_id", "meter_id", "started_at"], orient="row")
    began = pl.col("started_at").cast(pl.Datetime("us", "UTC"))
    return frame.with_columns(began, raised_at=pl.when(pl.col("violation_id") != "B").then(began))


@given(st.lists(_WORD, max_size=12), st.randoms(use_true_random=False))
def test_the_last_word_of_each_kind_counts(words: list[tuple[str, str, int]], rng: Any) -> None:
    expected: dict[str, dict[str, tuple[int, int]]] = {}
    for place, (violation, action, minute) in enumerate(words):
        of_alarm = expected.setdefault(violation, {})
        of_alarm[action] = max(of_alarm.get(action, (-1, -1)), (minute, place))
    rows = feedback(*words)
    order = list(range(len(words)))
    rng.shuffle(order)
    found = {row["violation_id"]: row for row in said_of(rows[order]).to_dicts()}
    assert found.keys() == expected.keys()
    for violation, said in expected.items():
        row = found[violation]
        times = {action: T0 + timedelta(minutes=minute) for action, (minute, _) in said.items()}
        assert row["acknowledged_at"] == times.get("acknowledged")
        assert row["handled_at"] == times.get("handled")
        assert row["closed_at"] == times.get("closed")
        yes, no = times.get("confirmed"), times.get("false")
        assert row["confirmed"] is (None if yes is no is None else yes is not None and (no is None or yes >= no))


def test_alarms_nobody_spoke_of_have_no_words() -> None:
    said = with_feedback(alarms(A=0, B=0), feedback(("A", "confirmed", 3), ("A", "handled", 9), ("C", "closed", 1)))
    assert said.select("violation_id", "confirmed", "handled_at", "closed_at").rows() == [
        ("A", True, T0 + timedelta(minutes=9), None),
        ("B", None, None, None),
    ]


def test_what_cannot_be_is_told_and_does_no_harm() -> None:
    words = feedback(
        ("A", "acknowledged", 5), ("A", "confirmed", 6), ("A", "handled", 8), ("A", "closed", 9),  # as it should be
        ("B", "closed", 4), ("B", "handled", 6), ("B", "acknowledged", 7), ("B", "confirmed", 2), ("B", "false", 3),
        ("C", "acknowledged", 1), ("D", "closed", 1),
    )  # fmt: skip
    found = doubts(words, alarms(A=5, B=5, C=2))
    assert [(row["meter_id"], row["rule"], row["detail"]) for row in found.to_dicts()] == [
        ("3101052000B", "confirmed_and_false", "alarm B was confirmed, and refuted: the later word counts"),
        ("3101052000B", "impossible_order", "alarm B was closed before it was raised"),
        ("3101052000B", "impossible_order", "alarm B was closed before it was handled"),
        ("3101052000B", "impossible_order", "alarm B was handled before it was acknowledged"),
        ("3101052000C", "impossible_order", "alarm C was acknowledged before it was raised"),
        (None, "unknown_alarm", "there is no alarm D that could be closed"),
    ]
    assert doubts(feedback(), alarms(A=5)).is_empty()
