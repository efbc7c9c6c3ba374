"""What a meter's readings are judged by, from the registry and the settings: one row for each meter version.

Here: joining a meter with its customer, its voltage limits and the instants between which it is valid. Not here: what a
valid registry is (`registry`), the judging itself.
"""

from __future__ import annotations

from datetime import datetime
from math import lcm

import polars as pl

from metering.calendar import day_bounds, instant
from metering.settings import MeteringSettings, VoltageLimits
from metering.tables.lake import WINDOW_S
from metering.tables.schema import TIMESTAMP

METER_VERSIONS = pl.Schema(
    {
        "meter_id": pl.String(),
        "customer_no": pl.String(),
        "customer_name": pl.String(),
        "feeder": pl.String(),
        "manager": pl.String(),
        "wiring": pl.String(),
        "role": pl.String(),
        "interval_s": pl.Int32(),
        "nominal_v": pl.Float64(),
        "register_modulus": pl.Float64(),
        "u_lower_v": pl.Float64(),
        "u_upper_v": pl.Float64(),
        "u_band_lower_v": pl.Float64(),
        "u_band_upper_v": pl.Float64(),
        "u_spread_limit": pl.Float64(),
        "segment": pl.String(),
        "voltage_level_kv": pl.Float64(),
        "rated_a": pl.Float64(),
        "max_a": pl.Float64(),
        "base_kva": pl.Float64(),
        "max_kva": pl.Float64(),
        "contract_capacity_kva": pl.Float64(),
        "contract_demand_kw": pl.Float64(),
        "pf_standard": pl.Float64(),
        "u_most_v": pl.Float64(),
        "u_line_most_v": pl.Float64(),
        "i_most_a": pl.Float64(),
        "p_most_kw": pl.Float64(),
        "step_most_kw": pl.Float64(),
        "step_tolerance": pl.Float64(),
        "step_count_kwh": pl.Float64(),
        "multiplier": pl.Float64(),
        "valid_from": TIMESTAMP,
        "valid_to": TIMESTAMP,
        "stamps_from": TIMESTAMP,
        "stamps_to": TIMESTAMP,
        "tolerance_us": pl.Int64(),
        "grid_us": pl.Int64(),
        "block_us": pl.Int64(),
        "chain": pl.UInt32(),
        "protected_kw": pl.Float64(),
        "suspended_kva": pl.Float64(),
        "pt_ratio": pl.Float64(),
        "sampling": pl.String(),
        "source_no": pl.Int32(),
    }
)

DAY_S = 86_400
OFF_GRID_US = 1 << 62
"""`grid_us` of a version that has windows not made of its whole slots: after all times."""

_OF_CUSTOMER = (
    "feeder",
    "manager",
    "segment",
    "voltage_level_kv",
    "contract_capacity_kva",
    "contract_demand_kw",
    "pf_standard",
    "protected_kw",
    "suspended_kva",
)
_VOLTAGES_OF_RATING = {"3p4w": 3.0, "3p3w": 3.0**0.5, "1p": 1.0}
"""Rated power over nominal voltage (line to line for three wires) and maximum current."""
_LEAST_COUNT_KWH = 1.0
_ANY_KWH = float("inf")
_WINDOW_US = WINDOW_S * 1_000_000
_BLOCKS_US = {s: lcm(s, WINDOW_S) * 1_000_000 for s in range(1, DAY_S + 1) if DAY_S % s == 0}


