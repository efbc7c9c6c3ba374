"""Values of meters' channels to readings: what the formats of the field have in common.

Here: `VALUES`, which `nem12` and `espi` make of a file, and `to_readings`. Not here: the formats.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from metering.tables.lake import ESTIMATED, MEASURED, REGISTERS
from metering.tables.schema import TIMESTAMP
from metering.tabular.convert import REJECTS, Replayed
from metering.tabular.energies import POWER_OF, chain_numbers
from metering.text import filled

ENERGY, REGISTER, VALUE = "interval_energy", "register", "value"
VALUES = pl.Schema(
    {
        "line": pl.Int64(),
        "meter_id": pl.String(),
        "field": pl.String(),
        "kind": pl.String(),
        "stream": pl.String(),
        "day": pl.Int64(),
        "ts": TIMESTAMP,
        "duration_s": pl.Int64(),
        "value": pl.Float64(),
        "estimated": pl.Boolean(),
    }
)
"""One value of one channel. `field` is a reading's, `kind` ENERGY (of the interval [kWh, kvarh], imported or exported),
REGISTER or VALUE; `ts` the interval's end, `duration_s` its length (0: none). Channels of the same field are told apart
by `stream`, and added where all of a `day` (a number) are there. `value` null: not known, which a reject says."""

_CLASSES = 8
_COUNTED = ("meter_id", "field", "stream")


def to_readings(values: pl.DataFrame, rejects: Sequence[pl.DataFrame]) -> Replayed:
    """Readings of `values` (VALUES), and rejects (REJECTS): those given and those of values that have no place.

    A field's channels are added up. Energies become registers that start at 0 before the first interval, in
    chains that end at gaps (`energies.chain_numbers`), and mean
    powers, import less export, where the meter's `p_kw` or `q_kvar` is not given itself. Of values of one channel and
    time the last counts; where channels of other interval lengths say the same, the finest counts. Readings of which a
    value is estimated have the bit ESTIMATED in `status`.

    A row, in what is counted, is a value of a channel: those of one meter and time are joined into one reading.
    """
    latest = _latest(values)
    plain, mixed = _of_one_kind(latest)
    finest, coarse = _finest(plain)
    summed, partial = _summed(finest)
    wide = _powered(_wide(summed))
    reasons = [
        mixed.select("line", pl.lit("other_series").alias("reason"), pl.lit(_MIXED).alias("detail")),
        coarse.select("line", pl.lit("other_series").alias("reason"), pl.lit(_COARSE).alias("detail")),
        partial.select("line", pl.lit("other_series").alias("reason"), pl.lit(_PARTIAL).alias("detail")),
    ]
    told = pl.concat(reasons).unique(maintain_order=True).with_columns(pl.lit(None, pl.String).alias("text"))
    gaps, missing = _gaps(wide)
    refused = pl.concat([*rejects, told.match_to_schema(REJECTS)]).sort("line", maintain_order=True)
    joined = max(finest["value"].count() - wide.height, 0)
    return Replayed(
        readings=_readings(wide),
        rejects=refused,
        rows=wide.height + refused.height + joined,
        joined=joined,
        corrected=0,
        gaps=gaps,
        missing=missing,
        doubled=_doubled(values, latest),
    )


_MIXED = "the file gives the energies of this meter's intervals, too: they count"
_COARSE = "the file gives this in shorter intervals, too: they count"
_PARTIAL = "another channel of this meter and direction has no value at some of its times: a part is not the sum"


_OF_A_TIME = (*_COUNTED, "kind", "ts", "duration_s")


def _latest(values: pl.DataFrame) -> pl.DataFrame:
    """Of values of one channel and time the last that is known."""
    ordered = values.sort(pl.col("value").is_not_null(), "line", maintain_order=True)
    return ordered.unique(_OF_A_TIME, keep="last", maintain_order=True).sort("line", maintain_order=True)


def _doubled(values: pl.DataFrame, latest: pl.DataFrame) -> int:
    """Values that a later one replaced; a register read that ends one record and begins the next is none."""
    known = values.filter(pl.col("value").is_not_null())
    register = pl.col("kind") == REGISTER
    each = known.filter(~register).height + known.filter(register).unique((*_OF_A_TIME, "value")).height
    return each - latest.filter(pl.col("value").is_not_null()).height


def _of_one_kind(values: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Values, and registers that stand beside energies of the same meter and field."""
    beside = (pl.col("kind") == REGISTER) & (pl.col("kind") == ENERGY).any().over("meter_id", "field")
    return values.filter(~beside), values.filter(beside)


