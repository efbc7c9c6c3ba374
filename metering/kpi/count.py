"""The KPI tree: what each KPI counts, for each customer and for the whole scope, day by day and month to date.

Here: the list of KPIs that the documentation is made of, and their rows. Not here: the formulae underneath (`voltage`,
`power_factor`, `forecast`), targets (settings).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from metering.calendar import day_bounds
from metering.load.curve import SCOPE
from metering.settings import MeteringSettings
from metering.supply.power_factor import energies, half_up, reactive_kvarh
from metering.supply.voltage import PHASES_OF_WIRING
from metering.tables.warehouse import KPI
from metering.vee import intervals

MET, MISSED, NO_DATA = "met", "missed", "no_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiDefinition:
    """One KPI. `decimals` are those it is printed with; `numerator`, `denominator`, `coverage` say what is counted.

    A value in % is numerator / denominator x 100, one in 1 the quotient itself.
    """

    kpi_id: str
    name_zh: str
    name_en: str
    unit: str
    decimals: int
    numerator: str
    denominator: str
    coverage: str


_VOLTAGE_COUNTS = {
    "numerator": "monitored phase-minutes less those above or below the limits",
    "denominator": "monitored phase-minutes",
    "coverage": "monitored phase-minutes of all phase-minutes of valid meters",
}

DEFINITIONS = (
    KpiDefinition(
        kpi_id="reading_success_rate",
        name_zh="远程抄表成功率",
        name_en="Remote meter reading success rate",
        unit="%",
        decimals=2,
        numerator="reading slots received",
        denominator="reading slots due from valid meters",
        coverage="1: every valid meter is counted, silent ones too",
    ),
    KpiDefinition(
        kpi_id="monitoring_coverage",
        name_zh="实时监测覆盖率",
        name_en="Real-time monitoring coverage",
        unit="%",
        decimals=2,
        numerator="meters heard (month: meter-days)",
        denominator="valid meters (month: meter-days)",
        coverage="1: every valid meter is counted, silent ones too",
    ),
    KpiDefinition(
        kpi_id="voltage_qualification_monitoring",
        name_zh="电压合格率（监测指标）",
        name_en="Voltage qualification rate, monitoring target",
        unit="%",
        decimals=3,
        **_VOLTAGE_COUNTS,
    ),
    KpiDefinition(
        kpi_id="voltage_qualification_service",
        name_zh="电压合格率（服务指标）",
        name_en="Voltage qualification rate, service target",
        unit="%",
        decimals=3,
        **_VOLTAGE_COUNTS,
    ),
    KpiDefinition(
        kpi_id="power_factor",
        name_zh="功率因数",
        name_en="Power factor",
        unit="1",
        decimals=2,
        numerator="active energy |P|, kWh",
        denominator="sqrt(P^2 + Q^2), Q = |import| + |export| kvarh; the value is rounded to 2 decimals",
        coverage="reading slots received of those due (month: mean of the days)",
    ),
    KpiDefinition(
        kpi_id="load_forecast_accuracy",
        name_zh="负荷预测准确率",
        name_en="Load forecast accuracy",
        unit="%",
        decimals=2,
        numerator="points in the ratios, times their grid accuracy (month: summed over days)",
        denominator="points in the ratios (month: summed over days)",
        coverage="points compared of the day's quarter-hours (month: mean of the days)",
    ),
)

_COUNTS = ("kpi_id", "scope", "numerator", "denominator", "coverage")


def daily_kpis(
    windows: pl.DataFrame,
    voltage: pl.DataFrame,
    accuracy: pl.DataFrame,
    meter_versions: pl.DataFrame,
    customers: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
) -> pl.DataFrame:
    """KPI rows of the local `day`: every KPI for each customer with a meter valid that day, and for all ('*').

    `windows`: current rows of the lake's windows; `voltage`: VOLTAGE_DAILY; `accuracy`: FORECAST_ACCURACY; rows of
    other days are left out. status is no_data where nothing could be counted, and also, with the value given, for a KPI
    without a target: it can be neither met nor missed.
    """
    start, end = day_bounds(day, settings.timezone)
    of_day = windows.filter(pl.col("window_end") > start, pl.col("window_end") <= end)
    known = meter_versions.join(customers, on="customer_no", how="semi")
    meters = intervals.meters_on(known, day, settings)
    slots = _with_scope(intervals.expected_intervals(of_day, known, day, settings))
    minutes = (end - start).total_seconds() / 60
    counts = pl.concat(
        [
            _reading(slots),
            _coverage(slots),
            *_voltage(voltage.filter(pl.col("date") == day), meters, minutes),
            _power_factor(of_day.join(meters, on="meter_id", how="semi"), slots),
            _forecast(accuracy.filter(pl.col("date") == day), minutes / intervals.QUARTER_HOUR_MIN),
        ]
    )
    return _judged(counts, meters["customer_no"].unique(), day.isoformat(), settings)


def monthly_kpis(
    daily: pl.DataFrame, power_factors: pl.DataFrame, month: date, settings: MeteringSettings
) -> pl.DataFrame:
    """KPI rows of the local month that the date `month` lies in, of the days of it that are in `daily`.

    `daily`: KPI rows of days, others than the month's are left out; `power_factors`: POWER_FACTOR_MONTHLY. Counts are
    summed and coverage is averaged over the days that a scope has; the power factor is that of the month's energies.
    """
    first = month.replace(day=1)
    period = f"{first:%Y-%m}"
    of_month = daily.filter(pl.col("period").str.starts_with(f"{period}-"))
    sums = of_month.group_by("kpi_id", "scope").agg(
        *(pl.when(pl.col(c).count() > 0).then(pl.col(c).sum()).alias(c) for c in ("numerator", "denominator")),
        pl.col("coverage").mean(),
    )
    is_power_factor = pl.col("kpi_id") == "power_factor"
    of_energies = _quotient(_with_scope(power_factors.filter(pl.col("month") == first)))
    counts = pl.concat(
        [
            sums.filter(~is_power_factor).select(_COUNTS),
            of_energies.join(
                sums.filter(is_power_factor).select("scope", "coverage"), left_on="customer_no", right_on="scope"
            ).select(pl.lit("power_factor").alias("kpi_id"), pl.col("customer_no").alias("scope"), *_COUNTS[2:]),
        ]
    )
    customers = of_month.filter(pl.col("scope") != SCOPE)["scope"].unique()
    return _judged(counts, customers, period, settings)


def _with_scope(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows`, and the same again for the whole scope."""
    return pl.concat([rows, rows.with_columns(pl.lit(SCOPE).alias("customer_no"))])


