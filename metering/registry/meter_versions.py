"""What a meter's readings are judged by, from the registry and the settings: one row for each meter version.

Here: joining a meter with its customer, its voltage limits and the instants between which it is valid. Not here: what a
valid registry is (`registry`), the judging itself.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.settings import MeteringSettings, VoltageLimits
from metering.tables.schema import TIMESTAMP

METER_VERSIONS = pl.Schema(
    {
        "meter_id": pl.String(),
        "customer_no": pl.String(),
        "wiring": pl.String(),
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
        "contract_capacity_kva": pl.Float64(),
        "contract_demand_kw": pl.Float64(),
        "pf_standard": pl.Float64(),
        "valid_from": TIMESTAMP,
        "valid_to": TIMESTAMP,
    }
)

_PERIOD = (pl.col("valid_from").alias("customer_from"), pl.col("valid_to").alias("customer_to"))
_OF_CUSTOMER = ("segment", "voltage_level_kv", "contract_capacity_kva", "contract_demand_kw", "pf_standard")


def meter_versions(customers: pl.DataFrame, meters: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """What readings are judged by: METER_VERSIONS, a row for each version of a meter, by meter_id and valid_from.

    A reading belongs to the row with valid_from < ts <= valid_to: UTC instants of local midnights, valid_to null: open.
    A version that outlives a change of the voltage limits, or a period of its customer, is cut there.
    `register_modulus` is where the registers roll over [kWh, kvarh]; `u_lower_v` and `u_upper_v` [V] are the limits of
    supply-voltage deviation, `u_spread_limit` that on |+dev| + |-dev| (fraction of nominal; 0: none) of the meter's
    class of connection (GB/T 12325-2008), `u_band_*_v` [V] the band of monitored voltage. Limits are null where no
    class covers a meter.
    """
    known = meters.join(customers.select("customer_no", *_OF_CUSTOMER, *_PERIOD), on="customer_no")
    limits = sorted(settings.voltage, key=lambda item: item.effective_from)
    parts = [
        _within(known, start, stop).with_columns(_limits(part))
        for part, start, stop in zip(limits, _starts(limits), _stops(limits), strict=True)
    ]
    return (
        pl.concat(parts)
        .with_columns(
            (10.0 ** pl.col("register_digits")).alias("register_modulus"),
            _local_midnight(pl.col("valid_from"), settings.timezone).alias("valid_from"),
            _local_midnight(pl.col("valid_to").dt.offset_by("1d"), settings.timezone).alias("valid_to"),
            _local_midnight(pl.col("customer_from"), settings.timezone).alias("customer_from"),
            _local_midnight(pl.col("customer_to").dt.offset_by("1d"), settings.timezone).alias("customer_to"),
        )
        .with_columns(
            pl.max_horizontal("valid_from", "customer_from").alias("valid_from"),
            pl.min_horizontal("valid_to", "customer_to").alias("valid_to"),
        )
        .filter(pl.col("valid_to").is_null() | (pl.col("valid_from") < pl.col("valid_to")))
        .select(pl.col(name).cast(dtype) for name, dtype in METER_VERSIONS.items())
        .sort("meter_id", "valid_from")
    )


def _starts(limits: list[VoltageLimits]) -> list[date | None]:
    return [None, *(item.effective_from for item in limits[1:])]


def _stops(limits: list[VoltageLimits]) -> list[date | None]:
    return [*(item.effective_from for item in limits[1:]), None]


def _within(meters: pl.DataFrame, start: date | None, stop: date | None) -> pl.DataFrame:
    """Versions cut to the dates [start, stop)."""
    first, last = pl.col("valid_from"), pl.col("valid_to")
    if start is not None:
        meters = meters.filter(last.is_null() | (last >= start)).with_columns(pl.max_horizontal(first, pl.lit(start)))
    if stop is not None:
        final = pl.lit(stop).dt.offset_by("-1d")
        meters = meters.filter(first < stop).with_columns(pl.min_horizontal(last, final).alias("valid_to"))
    return meters


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


def _local_midnight(day: pl.Expr, zone: str) -> pl.Expr:
    """First instant of a local date, UTC. Where clocks are put forward at midnight, the day starts at 01:00."""
    midnight = day.cast(pl.Datetime("us"))

    def local(wall: pl.Expr) -> pl.Expr:
        return wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")

    return pl.coalesce(local(midnight), local(midnight.dt.offset_by("1h"))).dt.convert_time_zone("UTC")
