"""From counts to KPI rows: value, target, status, for every KPI in every scope.

Here: the verdict; no data is never a pass. Not here: the counts (`count`), the targets (settings).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from metering.settings.kpis import Kpi
from metering.supply.power_factor import half_up
from metering.tables.kpi import KPI
from metering.tables.schema import finite

MET, MISSED, NO_DATA = "met", "missed", "no_data"

_ROW: dict[str, type[pl.DataType] | pl.DataType] = {
    "kpi_id": pl.String, "name_zh": pl.String, "name_en": pl.String, "unit": pl.String, "direction": pl.String,
    "weight": pl.Float64, "target": pl.Float64, "decimals": pl.Int32, "scopes": pl.List(pl.String),
}  # fmt: skip


def judged(counts: pl.DataFrame, scopes: pl.DataFrame, kpis: Mapping[str, Kpi], period: str) -> pl.DataFrame:
    """KPI rows of one `period`: each of `kpis` in each of `scopes` (scope, kind) whose kind it has.

    `counts`: kpi_id, scope, numerator, denominator, coverage; what is no finite number is none. A value needs a
    denominator above 0. status is no_data without a value, and also, with the value given, for a KPI without a target:
    it can be neither met nor missed.
    """
    value, target = pl.col("value"), pl.col("target")
    reached = pl.when(pl.col("direction") == "at_most").then(value <= target).otherwise(value >= target)
    rows = (
        _rows(kpis)
        .join(scopes, left_on="kind", right_on="kind")
        .join(finite(counts), on=["kpi_id", "scope"], how="left")
        .with_columns(_value(kpis).alias("value"), pl.col("coverage").fill_null(0).clip(0, 1))
        .pipe(finite)
        .with_columns(
            pl.when(value.is_null() | target.is_null())
            .then(pl.lit(NO_DATA))
            .when(reached)
            .then(pl.lit(MET))
            .otherwise(pl.lit(MISSED))
            .alias("status")
        )
    )
    return KPI.conform(rows, period=period).sort(KPI.key)


def _rows(kpis: Mapping[str, Kpi]) -> pl.DataFrame:
    """The table's rows, once for each kind of scope."""
    rows = [
        (
            kpi_id,
            k.name_zh,
            k.name_en,
            k.unit,
            k.direction,
            k.weight,
            k.target,
            k.decimals if k.rounded else None,
            list(k.scopes),
        )
        for kpi_id, k in kpis.items()
    ]
    return pl.DataFrame(rows, schema=_ROW, orient="row").explode("scopes").rename({"scopes": "kind"})


def _value(kpis: Mapping[str, Kpi]) -> pl.Expr:
    numerator, denominator, decimals = pl.col("numerator"), pl.col("denominator"), pl.col("decimals")
    quotient = numerator * pl.when(pl.col("unit") == "%").then(100).otherwise(1) / denominator
    for places in sorted({kpi.decimals for kpi in kpis.values() if kpi.rounded}):
        quotient = pl.when(decimals == places).then(half_up(quotient, places)).otherwise(quotient)
    return pl.when(denominator > 0).then(quotient)
