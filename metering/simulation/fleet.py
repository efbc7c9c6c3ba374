"""Who is simulated: customers, their meters, and the traits that their load and voltage follow.

Here: drawing a fleet from a seed; its frames have the registry's schemas. Not here: readings (`loads`), faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

import polars as pl

from metering.registry.meter_versions import validity
from metering.settings import MeteringSettings
from metering.simulation.draws import around, between, choose, uniform
from metering.simulation.industries import INDUSTRIES, SHARES
from metering.tables.schema import TIMESTAMP
from metering.tables.warehouse import CUSTOMERS, METERS
from metering.text import filled

FIRST_NUMBER = 100001
REGIONS = ("城东", "城西", "城南", "城北")
RATED_A, MAX_A = 1.5, 6.0
EXCHANGED, HOURLY, TEN_MINUTES = 7, 8, 9
"""Customers, by their number in the fleet from 0, whose meters are exchanged, or report every hour or 10 minutes."""
OWN_INTERVALS_S = {HOURLY: 3600, TEN_MINUTES: 600}
NEW_REGISTER_MOST_KWH = 50
COUNTERS = ("import", "export", "lagging", "leading")
_WS_PER_KWH = 3_600_000
_CT_PRIMARY_A = (30, 50, 75, 100, 150, 200, 300, 400, 500, 600, 750, 1000, 1500, 2000)


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """`customers` and `meters` are the registry (CUSTOMERS, METERS); `traits` has one row for each meter, in the same
    order, with all that `loads` and `faults` need. A meter that is exchanged has two rows in `meters`, and one in
    `exchanges` with the instant `at` and the new one's counters. `seed` is the one it was drawn from."""

    customers: pl.DataFrame
    meters: pl.DataFrame
    traits: pl.DataFrame
    exchanges: pl.DataFrame
    seed: int


def draw_fleet(
    count: int, seed: int, interval_s: int, valid_from: date, settings: MeteringSettings, exchange: date | None = None
) -> Fleet:
    """`count` customers of mixed industries, supplies and wirings; some with dual supply, hence two meters.

    The same seed draws the same customers whatever their number: a larger fleet begins with the smaller one. Meters
    report every `interval_s`; those of two customers every hour and every 10 minutes, if that is a multiple of it. At
    noon of `exchange` a third customer's meter is exchanged, if `interval_s` divides an hour.
    """
    customers = _customers(count, seed, settings)
    traits = _traits(_with_sources(customers), seed).with_columns(_interval(interval_s))
    noon = None
    if exchange is not None and 3600 % interval_s == 0:
        noon = datetime.combine(exchange, time(12), tzinfo=ZoneInfo(settings.timezone))
    meters = traits.with_columns(
        pl.lit(RATED_A).alias("rated_a"),
        pl.lit(MAX_A).alias("max_a"),
        pl.lit(valid_from).alias("valid_from"),
        pl.lit(None, pl.Date).alias("valid_to"),
        pl.lit(None, TIMESTAMP).alias("valid_from_at"),
        pl.lit(None, TIMESTAMP).alias("valid_to_at"),
    )
    registered = METERS.conform(_versions(meters, noon)).with_columns(validity(settings.timezone))
    return Fleet(CUSTOMERS.conform(customers), registered, traits, _exchanges(traits, seed, noon), seed)


def _interval(interval_s: int) -> pl.Expr:
    own = {place: own_s for place, own_s in OWN_INTERVALS_S.items() if own_s % interval_s == 0}
    return pl.col("n").replace_strict(own, default=interval_s, return_dtype=pl.Int64).alias("interval_s")


def _versions(meters: pl.DataFrame, noon: datetime | None) -> pl.DataFrame:
    """A row for each version of a meter."""
    if noon is None:
        return meters
    day, at = pl.lit(noon.date()), pl.lit(noon).cast(TIMESTAMP)
    exchanged = pl.col("n") == EXCHANGED
    old = meters.with_columns(
        pl.when(exchanged).then(day).alias("valid_to"), pl.when(exchanged).then(at).alias("valid_to_at")
    )
    new = meters.filter(exchanged).with_columns(day.alias("valid_from"), at.alias("valid_from_at"))
    return pl.concat([old, new]).sort("meter", "valid_from")


