"""What a meter would read without faults: power, voltage and current, from its traits and the time.

Here: expressions over a frame of meters times moments. Not here: faults, registers, order of arrival.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime

import polars as pl

from metering.simulation.draws import around, uniform

KNOT_S = 1800
"""Slow variation is drawn at knots this far apart, and straight between them."""

LEAST_PU = 0.7
"""Of nominal: no load goes on below."""
TAN_MOST, TAN_LEAST = 0.36, -0.34
"""The capacitor bank's controller keeps tan phi within these: power factor above 0.94."""


def moments(instants: pl.Series, timezone: str, holidays: Collection[date], workdays: Collection[date]) -> pl.DataFrame:
    """What the load depends on at each instant `ts` (UTC): local minute and day, knots of slow variation."""
    seconds = pl.col("ts").dt.epoch("s")
    local = pl.col("ts").dt.convert_time_zone(timezone)
    day = local.dt.date()
    return pl.DataFrame({"ts": instants}).select(
        "ts",
        seconds.alias("second"),
        (seconds // KNOT_S).alias("knot"),
        ((seconds % KNOT_S) / KNOT_S).alias("knot_part"),
        (local.dt.hour().cast(pl.Float64) * 60 + local.dt.minute()).alias("minute"),
        pl.when(day.is_in(list(holidays)))
        .then(7)
        .when(day.is_in(list(workdays)))
        .then(1)
        .otherwise(local.dt.weekday())
        .alias("weekday"),
        day.to_physical().alias("day"),
        # warmest at the end of July
        (((local.dt.ordinal_day() - 208) * (2 * 3.141592653589793 / 365.25)).cos() * 0.05 + 1.0).alias("season"),
    )


def power(rows: pl.DataFrame, seed: int) -> list[pl.Expr]:
    """`p_kw` and `q_kvar`, primary side, lagging positive, for `rows` (meters' traits times moments)."""
    slow = around(0.05, _slow(rows, seed, "load")) * around(0.04, uniform(seed, "day", rows["n"], rows["day"]))
    fast = around(0.01, uniform(seed, "power", rows["meter"], rows["second"]))
    at_work = pl.col("base") + (pl.col("peak") - pl.col("base")) * _activity()
    p = pl.col("contract_capacity_kva") * at_work * slow * fast * pl.col("season")
    return [p.alias("p_kw"), (p * _tan(rows, seed)).alias("q_kvar")]


def voltages(rows: pl.DataFrame, seed: int) -> list[pl.Expr]:
    """`ua_v`, `ub_v`, `uc_v`: a feeder's level that sags with the load, and phases that differ (three-wire: no b)."""
    s_kva = (pl.col("p_kw").pow(2) + pl.col("q_kvar").pow(2)).sqrt()
    sag = pl.col("sag_pu") * s_kva / (pl.col("share") * pl.col("contract_capacity_kva"))
    level = pl.col("level_pu") - sag + 0.015 * (_slow(rows, seed, "level") - 0.5)

    def phase(name: str) -> pl.Expr:
        flicker = 0.004 * (uniform(seed, f"u{name}", rows["meter"], rows["second"]) - 0.5)
        return pl.col("nominal_v") * (level + pl.col(f"lift_{name}") + flicker)

    return [
        phase("a").alias("ua_v"),
        pl.when(pl.col("wiring") == "3p4w").then(phase("b")).alias("ub_v"),
        pl.when(pl.col("wiring") != "1p").then(phase("c")).alias("uc_v"),
    ]


def currents() -> list[pl.Expr]:
    """`ia_a`, `ib_a`, `ic_a`, meter side, from power, voltages and ratios, so that they say the same.

    Four-wire: each phase carries its share of S, I = S_k / U_k. Three-wire: I = S / (sqrt 3 U) in both elements. One
    phase: I = S / U. A voltage that is lost in the metering is not lost for the load: below `LEAST_PU` it counts as
    that.
    """
    va = (pl.col("p_kw").pow(2) + pl.col("q_kvar").pow(2)).sqrt() * 1000 / (pl.col("pt_ratio") * pl.col("ct_ratio"))
    three_wire, one_phase = pl.col("wiring") == "3p3w", pl.col("wiring") == "1p"
    least_v = LEAST_PU * pl.col("nominal_v")
    mean_u = (pl.col("ua_v").clip(least_v) + pl.col("uc_v").clip(least_v)) / 2

    def phase(name: str) -> pl.Expr:
        return (
            pl.when(one_phase)
            .then(va / pl.col(f"u{name}_v").clip(least_v))
            .when(three_wire)
            .then(va / (3**0.5 * mean_u))
            .otherwise(va * pl.col(f"load_{name}") / pl.col(f"u{name}_v").clip(least_v))
        )

    return [
        phase("a").alias("ia_a"),
        pl.when(pl.col("wiring") == "3p4w").then(phase("b")).alias("ib_a"),
        pl.when(~one_phase).then(phase("c")).alias("ic_a"),
    ]


def instants_of(start: datetime, interval_s: int, first: int, count: int) -> pl.Series:
    """Interval ends number `first` to `first + count - 1` after `start` (from 1), UTC."""
    steps = pl.int_range(first, first + count, eager=True)
    base = pl.lit(start).cast(pl.Datetime("us", "UTC"))
    return pl.select(base + pl.duration(seconds=pl.lit(steps) * interval_s)).to_series().alias("ts")


def _slow(rows: pl.DataFrame, seed: int, stream: str) -> pl.Expr:
    """A number in [0, 1) that moves slowly: straight between draws at the knots."""
    here, there = (uniform(seed, stream, rows["meter"], rows["knot"] + step) for step in (0, 1))
    return here + (there - here) * pl.col("knot_part")


def _activity() -> pl.Expr:
    """How much of the work goes on, 0 to 1: shifts with half an hour of ramp, lunch, weekends."""
    minute = pl.col("minute")

    def shift(at: pl.Expr) -> pl.Expr:
        return pl.min_horizontal((at - pl.col("start_min")) / 30, (pl.col("end_min") - at) / 30).clip(0.0, 1.0)

    # a shift that runs past midnight is still going on in the small hours
    worked = pl.when("continuous").then(1.0).otherwise(pl.max_horizontal(shift(minute), shift(minute + 1440)))
    lunch = pl.when((minute > 720) & (minute <= 780)).then(1 - pl.col("lunch")).otherwise(1.0)
    weekend = (
        pl.when(pl.col("weekday") == 7).then("sunday").when(pl.col("weekday") == 6).then("saturday").otherwise(1.0)
    )
    return worked * lunch * weekend


def _tan(rows: pl.DataFrame, seed: int) -> pl.Expr:
    """tan phi behind the capacitor bank.

    By day the bank follows the motors; at night a fixed bank that is too large for what is left over-compensates.
    """
    night = (pl.col("minute") < 330) | (pl.col("minute") > 1350)
    wander = 0.08 * (_slow(rows, seed, "bank") - 0.5)
    by_day = pl.col("tan_target") + 0.05 * (pl.col("motors") - 0.6) + wander
    left = pl.col("motors") * 0.6 - 0.25 * pl.col("peak") / pl.col("base")
    leading = pl.min_horizontal(left, pl.lit(-0.08)) + wander
    return pl.when(night & pl.col("leads_at_night")).then(leading).otherwise(by_day).clip(TAN_LEAST, TAN_MOST)
