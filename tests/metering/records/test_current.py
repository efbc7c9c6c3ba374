"""Which of several records counts: against plain Python, in any order of arrival."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metering.records.current import current
from metering.tables.records import PLANS

T0 = datetime(2026, 7, 14, tzinfo=UTC)
_ROW = st.tuples(
    st.sampled_from(("A", "B")), st.integers(0, 3), st.integers(0, 2), st.sampled_from(("active", "withdrawn"))
)


@given(st.lists(_ROW, max_size=12), st.randoms(use_true_random=False))
def test_the_last_by_revision_then_issue_then_place_counts(rows: list[tuple[str, int, int, str]], rng: object) -> None:
    table = pl.DataFrame(
        [
            {
                "plan_id": plan, "revision": revision, "issued_at": T0 + timedelta(minutes=issued), "state": state,
                "from_at": T0, "to_at": T0 + timedelta(hours=1), "source": "t", "source_partition": 0,
                "source_offset": place, "log_offset": place, "source_row": 0, "date": T0.date(),
            }
            for place, (plan, revision, issued, state) in enumerate(rows)
        ],
        schema_overrides={"revision": pl.Int32},
    )  # fmt: skip
    if not rows:
        return
    conformed = PLANS.table.conform(table)
    expected = {}
    for place, (plan, revision, issued, state) in enumerate(rows):
        rank = (revision, issued, place)
        if plan not in expected or rank > expected[plan][0]:
            expected[plan] = (rank, state)
    order = list(range(len(rows)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    found = current(conformed[order], PLANS)
    assert dict(found.select("plan_id", "state").iter_rows()) == {plan: state for plan, (_, state) in expected.items()}
    assert found.equals(current(conformed, PLANS))