def _exchanges(traits: pl.DataFrame, seed: int, noon: datetime | None) -> pl.DataFrame:
    """New meters, and what they have counted in the workshop: whole kWh."""
    new = traits.filter(pl.col("n") == EXCHANGED) if noon is not None else traits.clear()

    def counted(name: str) -> pl.Expr:
        so_far = (uniform(seed, f"new register {name}", new["meter"]) * NEW_REGISTER_MOST_KWH).floor()
        return (so_far.cast(pl.Int64) * _WS_PER_KWH).alias(f"{name}_ws")

    return new.select("meter", pl.lit(noon).cast(TIMESTAMP).alias("at"), *map(counted, COUNTERS))


def _industries() -> pl.DataFrame:
    """One row for each industry and supply; `kind` is the industry's place in INDUSTRIES."""
    rows = [
        {
            **{name: getattr(item, name) for name in item.__slots__ if name != "supplies"},
            "kind": kind,
            "of_supplies": len(item.supplies),
            "supply": number,
            "voltage_level_kv": supply.level_kv,
            "level_name": f"{supply.level_kv:g} kV",
            "wiring": supply.wiring,
            "nominal_v": supply.nominal_v,
            "pt_ratio": supply.pt_ratio,
            "capacities_kva": [float(kva) for kva in supply.capacities_kva],
        }
        for kind, item in enumerate(INDUSTRIES)
        for number, supply in enumerate(item.supplies)
    ]
    return pl.DataFrame(rows)


def _customers(count: int, seed: int, settings: MeteringSettings) -> pl.DataFrame:
    def u(stream: str) -> pl.Expr:
        return uniform(seed, stream, pl.int_range(count, eager=True))

    # the first ten are one of each industry, so that a small fleet shows every wiring; then by their shares
    by_share = [kind for kind, share in enumerate(SHARES) for _ in range(share)]
    kinds = len(INDUSTRIES)
    kind = pl.when(pl.col("n") < kinds).then(pl.col("n")).otherwise(choose(by_share, u("industry")).cast(pl.Int64))
    table = _industries()
    tariffs = [tariff.name for tariff in settings.tariffs]
    capacity = pl.col("capacities_kva").list.get((u("capacity") * pl.col("capacities_kva").list.len()).cast(pl.UInt32))
    region = choose(REGIONS, u("region"))
    return (
        pl.DataFrame({"n": pl.int_range(count, eager=True)})
        .with_columns(kind=kind)
        .join(table.select("kind", "of_supplies").unique(), on="kind", maintain_order="left")
        .with_columns(supply=(u("supply") * pl.col("of_supplies")).cast(pl.Int64))
        .join(table.drop("of_supplies"), on=["kind", "supply"], maintain_order="left")
        .with_columns(
            customer_no=(pl.col("n") + FIRST_NUMBER).cast(pl.String),
            name=filled("{} {}", "name_zh", (pl.int_range(pl.len()).over("kind") + 1).cast(pl.String).str.zfill(3)),
            contract_capacity_kva=capacity,
            dual_supply=u("dual") < pl.col("dual_share"),
            feeder=filled(
                "{} {}{}线",
                "level_name",
                region,
                (u("feeder") * 20 + 1).cast(pl.Int32).cast(pl.String).str.zfill(2),
            ),
            manager=region + "供电所",
            controllable=u("controllable") < 0.75,
            tariff=pl.when(pl.col("tariff").is_in(tariffs)).then("tariff").otherwise(pl.lit(tariffs[0])),
        )
        .with_columns(
            contract_demand_kw=pl.when(u("demand") < 0.3).then((0.95 * pl.col("contract_capacity_kva")).round(0))
        )
    )


def _with_sources(customers: pl.DataFrame) -> pl.DataFrame:
    """One row for each meter. Of two sources each carries part of the customer's load."""
    sources = pl.when("dual_supply").then(pl.lit([1, 2])).otherwise(pl.lit([1]))
    return (
        customers.with_columns(source_no=sources)
        .explode("source_no")
        .with_columns(meter_id=filled("M{}-{}", "customer_no", "source_no"))
        .with_row_index("meter")
    )


