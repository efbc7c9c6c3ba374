"""Contacts: who is told of which events, through which channels, when not, and who is told next.

Here: what a valid registry/contacts.csv is, and whom an event concerns. Not here: when they are told (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from metering.registry.cells import Check, refuse, typed
from metering.settings.kpis import GROUPS
from metering.tables.notices import CLASSES, CONTACTS, EVERYBODY, NOBODY, SEVERITIES
from metering.text import filled

CONTACTS_FILE = "contacts.csv"

_QUIET = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
_URL = r"^([A-Za-z][A-Za-z0-9+.-]*://\S+|\$\{\w+\}\S*)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """What contacts and texts need of a customer."""

    customer_no: str
    name: str
    segment: str = ""
    feeder: str = ""
    voltage_level_kv: float | None = None
    manager: str = ""

    def group(self, kind: str) -> str:
        """The value that a scope of that kind names."""
        if kind == "voltage_level_kv":
            return "" if self.voltage_level_kv is None else f"{self.voltage_level_kv:g}"
        return str(getattr(self, kind))


Directory = Mapping[str, Customer]
"""Customers by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One row of contacts.csv. `line` is where it stands in the file."""

    contact: str
    role: str
    channels: tuple[str, ...]
    scope: str = EVERYBODY
    classes: tuple[str, ...] = (EVERYBODY,)
    severity: str = "info"
    quiet: tuple[time, time] | None = None
    quiet_passes: str = "critical"
    language: str = "zh"
    level: int = 0
    after_min: float = 0.0
    line: int = 0

    def wants(self, classes: Iterable[str], severity: str) -> str | None:
        """The class under which an event of these classes and this severity is told; None: it is not."""
        if rank(severity) < rank(self.severity):
            return None
        return next((name for name in classes if EVERYBODY in self.classes or name in self.classes), None)

    def concerns(self, customer: Customer) -> bool:
        """Whether the customer is in the contact's scope."""
        kind, _, value = self.scope.partition(":")
        if kind in GROUPS and value:
            return customer.group(kind) == value
        return self.scope in (EVERYBODY, customer.customer_no)

    def concerns_feeder(self, feeder: str) -> bool:
        """Whether all of a feeder is in the contact's scope."""
        return self.scope in (EVERYBODY, f"feeder:{feeder}")

    def not_before(self, at: datetime, severity: str, zone: str) -> datetime:
        """When something of that severity may be told that is due `at`: then, or at the end of quiet hours."""
        if self.quiet is None or rank(severity) >= rank(self.quiet_passes):
            return at
        begin, end = self.quiet
        local = at.astimezone(ZoneInfo(zone))
        now = local.time().replace(fold=0)
        within = begin <= now < end if begin < end else (now >= begin or now < end)
        if not within:
            return at
        day = local.date() + timedelta(days=now >= end)
        return max(at, datetime.combine(day, end, ZoneInfo(zone)).astimezone(UTC))


def rank(severity: str) -> int:
    """Severities in order; NOBODY above all."""
    return len(SEVERITIES) if severity == NOBODY else SEVERITIES.index(severity)


def parse_contacts(
    content: bytes | str, customers: pl.DataFrame, classes: Iterable[str] = CLASSES
) -> tuple[Contact, ...]:
    """The rows of contacts.csv, in order of the file. `customers`: those that scopes may name; `classes` likewise.

    Raises RegistryError for the first line that is wrong.
    """
    rows = typed(CONTACTS_FILE, CONTACTS, content)
    refuse(CONTACTS_FILE, rows, _checks(customers, sorted(set(classes))))
    return tuple(_contact(row) for row in rows.iter_rows(named=True))


def directory(customers: pl.DataFrame) -> dict[str, Customer]:
    """One row a customer (as `Registry.customers_on` gives them) as a directory."""
    columns = ("customer_no", "name", "segment", "feeder", "voltage_level_kv", "manager")
    return {
        no: Customer(
            customer_no=no, name=name, segment=segment or "", feeder=feeder or "", voltage_level_kv=kv,
            manager=manager or "",
        )
        for no, name, segment, feeder, kv, manager in customers.select(columns).iter_rows()
    }  # fmt: skip


def _contact(row: Mapping[str, object]) -> Contact:
    quiet = row["quiet"]
    hours = [time.fromisoformat(part) for part in str(quiet).split("-")] if quiet else None
    return Contact(
        contact=str(row["contact"]), role=str(row["role"]), channels=tuple(str(row["channels"]).split()),
        scope=str(row["scope"]), classes=tuple(str(row["event_class"]).split()), severity=str(row["severity"]),
        quiet=(hours[0], hours[1]) if hours else None, quiet_passes=str(row["quiet_passes"]),
        language=str(row["language"]), level=int(str(row["level"])), after_min=float(str(row["after_min"] or 0)),
        line=int(str(row["line"])),
    )  # fmt: skip


def _checks(customers: pl.DataFrame, classes: list[str]) -> list[Check]:
    scope, quiet, level, after = (pl.col(name) for name in ("scope", "quiet", "level", "after_min"))
    numbers = customers["customer_no"].unique().to_list()
    words = pl.col("event_class").str.split(" ")
    unknown = words.list.eval(pl.element().filter(~pl.element().is_in([*classes, EVERYBODY, ""]))).list.first()
    urls = pl.col("channels").str.replace_all(r"\s+", " ").str.split(" ")
    bad_urls = urls.list.eval((~pl.element().str.contains(_URL)).cast(pl.Int8))
    grouped = scope.str.contains(f"^({'|'.join(GROUPS)}):")
    groups = [f"{kind}:{value}" for kind in GROUPS for value in _values(customers, kind)]
    return [
        Check(
            "scope",
            grouped & ~scope.is_in(groups),
            filled("no customer in {} is of '{}'", pl.lit("customers.csv"), scope),
        ),
        Check(
            "scope",
            ~grouped & (scope != EVERYBODY) & ~scope.is_in(numbers),
            filled(
                "'{}' is no customer in customers.csv; give *, a customer_no, or one of {}",
                scope,
                pl.lit(", ".join(f"{kind}:..." for kind in GROUPS)),
            ),
        ),
        Check(
            "event_class",
            unknown.is_not_null(),
            filled("'{}' is no class of messages; there are {}, and * for all", unknown, pl.lit(", ".join(classes))),
        ),
        Check(
            "quiet",
            ~quiet.str.contains(_QUIET) | (quiet.str.slice(0, 5) == quiet.str.slice(6, 5)),
            filled("'{}' is no span of local hours such as 22:00-07:00", quiet),
        ),
        Check(
            "channels",
            bad_urls.list.max() == 1,
            # not the cell: it may hold a password
            filled("URL {} is no Apprise URL such as mailto://...", bad_urls.list.arg_max() + 1),
        ),
        Check(
            "after_min",
            (level > 0) & after.is_null(),
            pl.lit("is empty: say after how many minutes this level is told"),
        ),
        Check(
            "after_min", (level == 0) & after.is_not_null(), pl.lit("is for levels from 1 up: level 0 is told at once")
        ),
    ]


def _values(customers: pl.DataFrame, kind: str) -> list[str]:
    values = customers[kind].drop_nulls().unique().to_list()
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
