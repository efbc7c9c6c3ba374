"""Customer lists: who the rules propose, who was approved, and the history of both (a type-2 dimension).

Here: what a rule profile may name, proposals, decisions, and memberships from when to when. Not here: the profiles
(settings, `[lists]`), where decisions are kept (`sinks`), the command (`orchestration.cli.lists`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl

from metering.errors import UserError
from metering.settings import ListProfile, ListSettings
from metering.tables.lists import ADD, APPROVED, CUSTOMER_LISTS, PROPOSED, REMOVE
from metering.tables.schema import Column, Table
from metering.tables.warehouse import CUSTOMERS
from metering.text import filled

MONTHS = 12
BY_HAND = "by_hand"
_NAMED = re.compile(r"{(\w+)}")

CANDIDATES = Table(
    "candidates",
    "What a rule profile may name: the customer's row of the registry, and its use up to the day.",
    ("customer_no",),
    (
        *(column for column in CUSTOMERS.columns if not column.name.startswith("valid_")),
        Column("energy_12m_kwh", pl.Float64, "Energy drawn in the last 12 months, of the days that are known", "kWh"),
        Column("known_days_12m", pl.Int32, "Days of the last 12 months with a known energy", nullable=False),
        Column("energy_rank", pl.Int32, "Place by energy_12m_kwh, from 1; null without energy"),
        Column(
            "zero_months", pl.Int32, "Months in a row up to the day without any energy, known as such", nullable=False
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    customer_no: str
    rule_profile: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """From `valid_from` on, a local day, these are the members of a list, and nobody else. `by`: a role or office."""

    list: str
    valid_from: date
    by: str
    at: datetime
    why: str
    members: tuple[Member, ...]


def candidates(energy: pl.DataFrame, customers: pl.DataFrame, as_of: date, settings: ListSettings) -> pl.DataFrame:
    """CANDIDATES: each of `customers` (one row each) with its use in the 12 months that end with the local day `as_of`.

    `energy`: customer_no, date, energy_kwh (null: not known), a row a day; other days are left out. A month reaches
    from a day to the day before the same day of the next.
    """
    ends = _month_ends(as_of)
    n = pl.sum_horizontal((pl.col("date") <= end).cast(pl.Int32) for end in ends[1:])
    months = (
        energy.filter(pl.col("date") > ends[-1], pl.col("date") <= as_of, pl.col("energy_kwh").is_not_null())
        .group_by("customer_no", n.alias("n"))
        .agg(pl.col("energy_kwh").sum(), pl.len().cast(pl.Int32).alias("known"))
    )
    long = pl.DataFrame(
        {"n": range(MONTHS), "days": [(a - b).days for a, b in pairwise(ends)]},
        schema={"n": pl.Int32, "days": pl.Int32},
    )
    zero = (pl.col("energy_kwh") == 0) & (pl.col("known") >= settings.known_share * pl.col("days"))
    grid = customers.select("customer_no").join(long, how="cross")
    of_month = grid.join(months, on=["customer_no", "n"], how="left").sort("customer_no", "n")
    use = of_month.group_by("customer_no").agg(
        pl.when(pl.col("known").count() > 0).then(pl.col("energy_kwh").sum()).alias("energy_12m_kwh"),
        pl.col("known").sum().alias("known_days_12m"),
        zero.fill_null(False).cast(pl.Int32).cum_prod().sum().cast(pl.Int32).alias("zero_months"),
    )
    used = pl.col("energy_12m_kwh")
    ranked = use.sort("customer_no").with_columns(
        pl.when(used > 0).then(used.rank("ordinal", descending=True)).alias("energy_rank")
    )
    return CANDIDATES.conform(customers.join(ranked, on="customer_no", how="left")).sort("customer_no")


def _month_ends(as_of: date) -> list[date]:
    """`as_of`, and the last days of the 12 months before the one that it ends."""
    after = pl.Series([as_of + timedelta(days=1)]).to_frame("d")
    starts = after.select(pl.col("d").dt.offset_by(f"-{n}mo").alias(str(n)) for n in range(MONTHS + 1)).row(0)
    return [start - timedelta(days=1) for start in starts]


def proposed(known: pl.DataFrame, settings: ListSettings) -> pl.DataFrame:
    """Who the profiles in force put on which list: list, customer_no, rule_profile, reason. `known`: CANDIDATES."""
    shown = known.with_columns(_shown(column) for column in CANDIDATES.columns if column.dtype == pl.Float64)
    frames = [_of_profile(known, shown, name, settings.profile[name]) for name in settings.in_force]
    return pl.concat([_NOBODY, *frames]).sort("list", "customer_no")


_NOBODY = pl.DataFrame(schema=dict.fromkeys(("list", "customer_no", "rule_profile", "reason"), pl.String))


def _shown(column: Column) -> pl.Expr:
    return pl.col(column.name).round(2).cast(pl.String).str.strip_suffix(".0")


def _of_profile(known: pl.DataFrame, shown: pl.DataFrame, name: str, profile: ListProfile) -> pl.DataFrame:
    grounds = []
    for n, condition in enumerate(profile.conditions):
        values = (pl.col(c).cast(pl.String).fill_null("-") for c in _NAMED.findall(condition.reason))
        said = shown.select(filled(_NAMED.sub("{}", condition.reason), *values).alias("said"))
        holds = known.select(pl.sql_expr(condition.when).fill_null(False).alias("holds"))["holds"]
        grounds.append(said["said"].set(~holds, None).alias(str(n)))
    reasons = pl.DataFrame([known["customer_no"], *grounds]).select(
        pl.lit(profile.list).alias("list"),
        "customer_no",
        pl.lit(name).alias("rule_profile"),
        pl.concat_str(pl.exclude("customer_no"), separator="; ", ignore_nulls=True).alias("reason"),
    )
    return reasons.filter(pl.any_horizontal(series.is_not_null() for series in grounds))


def problems(settings: ListSettings) -> Iterator[str]:
    """What is wrong with the profiles, one line each."""
    if not 0 < settings.known_share <= 1:
        yield "known_share must be above 0 and at most 1"
    if unknown := [name for name in settings.in_force if name not in settings.profile]:
        yield f"in_force: there is no profile '{unknown[0]}'; there are {', '.join(settings.profile)}"
        return
    lists = [settings.profile[name].list for name in settings.in_force]
    if twice := [name for name in lists if lists.count(name) > 1]:
        yield f"in_force: several profiles are of the list '{twice[0]}'; one of them can be in force"
    for name, profile in settings.profile.items():
        if not profile.conditions:
            yield f"profile.{name}: conditions must name at least one ground"
        for condition in profile.conditions:
            if absent := sorted({*_NAMED.findall(condition.reason)} - {*CANDIDATES.names}):
                yield f"profile.{name}: reason: there is no {absent[0]}; there are {', '.join(CANDIDATES.names)}"
            if problem := _wrong(condition.when):
                yield f"profile.{name}: when: {problem}"


def _wrong(text: str) -> str:
    try:
        kind = CANDIDATES.empty().select(pl.sql_expr(text).alias("holds")).schema["holds"]
    except (pl.exceptions.PolarsError, ValueError) as error:
        return f"'{text}' cannot be used: {str(error).splitlines()[0]}"
    return "" if kind == pl.Boolean else f"'{text}' is neither true nor false"


# --- decisions and history --------------------------------------------------------------------------------------------


def written(decision: Decision) -> bytes:
    """A decision as it is kept, with the digest that signs it."""
    told = asdict(decision) | {"valid_from": decision.valid_from.isoformat(), "at": decision.at.isoformat()}
    return (json.dumps({"decision": told, "sha256": _digest(told)}, ensure_ascii=False, indent=1) + "\n").encode()


def read(content: bytes, name: str) -> Decision:
    """The decision of a kept file. Raises UserError when it was changed since it was signed, or is none."""
    try:
        told = json.loads(content)
        decision = told["decision"]
        if told["sha256"] != _digest(decision):
            raise UserError(f"{name}: it was changed since it was signed; put it back, or approve anew without it")
        members = tuple(Member(**member) for member in decision["members"])
        times = {"valid_from": date.fromisoformat(decision["valid_from"]), "at": datetime.fromisoformat(decision["at"])}
        return Decision(**{**decision, **times, "members": members})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: it is no decision on a list ({error}); approve anew without it") from error


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def memberships(decisions: Sequence[Decision]) -> pl.DataFrame:
    """Approved memberships, as CUSTOMER_LISTS' columns: a row for each customer, list and time without a break.

    `decisions` in the order in which they were made: a later one counts from its `valid_from` on, whatever was decided
    before for days after that. Being approved again by the same office for the same profile goes on the same row.
    """
    rows = [row for name in dict.fromkeys(d.list for d in decisions) for row in _of_list(decisions, name)]
    schema = {name: CUSTOMER_LISTS.schema[name] for name in _MEMBERSHIP}
    return pl.DataFrame(rows, schema=schema, orient="row")


_MEMBERSHIP = (
    "list", "customer_no", "valid_from", "valid_to", "rule_profile", "reason", "approver", "approved_at",
)  # fmt: skip


def _of_list(decisions: Iterable[Decision], name: str) -> Iterator[tuple[object, ...]]:
    standing: list[Decision] = []
    for decision in decisions:
        if decision.list == name:
            standing = [d for d in standing if d.valid_from < decision.valid_from]
            standing.append(decision)
    open_rows: dict[str, tuple[Member, Decision]] = {}
    for decision in standing:
        members = {member.customer_no: member for member in decision.members}
        for customer, (member, since) in list(open_rows.items()):
            now = members.get(customer)
            if now is None or (now.rule_profile, decision.by) != (member.rule_profile, since.by):
                yield _row(name, member, since, decision.valid_from - timedelta(days=1))
                del open_rows[customer]
        for customer, member in members.items():
            open_rows.setdefault(customer, (member, decision))
    for member, since in open_rows.values():
        yield _row(name, member, since, None)


def _row(name: str, member: Member, since: Decision, last: date | None) -> tuple[object, ...]:
    return (
        name, member.customer_no, since.valid_from, last, member.rule_profile, member.reason, since.by, since.at,
    )  # fmt: skip


def customer_lists(proposal: pl.DataFrame, approved: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """CUSTOMER_LISTS: `approved` memberships, and what `proposal` would change of those that hold on `as_of`."""
    holds = (pl.col("valid_from") <= as_of) & (pl.col("valid_to").is_null() | (pl.col("valid_to") >= as_of))
    key = ("list", "customer_no")
    supported = approved.join(proposal.select(*key, supported=True), on=key, how="left", maintain_order="left")
    gone = holds & pl.col("valid_to").is_null() & pl.col("supported").is_null()
    kept = supported.with_columns(pl.when(gone).then(pl.lit(REMOVE)).alias("change"), pl.lit(APPROVED).alias("state"))
    new = proposal.join(approved.filter(holds), on=key, how="anti").with_columns(
        pl.lit(as_of).alias("valid_from"), pl.lit(ADD).alias("change"), pl.lit(PROPOSED).alias("state")
    )
    rows = [CUSTOMER_LISTS.conform(frame, as_of=as_of) for frame in (kept, new)]
    return pl.concat(rows).sort(CUSTOMER_LISTS.key)
