"""The registry of customers and meters: parsed whole, or refused whole with file, line and column.

Here: what a valid registry is (`parse_registry`). Not here: what meters' readings are judged by (`meter_versions`),
reading files, and watching them for change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from metering.calendar import instant
from metering.registry.cells import Check, refuse, typed
from metering.registry.meter_versions import DAY_S, METER_VERSIONS, meter_versions, validity
from metering.settings import MeteringSettings
from metering.settings.kpis import GROUPS
from metering.tables.charges import BASES
from metering.tables.warehouse import CUSTOMERS, METERS, METERS_IN_FILE
from metering.text import filled

__all__ = ["CUSTOMERS_FILE", "METERS_FILE", "METER_VERSIONS", "Registry", "meter_versions", "parse_registry"]

CUSTOMERS_FILE = "customers.csv"
METERS_FILE = "meters.csv"

_MOMENTS = ("valid_from_at", "valid_to_at")

PF_STANDARDS = (0.90, 0.85, 0.80)
METER_ID_LENGTH = 64
WHOLE_SCOPE = "*"


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """A valid registry. `customers` has CUSTOMERS' schema, `meters` METERS', `meter_versions` METER_VERSIONS.

    A customer has a row for each of its periods in `customers`: ask `customers_on` for one row each.
    """

    customers: pl.DataFrame
    meters: pl.DataFrame
    meter_versions: pl.DataFrame

    def customers_on(self, day: date, since: date | None = None) -> pl.DataFrame:
        """One row for each customer, by customer_no: the one that is valid on a local `day`.

        With `since` customers count too that were valid at some time from then on; the last of their rows is theirs.
        """
        begun = pl.col("valid_from").is_null() | (pl.col("valid_from") <= day)
        not_over = pl.col("valid_to").is_null() | (pl.col("valid_to") >= (since or day))
        rows = self.customers.filter(begun & not_over).sort("customer_no", "valid_from", nulls_last=False)
        return rows.unique("customer_no", keep="last", maintain_order=True)


def parse_registry(customers_csv: bytes | str, meters_csv: bytes | str, settings: MeteringSettings) -> Registry:
    """A registry from the text of its two files (UTF-8, header row; further columns are ignored).

    Raises RegistryError for the first line that is wrong: nothing of a registry with an error in it is used.
    """
    customers = typed(CUSTOMERS_FILE, CUSTOMERS, customers_csv)
    refuse(CUSTOMERS_FILE, customers, _whole_days())
    customers = _with_moments(customers, settings.timezone)
    refuse(CUSTOMERS_FILE, _with_overlaps(customers, "customer_no"), _customer_checks(settings))
    meters = _with_moments(typed(METERS_FILE, METERS_IN_FILE, meters_csv), settings.timezone)
    refuse(METERS_FILE, _with_overlaps(meters, "meter_id"), _meter_checks(customers["customer_no"]))
    judged = meter_versions(customers, meters, settings)
    refuse(METERS_FILE, meters, [_class_check(judged)])
    return Registry(customers.select(CUSTOMERS.names), meters.select(METERS.names), judged)


def _with_moments(meters: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Validity as instants: local times that a cell names, or whole local days."""
    named = meters.with_columns(instant(pl.col(name), zone).alias(name) for name in _MOMENTS)
    return named.with_columns(validity(zone))


# --- rules between columns and rows ----------------------------------------------------------------------------------


def _whole_days() -> list[Check]:
    said = "names a time of the day: the period of a customer's row is whole days"
    return [Check(name, pl.col(f"{name}_at").is_not_null(), pl.lit(said)) for name in ("valid_from", "valid_to")]