def _finest(values: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Values, and those in whose interval a shorter one of the same meter, field and stream ends."""
    lengths = values.filter(pl.col("duration_s") > 0)["duration_s"].value_counts().sort("count", descending=True)
    common = sorted(lengths["duration_s"].head(_CLASSES).to_list())
    if lengths.height <= 1:
        return values, values.clear()
    fine, coarse = values.filter(pl.col("duration_s") == 0), values.clear()
    rest = values.filter(~pl.col("duration_s").is_in([0, *common]))
    for candidates in (*(values.filter(pl.col("duration_s") == length) for length in common), rest):
        ends = fine.filter(pl.col("duration_s") > 0).select(*_COUNTED, "ts", pl.col("ts").alias("end")).sort("ts")
        near = candidates.sort("ts").join_asof(
            ends, on="ts", by=list(_COUNTED), strategy="backward", check_sortedness=False
        )
        covered = (pl.col("end") > pl.col("ts") - pl.duration(seconds="duration_s")).fill_null(False)
        fine = pl.concat([fine, near.filter(~covered).drop("end")])
        coarse = pl.concat([coarse, near.filter(covered).drop("end")])
    return fine, coarse


def _summed(values: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One value for each meter, field, kind, time and length: the sum of the streams; and values that lack others.

    Energies want all streams of their day, registers all of the file.
    """
    register = pl.col("kind") == REGISTER
    due = (
        pl.when(register)
        .then(pl.col("stream").n_unique().over("meter_id", "field"))
        .otherwise(pl.col("stream").n_unique().over("meter_id", "field", "day"))
    )
    group = ("meter_id", "field", "kind", "ts", "duration_s")
    counted = values.with_columns(due.alias("due"))
    whole = (pl.len() == pl.col("due").first()) & pl.col("value").is_not_null().all()
    counted = counted.with_columns(whole.over(group).alias("whole"))
    summed = counted.group_by(group, maintain_order=True).agg(
        pl.when(pl.col("whole").all()).then(pl.col("value").sum()).alias("value"), pl.col("estimated").any()
    )
    return summed, counted.filter(pl.col("value").is_not_null() & ~pl.col("whole"))


def _wide(summed: pl.DataFrame) -> pl.DataFrame:
    """A row for each meter and time, with a column for each field; where lengths differ, the shorter interval's value.

    Columns `<field>:s` are the intervals' lengths.
    """
    fields = [name for name in MEASURED if name in set(summed["field"])]
    known = summed.sort("duration_s", descending=False, maintain_order=True)
    mine = {name: pl.col("field") == name for name in fields}
    energy = pl.col("kind") == ENERGY
    return (
        known.group_by("meter_id", "ts", maintain_order=True)
        .agg(
            *(pl.col("value").filter(here).first().alias(name) for name, here in mine.items()),
            *(pl.col("duration_s").filter(here & energy).first().alias(f"{name}:s") for name, here in mine.items()),
            pl.col("duration_s").min(),
            pl.col("estimated").any(),
        )
        .filter(pl.any_horizontal(pl.col(fields).is_not_null()) if fields else pl.lit(False))
        .sort("ts", "meter_id")
    )


def _powered(wide: pl.DataFrame) -> pl.DataFrame:
    """`wide` with mean powers of its energies, and energies summed into registers."""
    powers = [
        _mean_power(name, ways, wide.columns).alias(name)
        for name, ways in POWER_OF.items()
        if any(way in wide.columns for way in ways)
    ]
    fields = [name for name in REGISTERS if name in wide.columns]
    powered = wide.with_columns(*powers, *_chains(wide, fields))
    return powered.with_columns(_register(name) for name in fields)


def _chains(wide: pl.DataFrame, fields: Sequence[str]) -> list[pl.Series]:
    """The chains of registers that are sums of energies; null for meters' own."""
    lengths = [pl.col(f"{name}:s") for name in fields]
    if not lengths:
        return []
    has = pl.any_horizontal(length.is_not_null().any().over("meter_id") for length in lengths)
    start = pl.col("ts") - pl.duration(seconds=pl.coalesce(lengths))
    of_energies = wide.select(has).to_series()
    numbers = chain_numbers(wide, fields, start)
    return [numbers.set(~of_energies, None)] if of_energies.any() else []


def _mean_power(name: str, ways: tuple[str, str], present: Sequence[str]) -> pl.Expr:
    """The given power, else import less export over the interval; null where a channel that the meter has is not known.

    A meter without a channel of one direction has none in it.
    """
    given = pl.col(name) if name in present else pl.lit(None, pl.Float64)
    length = pl.coalesce(*(pl.col(f"{way}:s") for way in ways if way in present))
    terms = []
    for way, sign in zip(ways, (1.0, -1.0), strict=True):
        if way in present:
            has = (pl.col(way).is_not_null() | pl.col(f"{way}:s").is_not_null()).any().over("meter_id")
            same = pl.col(f"{way}:s") == length
            terms.append(pl.when(~has).then(0.0).when(same).then(pl.col(way) * sign))
    mean = pl.sum_horizontal(terms, ignore_nulls=False) * 3600 / pl.when(length > 0).then(length)
    return pl.coalesce(given, mean.round(9))


def _register(name: str) -> pl.Expr:
    """Where values are energies of intervals: the cumulative register after each, rounded to 1e-9."""
    energy = pl.col(f"{name}:s").is_not_null().any().over("meter_id")
    summed = pl.col(name).fill_null(0.0).cum_sum().over("meter_id").round(9)
    return pl.when(energy & pl.col(name).is_not_null()).then(summed).otherwise(pl.col(name)).alias(name)


def _readings(wide: pl.DataFrame) -> pl.DataFrame:
    known = [name for name in MEASURED if name in wide.columns and wide[name].count()]
    status = pl.when("estimated").then(pl.lit(ESTIMATED, pl.Int64)).alias("status")
    return wide.select("meter_id", "ts", *known, *([status] if wide["estimated"].any() else []))


def _gaps(wide: pl.DataFrame) -> tuple[int, int]:
    """Silences of a meter that are longer than the interval after them, and the intervals that would fill them."""
    length = pl.when(pl.col("duration_s") > 0).then("duration_s")
    apart = (pl.col("ts").diff().over("meter_id").dt.total_seconds() / length).alias("apart")
    silent = wide.select(apart).filter(pl.col("apart") > 1)
    return silent.height, int((silent["apart"].ceil() - 1).sum()) if silent.height else 0


def reject(rows: pl.DataFrame, reason: str, detail: pl.Expr | str) -> pl.DataFrame:
    """REJECTS of `rows`, which have `line` and may have `text`."""
    said = filled(detail) if isinstance(detail, str) else detail
    text = pl.col("text") if "text" in rows.columns else pl.lit(None, pl.String)
    return rows.select("line", pl.lit(reason).alias("reason"), said.alias("detail"), text.alias("text")).cast(REJECTS)
