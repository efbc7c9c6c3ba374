"""Builders of small fleets, windows and curves, and a DuckDB connection for independent oracles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pytest

from metering.calendar import quarter_hours
from metering.registry.meter_versions import METER_VERSIONS, meter_versions
from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS
from metering.tables.schema import TIMESTAMP
from metering.tables.warehouse import CUSTOMERS, DAILY_CURVE, METER_DAILY, METERS
from metering.vee.meter_curve import Beside, meter_curve

Builder = Callable[..., pl.DataFrame]

_CUSTOMER = {
    "name": "Rolling mill",
    "segment": "large",
    "voltage_level_kv": 10.0,
    "contract_capacity_kva": 1000.0,
    "pf_standard": 0.9,
    "tariff": "large_industry",
    "dual_supply": False,
    "controllable": False,
}
_METER = {
    "role": "main",
    "sampling": "mean",
    "wiring": "3p4w",
    "nominal_v": 220.0,
    "pt_ratio": 100.0,
    "ct_ratio": 20.0,
    "rated_a": 5.0,
    "max_a": 6.0,
    "register_digits": 6,
    "interval_s": 900,
    "source_no": 1,
    "valid_from": date(2000, 1, 1),
    "valid_to": None,
}


@pytest.fixture(scope="session")
def make_customers() -> Builder:
    """Customers from {customer_no: {column: value}}; what is not given is that of a plain 10 kV customer."""

    def make(overrides: dict[str, dict[str, Any]]) -> pl.DataFrame:
        rows = [{**_CUSTOMER, "customer_no": no, **given} for no, given in overrides.items()]
        schema = {name: dtype for name, dtype in CUSTOMERS.schema.items() if rows and name in rows[0]}
        return CUSTOMERS.conform(pl.DataFrame(rows, schema=schema) if rows else CUSTOMERS.empty())

    return make


@pytest.fixture(scope="session")
def make_meter_versions(metering_settings: MeteringSettings) -> Builder:
    """Facts of meters from {meter_id: {column: value}}; customer_no has to be given."""

    def make(customers: pl.DataFrame, meters: dict[str, dict[str, Any]], settings: Any = None) -> pl.DataFrame:
        rows = [{**_METER, "meter_id": meter, **given} for meter, given in meters.items()]
        frame = pl.DataFrame(rows, schema=METERS.schema) if rows else METERS.empty()
        return meter_versions(customers, frame, settings or metering_settings)

    return make


@pytest.fixture(scope="session")
def make_windows() -> Builder:
    """Complete windows of one meter on a local day from mean powers [kW], one a quarter-hour; None: no window."""

    def make(
        meter_id: str,
        customer_no: str,
        day: date,
        p_kw: Sequence[float | None],
        tz: str = "Asia/Shanghai",
        **columns: Any,
    ) -> pl.DataFrame:
        quarters = quarter_hours(day, tz)
        assert quarters.height == len(p_kw)
        rows = quarters.with_columns(pl.Series("p_mean_kw", p_kw, dtype=pl.Float64)).filter(
            pl.col("p_mean_kw").is_not_null()
        )
        given = {
            "n": 1,
            "n_expected": 1,
            "revision": 0,
            "energy_basis": "power",
            "covered_min": 15.0,
            "u_max_v": 220.0,
            **columns,
        }
        filled = rows.with_columns((pl.col("p_mean_kw") / 4).alias("energy_kwh"))
        return BATCH_WINDOWS.conform(filled, meter_id=meter_id, customer_no=customer_no, date=day, **given)

    return make


@pytest.fixture(scope="session")
def days_of() -> Builder:
    """METER_DAILY of windows that are all known: plain sums."""

    def make(windows: pl.DataFrame, tz: str = "Asia/Shanghai") -> pl.DataFrame:
        at = (pl.col("window_end") - pl.duration(microseconds=1)).dt.convert_time_zone(tz).dt.date()
        sums = windows.group_by("meter_id", "customer_no", at.alias("date"), maintain_order=True).agg(
            pl.col("energy_kwh").sum(),
            pl.lit(0.0).alias("export_kwh"),
            *(
                pl.when(values.count() > 0).then(values.sum()).alias(name)
                for name in ("import_kvarh", "export_kvarh")
                for values in [pl.coalesce(name, f"q_{name}")]
            ),
            pl.len().alias("points"),
            pl.len().alias("known_points"),
        )
        return METER_DAILY.conform(sums, repeated_points=1, zero_days=0)

    return make


@pytest.fixture(scope="session")
def make_meter_curve(metering_settings: MeteringSettings) -> Builder:
    """METER_CURVE of a day that stands alone, from its windows."""

    def make(windows: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: Any = None) -> pl.DataFrame:
        curve, _ = meter_curve(windows, meter_versions, day, settings or metering_settings, Beside.nothing())
        return curve

    return make


@pytest.fixture(scope="session")
def make_curve() -> Builder:
    """Daily curve of one customer from mean powers [kW], one for each quarter-hour; None: missing."""

    def make(customer_no: str, day: date, p_kw: Sequence[float | None], tz: str = "Asia/Shanghai") -> pl.DataFrame:
        rows = quarter_hours(day, tz).with_columns(pl.Series("p_kw", p_kw, dtype=pl.Float64))
        missing = pl.col("p_kw").is_null()
        return DAILY_CURVE.conform(
            rows.with_columns(
                (pl.col("p_kw") / 4).alias("energy_kwh"),
                pl.when(missing).then(pl.lit("missing")).otherwise(pl.lit("validated")).alias("status"),
                pl.when(missing).then(pl.lit("no power")).alias("reason"),
            ),
            customer_no=customer_no,
            date=day,
        )

    return make


@pytest.fixture
def sql() -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Runs SQL over frames given by name, in a DuckDB that shares no code with the core."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")

    def run(query: str, **frames: pl.DataFrame) -> list[tuple[Any, ...]]:
        for name, frame in frames.items():
            connection.register(name, frame.to_arrow())
        return connection.execute(query).fetchall()

    yield run
    connection.close()


@pytest.fixture(scope="session")
def large_registry() -> pl.DataFrame:
    """Versions of 300,000 meters of twelve digits; every tenth was exchanged at 12:00, every hundredth at 06:00 too."""
    meters, start = 300_000, datetime(2026, 1, 1, tzinfo=UTC)
    ids = [f"{330_100_000_000 + i * 7_919:012d}" for i in range(meters)]
    known = pl.DataFrame({"meter_id": ids, "valid_from": [start] * meters}).with_row_index("i")
    cuts = [(pl.col("i") % 10 == 0, 12), (pl.col("i") % 100 == 0, 6)]
    later = [known.filter(which).with_columns(valid_from=start + timedelta(hours=hours)) for which, hours in cuts]
    versions = pl.concat([known, *later]).sort("meter_id", "valid_from").drop("i")
    ends = pl.col("valid_from").shift(-1).over("meter_id")
    versions = versions.with_columns(pl.col("valid_from").cast(TIMESTAMP), ends.cast(TIMESTAMP).alias("valid_to"))
    versions = versions.with_columns(stamps_from="valid_from", stamps_to="valid_to")
    return pl.concat([pl.DataFrame(schema=METER_VERSIONS), versions], how="diagonal")
