"""Meters that fell silent leave the state, and what is needed of them is found again when they speak.

Here: who leaves, what stays (violations that are open), when a meter was last heard. Not here: their days
(`metering.supply.compliance`), reading the past (`history`).

Only where a look at the past is needed depends on who has left, never what comes out.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from pipelines.shard.environment import Environment
from pipelines.shard.state import ShardState


def dismiss(state: ShardState, horizon_us: int | None, env: Environment) -> ShardState:
    """The state without the meters that were last heard so long before the horizon."""
    if horizon_us is None:
        return state
    gone = state.seen_us.is_between(1, horizon_us - int(env.silent_s * 1_000_000))
    if not gone.any():
        return state
    meters = gone.arg_true().cast(pl.UInt32).implode()
    left_us = state.seen_us.filter(gone).max()
    assert isinstance(left_us, int)
    stays = pl.col("active") | ~pl.col("meter").is_in(meters)
    return replace(
        state,
        left_us=max(left_us, state.left_us or left_us),
        seen_us=state.seen_us.set(gone, 0),
        days=state.days.filter(~pl.col("meter").is_in(meters)),
        pairs=state.pairs.filter(stays),
        base=state.base.filter(stays),
    )


def recall(seen_us: pl.Series, rows: pl.DataFrame, left_us: int | None, env: Environment) -> pl.Series:
    """When meters were last heard, those with `rows` (`meter`, `ts`) that may have left included."""
    if left_us is None:
        return seen_us
    unheard = rows.filter((seen_us.gather(rows["meter"]) == 0) & (rows["ts"].to_physical() <= left_us))
    if unheard.is_empty():
        return seen_us
    since = unheard.select(pl.col("ts").min().dt.offset_by("-1us")).item()
    later = env.history.readings_since(unheard["meter"].unique(), since)
    newest = later.group_by("meter").agg(pl.col("ts").to_physical().max().alias("us"))
    return seen_us.clone().scatter(newest["meter"], newest["us"]) if newest.height else seen_us