def _counts(kpi_id: str, numerator: pl.Expr, denominator: pl.Expr, coverage: pl.Expr) -> list[pl.Expr]:
    return [
        pl.lit(kpi_id).alias("kpi_id"),
        pl.col("customer_no").alias("scope"),
        numerator.cast(pl.Float64).alias("numerator"),
        denominator.cast(pl.Float64).alias("denominator"),
        coverage.cast(pl.Float64).alias("coverage"),
    ]


def _reading(slots: pl.DataFrame) -> pl.DataFrame:
    sums = slots.group_by("customer_no").agg(pl.col("received", "expected").sum())
    return sums.select(_counts("reading_success_rate", pl.col("received"), pl.col("expected"), pl.lit(1.0)))


def _coverage(slots: pl.DataFrame) -> pl.DataFrame:
    sums = slots.group_by("customer_no").agg((pl.col("received") > 0).sum().alias("heard"), pl.len().alias("valid"))
    return sums.select(_counts("monitoring_coverage", pl.col("heard"), pl.col("valid"), pl.lit(1.0)))


def _voltage(voltage: pl.DataFrame, meters: pl.DataFrame, minutes: float) -> list[pl.DataFrame]:
    phases = {wiring: len(phases) for wiring, phases in PHASES_OF_WIRING.items()}
    due = _with_scope(
        meters.select("customer_no", pl.col("wiring").replace_strict(phases, return_dtype=pl.Int64).alias("phases"))
    )
    heard = _with_scope(voltage.join(meters, on="meter_id", how="semi")).group_by("customer_no")
    sums = (
        due.group_by("customer_no")
        .agg((pl.col("phases").sum() * minutes).alias("due_min"))
        .join(heard.agg(pl.col("monitored_min", "over_min", "under_min").sum()), on="customer_no", how="left")
    )
    qualified = pl.col("monitored_min") - pl.col("over_min") - pl.col("under_min")
    coverage = pl.col("monitored_min") / pl.col("due_min")
    ids = ("voltage_qualification_monitoring", "voltage_qualification_service")
    return [sums.select(_counts(i, qualified, pl.col("monitored_min"), coverage)) for i in ids]