def _traits(meters: pl.DataFrame, seed: int) -> pl.DataFrame:
    def u(stream: str, *keys: str) -> pl.Expr:
        return uniform(seed, stream, *(meters[key] for key in keys or ("meter",)))

    first = between(0.48, 0.58, u("share", "n"))
    share = pl.when(~pl.col("dual_supply")).then(1.0).when(pl.col("source_no") == 1).then(first).otherwise(1 - first)
    size = around(0.10, u("size", "n"))
    tilt = {phase: u(f"tilt {phase}") - 0.5 for phase in "abc"}
    mean_tilt = pl.sum_horizontal(tilt.values()) / 3
    return (
        meters.drop("kind", "supply")
        .with_columns(
            ct_ratio=_ct_ratio(),
            register_digits=_digits(),
            share=share,
            base=pl.col("base") * share * size,
            peak=pl.col("peak") * share * size,
            start_min=pl.col("start_min") + (between(-30, 30, u("start", "n"))).round(0),
            end_min=pl.col("end_min") + (between(-30, 30, u("end", "n"))).round(0),
            continuous=pl.col("end_min") - pl.col("start_min") >= 1440,
            tan_target=between(0.12, 0.30, u("target")),
            leads_at_night=u("leads") < 0.35,
            # a few feeders are kept too high, a few are too weak: their voltage is not always qualified
            level_pu=between(1.000, 1.035, u("level")) + pl.when(u("high feeder") < 0.03).then(0.045).otherwise(0.0),
            sag_pu=between(0.015, 0.045, u("sag")) + pl.when(u("weak feeder") < 0.04).then(0.10).otherwise(0.0),
            # phases differ in voltage and in load; the load's shares sum to one
            **{f"lift_{phase}": between(-0.008, 0.008, u(f"lift {phase}")) for phase in "abc"},
            **{f"load_{phase}": (1 + 0.16 * (tilt[phase] - mean_tilt)) / 3 for phase in "abc"},
        )
        .with_columns(
            # in ws and vars, so that sums are exact; some registers are about to roll over
            **{f"{name}_ws": _register_start(seed, name, meters["meter"]) for name in COUNTERS},
        )
    )


def _ct_ratio() -> pl.Expr:
    """The smallest current transformer (secondary 5 A) with a quarter to spare."""
    cap_va = pl.col("contract_capacity_kva") * 1000
    amperes = (
        pl.when(pl.col("wiring") == "1p")
        .then(cap_va / pl.col("nominal_v"))
        .when(pl.col("wiring") == "3p3w")
        .then(cap_va / (3**0.5 * pl.col("nominal_v") * pl.col("pt_ratio")))
        .otherwise(cap_va / (3 * pl.col("nominal_v") * pl.col("pt_ratio")))
    )
    fitting = [pl.when(size >= 1.25 * amperes).then(pl.lit(size / 5)) for size in _CT_PRIMARY_A]
    return pl.coalesce(*fitting, pl.lit(_CT_PRIMARY_A[-1] / 5))


def _digits() -> pl.Expr:
    """Digits enough for a year at full capacity."""
    return (pl.col("contract_capacity_kva") * 8760).log10().ceil().cast(pl.Int32)


def _register_start(seed: int, name: str, meter: pl.Series) -> pl.Expr:
    """Energy so far [Ws, vars], whole kWh. One meter in twenty is within a few hours of rolling over."""
    modulus_kwh = 10.0 ** pl.col("register_digits")
    near = modulus_kwh - (2 * pl.col("contract_capacity_kva")).ceil()
    if name == "export":
        return pl.lit(0, pl.Int64)
    so_far = (modulus_kwh * 0.5 * uniform(seed, f"register {name}", meter)).floor()
    rolls = uniform(seed, f"rolls {name}", meter) < 0.05
    return pl.when(rolls).then(near).otherwise(so_far).cast(pl.Int64) * _WS_PER_KWH