def meter_versions(customers: pl.DataFrame, meters: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """What readings are judged by: METER_VERSIONS, a row for each version of a meter, by meter_id and valid_from.

    A version holds for intervals in (valid_from, valid_to] (UTC instants; valid_to null: open), and readings stamped in
    (stamps_from, stamps_to] belong to it: a tolerance (`tolerance_us`) later where it ends with a slot, and the moment
    `valid_from` where another of the customer's meters ends (it answers for no slot, and shows the registers).
    A version that outlives a change of the voltage limits, or a period of its customer, is cut there; its parts are one
    `chain`, within which registers are continuous. `grid_us`: the interval [us], or OFF_GRID_US; `block_us`: the
    shortest time that is made of whole slots and of whole windows.

    `register_modulus` is where the registers roll over [kWh, kvarh]; `u_lower_v` and `u_upper_v` [V] are the limits of
    supply-voltage deviation, `u_spread_limit` that on |+dev| + |-dev| (fraction of nominal; 0: none) of the meter's
    class of connection (GB/T 12325-2008), `u_band_*_v` [V] the band of monitored voltage; null where no class covers a
    meter. `*_most_*`: beyond it no value is believed, and no register step in that time (kWh an hour); a step is within
    `step_tolerance` (fraction) of power's integral, or `step_count_kwh` (any, of snapshots); `multiplier`
    is the ratios' product.
    """
    chains = meters.with_row_index("chain").with_columns(validity(settings.timezone))
    known = _of_customers(chains.with_columns(valid_from="valid_from_at", valid_to="valid_to_at"), customers, settings)
    limits = sorted(settings.voltage, key=lambda item: item.effective_from)
    parts = [
        _within(known, start, stop).with_columns(_limits(part))
        for part, start, stop in zip(limits, _starts(limits, settings), _stops(limits, settings), strict=True)
    ]
    judged = pl.concat(parts).with_columns(
        (10.0 ** pl.col("register_digits")).alias("register_modulus"),
        *_plausible(settings),
        *_slots(settings),
    )
    ordered = judged.sort("meter_id", "valid_from").with_columns(_stamps())
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in METER_VERSIONS.items())