def _customer_checks(settings: MeteringSettings) -> list[Check]:
    tariffs = list(dict.fromkeys(tariff.name for tariff in settings.tariffs))
    number, standard, tariff = pl.col("customer_no"), pl.col("pf_standard"), pl.col("tariff")
    first, last, suspended = pl.col("valid_from"), pl.col("valid_to"), pl.col("suspended_kva")
    return [
        Check("customer_no", number == WHOLE_SCOPE, pl.lit("'*' stands for all customers; use another number")),
        Check(
            "customer_no",
            number.str.contains(f"^({'|'.join(GROUPS)}):"),
            filled("'{}' stands for a group of customers; use another number", number),
        ),
        Check(
            "customer_no",
            pl.col("overlaps") & pl.col("valid_from").is_null() & pl.col("valid_to").is_null(),
            filled("{} stands in the file twice, as on line {}", number, pl.col("before")),
        ),
        Check("valid_to", last < first, filled("{} is before valid_from {}", last, first)),
        Check(
            "valid_from",
            pl.col("overlaps"),
            filled("overlaps the validity of {} on line {}", number, pl.col("before")),
        ),
        Check("suspended_kva", suspended < 0, filled("{} is below 0", suspended)),
        Check("protected_kw", pl.col("protected_kw") < 0, filled("{} is below 0", pl.col("protected_kw"))),
        Check(
            "suspended_kva",
            suspended > pl.col("contract_capacity_kva"),
            filled("{} is more than the contract capacity, {}", suspended, pl.col("contract_capacity_kva")),
        ),
        Check(
            "basic_charge",
            (pl.col("basic_charge") == BASES[1]) & pl.col("contract_demand_kw").is_null(),
            pl.lit(f"{BASES[1]} needs a contract_demand_kw"),
        ),
        Check("pf_standard", ~standard.is_in(PF_STANDARDS), filled("{} is not 0.90, 0.85 or 0.80", standard)),
        Check(
            "tariff",
            ~tariff.is_in(tariffs),
            filled("'{}' is not in the settings, which name {}", tariff, pl.lit(", ".join(tariffs))),
        ),
    ]


def _meter_checks(customer_nos: pl.Series) -> list[Check]:
    meter, interval, digits = pl.col("meter_id"), pl.col("interval_s"), pl.col("register_digits")
    before, first, last = pl.col("before"), pl.col("valid_from"), pl.col("valid_to")
    begin, end = (pl.col(name) for name in _MOMENTS)
    return [
        Check("meter_id", meter.str.len_chars() > METER_ID_LENGTH, pl.lit(f"is longer than {METER_ID_LENGTH}")),
        Check(
            "customer_no",
            ~pl.col("customer_no").is_in(customer_nos.to_list()),
            filled("{} is not in {}", pl.col("customer_no"), pl.lit(CUSTOMERS_FILE)),
        ),
        Check("register_digits", digits < 1, filled("{} is not above 0", digits)),
        Check(
            "interval_s",
            DAY_S % interval != 0,
            filled("{} s does not divide a day", interval),
        ),
        Check("valid_to", end <= begin, filled("{} is before valid_from {}", last, first)),
        Check(
            "valid_from",
            pl.col("overlaps"),
            filled("overlaps the validity of {} on line {}", meter, before),
        ),
    ]


def _class_check(judged: pl.DataFrame) -> Check:
    bare = judged.filter(pl.col("u_lower_v").is_null())["meter_id"].to_list()
    return Check(
        "wiring",
        pl.col("meter_id").is_in(bare),
        filled("no class of [[voltage.classes]] covers {} at its customer's voltage level", pl.col("wiring")),
    )


def _with_overlaps(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """`overlaps` marks a row that starts before an earlier one of its key ends; `before` is that one's line."""
    begin = pl.col("valid_from_at").fill_null(datetime.min.replace(tzinfo=UTC))
    ends = pl.col("valid_to_at").fill_null(datetime.max.replace(tzinfo=UTC)).shift(1).cum_max().over(key)
    versions = (
        rows.filter(pl.col(key).is_duplicated())
        .with_columns(begin.alias("begin"))
        .sort(key, "begin", "line")
        .select(
            "line",
            pl.col("line").shift(1).over(key).alias("before"),
            (pl.col("begin") < ends).alias("overlaps"),
        )
    )
    return rows.join(versions, on="line", how="left", maintain_order="left")
