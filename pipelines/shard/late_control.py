"""Late readings of customers under plans: a turn that has some is taken in parts, so that each is judged by itself.

Here: where a turn is cut. Not here: what is judged (`control`), the parts themselves (`advance`).

What a late reading changes of a window under a plan, or of a day of its baseline, is emitted before what came after it,
and a violation that it raises may be withdrawn by the next one. So within a part no customer has more than one such
reading, nor anything else together with it, and no window closes together with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import polars as pl

from metering.readings.slots import WINDOW_US
from pipelines.shard import meters
from pipelines.shard.control_plans import InForce, in_force
from pipelines.shard.state import State
from pipelines.shard.store import Context
from pipelines.shard.windows import OPEN

_DAY_US = 86_400_000_000


def parts(state: State, accepted: pl.DataFrame, context: Context) -> list[pl.DataFrame]:
    """The turn's readings (as `advance` takes them, none of a meter that has moved), one part after the other."""
    force = in_force(context)
    if accepted.is_empty() or force.targets.is_empty() or not force.planned.gather(accepted["meter"]).any():
        return [accepted]
    _, turn = meters.place(state, accepted, (), OPEN.empty().select("meter", "version", "end_us"), context)
    if not turn.late:
        return [accepted]
    late = _that_matter(turn.rows, force, context)
    if late.is_empty():
        return [accepted]
    bounds = [0, *_cuts(turn.rows, late, state, force, context), accepted.height]
    return [accepted.slice(start, stop - start) for start, stop in pairwise(bounds)]


def _that_matter(rows: pl.DataFrame, force: InForce, context: Context) -> pl.Series:
    """Positions of late readings of windows under a plan, or that its baseline may be made of, once it has begun."""
    horizon = max((row.horizon_days for row in context.settings.control.baseline.values()), default=0) + 1
    longest_us = context.meter_versions.select(pl.max_horizontal(pl.col("block_us").max(), WINDOW_US)).item()
    late = rows.filter(pl.col("late") | pl.col("edge_late"), force.planned.gather(rows["meter"]))
    named = late.select("meter", "position", "end_us", "high").join(force.members, on="meter")
    near = named.join(force.targets.select("customer_no", "first_us", "last_us"), on="customer_no").filter(
        pl.col("end_us") > pl.col("first_us") - horizon * _DAY_US,
        pl.col("end_us") <= pl.col("last_us") + longest_us,
        pl.col("high") > pl.col("first_us") - WINDOW_US,
    )
    return near["position"].unique()


def _cuts(rows: pl.DataFrame, late: pl.Series, state: State, force: InForce, context: Context) -> Iterator[int]:
    """Positions at which another part begins."""
    before = pl.Series(state.shards.max_us, dtype=pl.Int64).gather(rows["shard"])
    watermark = [(at - context.settings.lateness_s * 1_000_000) // WINDOW_US for at in (rows["high"], before)]
    closes = watermark[0] > watermark[0].shift(1).zip_with(rows["shard"] == rows["shard"].shift(1), watermark[1])
    theirs = rows.filter(rows["position"].is_in(late.implode()))["meter"]
    customers = force.members.join(theirs.unique().to_frame(), on="meter", how="semi").select("customer_no").unique()
    own = rows.select("meter").join(
        force.members.join(customers, on="customer_no"), on="meter", how="left", maintain_order="left"
    )
    marked = rows.select(
        "position", own["customer_no"], late=pl.col("position").is_in(late.implode()), closes=closes.fill_null(True)
    ).filter(pl.col("customer_no").is_not_null() | pl.col("closes"))
    heard, judged, closed = set[str](), set[str](), False
    for position, customer, is_late, does_close in marked.iter_rows():
        together = customer in judged or (does_close and judged) or (is_late and (closed or customer in heard))
        if together and position:
            heard, judged, closed = set(), set(), False
            yield position
        closed |= does_close
        if customer is not None:
            heard.add(customer)
        if is_late:
            judged.add(customer)