def _quotient(energy: pl.DataFrame) -> pl.DataFrame:
    """customer_no, numerator and denominator of the power factor, from summed energies; null where it has none."""
    sums = energy.group_by("customer_no").agg(
        pl.when(pl.col(c).count() > 0).then(pl.col(c).sum()).alias(c)
        for c in ("active_kwh", "import_kvarh", "export_kvarh")
    )
    apparent = (pl.col("active_kwh").pow(2) + reactive_kvarh().pow(2)).sqrt()
    active = pl.when(apparent.is_not_null()).then(pl.col("active_kwh").abs())
    return sums.select("customer_no", active.alias("numerator"), apparent.alias("denominator"))


def _power_factor(windows: pl.DataFrame, slots: pl.DataFrame) -> pl.DataFrame:
    received = slots.group_by("customer_no").agg(
        (pl.col("received").sum() / pl.col("expected").sum()).alias("coverage")
    )
    return (
        _quotient(_with_scope(energies(windows)))
        .join(received, on="customer_no")
        .select(_counts("power_factor", pl.col("numerator"), pl.col("denominator"), pl.col("coverage")))
    )


def _forecast(accuracy: pl.DataFrame, points: float) -> pl.DataFrame:
    compared = (pl.col("points") - pl.col("left_out")).cast(pl.Float64)
    return accuracy.select(
        _counts("load_forecast_accuracy", compared * pl.col("grid_accuracy") / 100, compared, pl.col("points") / points)
    )


def _judged(counts: pl.DataFrame, customers: pl.Series, period: str, settings: MeteringSettings) -> pl.DataFrame:
    scopes = pl.DataFrame({"scope": [SCOPE, *customers.sort()]}, schema={"scope": pl.String})
    every = _definitions(DEFINITIONS, settings).join(scopes, how="cross")
    numerator, denominator, value, target = (pl.col(c) for c in ("numerator", "denominator", "value", "target"))
    quotient = (
        pl.when(pl.col("kpi_id") == "power_factor")
        .then(half_up(numerator / denominator, 2))
        .otherwise(numerator * pl.when(pl.col("unit") == "%").then(100).otherwise(1) / denominator)
    )
    rows = (
        every.join(counts, on=["kpi_id", "scope"], how="left")
        .with_columns(
            pl.when(denominator > 0).then(quotient).alias("value"), pl.col("coverage").fill_null(0).clip(0, 1)
        )
        .with_columns(
            pl.when(value.is_null() | target.is_null())
            .then(pl.lit(NO_DATA))
            .when(value >= target)
            .then(pl.lit(MET))
            .otherwise(pl.lit(MISSED))
            .alias("status")
        )
    )
    return KPI.conform(rows, period=period).sort(KPI.key)


def _definitions(definitions: Sequence[KpiDefinition], settings: MeteringSettings) -> pl.DataFrame:
    targets = {kpi_id: target.target for kpi_id, target in settings.kpi.items()}
    return pl.DataFrame(
        [(d.kpi_id, d.name_zh, d.name_en, d.unit, targets.get(d.kpi_id)) for d in definitions],
        schema={
            "kpi_id": pl.String,
            "name_zh": pl.String,
            "name_en": pl.String,
            "unit": pl.String,
            "target": pl.Float64,
        },
        orient="row",
    )