def _of_customers(meters: pl.DataFrame, customers: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """Versions with their customers' columns, cut to the customers' periods."""
    periods = customers.select(
        "customer_no",
        *_OF_CUSTOMER,
        pl.col("name").alias("customer_name"),
        instant(pl.col("valid_from"), settings.timezone).alias("period_from"),
        instant(pl.col("valid_to").dt.offset_by("1d"), settings.timezone).alias("period_to"),
    )
    cut = meters.join(periods, on="customer_no", maintain_order="left").with_columns(
        pl.max_horizontal("valid_from", "period_from").alias("valid_from"),
        pl.min_horizontal("valid_to", "period_to").alias("valid_to"),
    )
    return cut.filter(pl.col("valid_to").is_null() | (pl.col("valid_from") < pl.col("valid_to")))


def validity(zone: str) -> list[pl.Expr]:
    """`valid_from_at` and `valid_to_at` of meters: instants that are known, or those of whole local days."""
    begin = instant(pl.col("valid_from"), zone)
    end = instant(pl.col("valid_to").dt.offset_by("1d"), zone)
    return [
        pl.coalesce("valid_from_at", begin).alias("valid_from_at"),
        pl.coalesce("valid_to_at", end).alias("valid_to_at"),
    ]


def _starts(limits: list[VoltageLimits], settings: MeteringSettings) -> list[datetime | None]:
    return [None, *(day_bounds(item.effective_from, settings.timezone)[0] for item in limits[1:])]


def _stops(limits: list[VoltageLimits], settings: MeteringSettings) -> list[datetime | None]:
    return [*_starts(limits, settings)[1:], None]


def _within(meters: pl.DataFrame, start: datetime | None, stop: datetime | None) -> pl.DataFrame:
    """Versions cut to the instants [start, stop)."""
    begin, end = pl.col("valid_from"), pl.col("valid_to")
    if start is not None:
        at = pl.lit(start, TIMESTAMP)
        meters = meters.filter(end.is_null() | (end > at)).with_columns(
            pl.max_horizontal(begin, at).alias("valid_from")
        )
    if stop is not None:
        at = pl.lit(stop, TIMESTAMP)
        meters = meters.filter(begin < at).with_columns(pl.min_horizontal(end, at).alias("valid_to"))
    return meters


def _slots(settings: MeteringSettings) -> list[pl.Expr]:
    slots, interval = settings.slots, pl.col("interval_s").cast(pl.Int64) * 1_000_000
    tolerance = pl.min_horizontal(interval * slots.tolerance, slots.tolerance_s * 1_000_000)
    whole = (_WINDOW_US % interval == 0) & _at_window("valid_from") & _at_window("valid_to").fill_null(True)
    return [
        tolerance.cast(pl.Int64).alias("tolerance_us"),
        pl.when(whole).then(interval).otherwise(OFF_GRID_US).alias("grid_us"),
        pl.col("interval_s").replace_strict(_BLOCKS_US, default=None, return_dtype=pl.Int64).alias("block_us"),
    ]


def _at_window(name: str) -> pl.Expr:
    return pl.col(name).to_physical() % _WINDOW_US == 0


def _stamps() -> list[pl.Expr]:
    """Stamps that are late still belong to the version before, also where another one follows at once. Where another of
    the customer's meters ends, one at the very start is of the new meter: what its registers start from.
    """
    late = pl.duration(microseconds=pl.when(_at_window("valid_to")).then("tolerance_us").otherwise(0))
    until = pl.col("valid_to") + late
    follows = (pl.col("meter_id") == pl.col("meter_id").shift()) & (pl.col("valid_from") == pl.col("valid_to").shift())
    begins, ends = (pl.concat_str("customer_no", pl.col(name).to_physical()) for name in ("valid_from", "valid_to"))
    exchanged = begins.is_in(ends.drop_nulls().implode())
    start = pl.when(exchanged).then(pl.col("valid_from").dt.offset_by("-1us")).otherwise("valid_from")
    return [
        pl.when(follows).then(until.shift()).otherwise(start).alias("stamps_from"),
        until.alias("stamps_to"),
    ]


def _plausible(settings: MeteringSettings) -> list[pl.Expr]:
    figures = settings.plausibility
    ratios = pl.col("pt_ratio") * pl.col("ct_ratio")
    voltages = pl.col("wiring").replace_strict(_VOLTAGES_OF_RATING, return_dtype=pl.Float64)
    count_kwh = (ratios * figures.count_kwh).clip(lower_bound=_LEAST_COUNT_KWH)
    kw_per_a = voltages * pl.col("nominal_v") * ratios / 1000
    rated_kw = kw_per_a * pl.col("max_a")
    return [
        (kw_per_a * pl.col("rated_a")).alias("base_kva"),
        rated_kw.alias("max_kva"),
        (pl.col("nominal_v") * figures.voltage_factor).alias("u_most_v"),
        (_line_to_line() * figures.voltage_factor).alias("u_line_most_v"),
        (pl.col("max_a") * figures.current_factor).alias("i_most_a"),
        (rated_kw * figures.power_factor).alias("p_most_kw"),
        (rated_kw * figures.step_factor).alias("step_most_kw"),
        pl.lit(figures.power_tolerance).alias("step_tolerance"),
        ratios.alias("multiplier"),
        # what snapshots of power add up to says nothing of the energy between them
        pl.when(pl.col("sampling") == "snapshot").then(_ANY_KWH).otherwise(count_kwh).alias("step_count_kwh"),
    ]


def _line_to_line() -> pl.Expr:
    """Nominal voltage between two lines: three-wire meters report that."""
    return pl.when(pl.col("wiring") == "3p4w").then(pl.col("nominal_v") * 3**0.5).otherwise("nominal_v")


def _limits(limits: VoltageLimits) -> list[pl.Expr]:
    """Limits of one effective-dated set; the first class that covers a meter is its class."""
    covered = [
        pl.col("wiring").is_in(item.wirings) & (pl.col("voltage_level_kv") <= item.max_kv) for item in limits.classes
    ]

    def of_class(values: list[float]) -> pl.Expr:
        return pl.coalesce(
            *(pl.when(here).then(value) for here, value in zip(covered, values, strict=True)), pl.lit(None, pl.Float64)
        )

    nominal = pl.col("nominal_v")
    return [
        (nominal * of_class([1.0 - item.lower for item in limits.classes])).alias("u_lower_v"),
        (nominal * of_class([1.0 + item.upper for item in limits.classes])).alias("u_upper_v"),
        (nominal * limits.band_lower).alias("u_band_lower_v"),
        (nominal * limits.band_upper).alias("u_band_upper_v"),
        of_class([item.spread for item in limits.classes]).alias("u_spread_limit"),
    ]
