"""Plans of load control: which target holds for which customer when.

Here: revisions of plans, targets of customers and feeders, customers' answers. Not here: what a valid plan is
(`metering.tables.records`), baselines (`baseline`), what is made of a target (`execution`).

A revision holds for windows that end after it was issued, until the next one was; a withdrawn one ends the plan. Of a
plan's time the whole quarter-hours count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from metering.readings.slots import WINDOW_US
from metering.tables.control import KINDS, LEVELS
from metering.tables.records import EVERY, PLAN_ANSWERS
from metering.tables.schema import TIMESTAMP, no_rows

TARGETS = pl.Schema(
    {
        "plan_id": pl.String(),
        "customer_no": pl.String(),
        "kind": pl.String(),
        "level": pl.String(),
        "baseline": pl.String(),
        "plan_revision": pl.Int32(),
        "superseded": pl.Int32(),
        "cap_kw": pl.Float64(),
        "reduction_kw": pl.Float64(),
        "protected_kw": pl.Float64(),
        "first_us": pl.Int64(),
        "last_us": pl.Int64(),
    }
)
"""What is asked of a customer: from the window that ends at `first_us` to that at `last_us`. `superseded`: revisions
of the plan that were issued before. No customer has two targets of one plan in one window."""
ANSWERS = pl.Schema({"plan_id": pl.String(), "customer_no": pl.String(), "at": TIMESTAMP, "answer": pl.String()})
VOLUNTARY = "demand_response"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AMOUNTS = ("cap_kw", "reduction_kw", "protected_kw")
_SAID = ("plan_id", "kind", "level", "baseline", "superseded", "first_us", "last_us")


def answers(events: pl.DataFrame) -> pl.DataFrame:
    """ANSWERS among service events: accepted, declined or opted_out."""
    theirs = events.filter(pl.col("type").is_in(PLAN_ANSWERS))
    return theirs.select("plan_id", "customer_no", "at", answer=pl.col("type").str.strip_prefix("plan.")).cast(ANSWERS)


def targets(
    plans: pl.DataFrame, answered: pl.DataFrame, meter_versions: pl.DataFrame, default_baseline: str
) -> pl.DataFrame:
    """TARGETS of customers that the registry knows. `plans`: `load_control_plans`, each revision once; `answered`:
    ANSWERS.

    A figure is the customer's own, else its share of its feeder's, by contract capacity, else that for each. A customer
    that is named itself is not asked as one of a feeder, too. One that declined, or opted out of, demand response is
    not asked from then on until it accepts; orderly usage is not a matter of choice.
    """
    held = _holding(plans).filter(pl.col("state") == "active", pl.col("first_us") <= pl.col("last_us"))
    if held.is_empty():
        return no_rows(TARGETS)
    held = held.with_row_index("row")
    found = _with_figures(_members(held, _accounts(meter_versions)), held)
    voluntary = pl.col("kind") == VOLUNTARY
    parts = [found.filter(~voluntary), _without_refused(found.filter(voluntary), answered)]
    rows = pl.concat(parts).with_columns(pl.col("baseline").fill_null(default_baseline))
    return rows.select(TARGETS.names()).cast(TARGETS).sort("plan_id", "customer_no", "first_us")


def _holding(plans: pl.DataFrame) -> pl.DataFrame:
    """Plans with `first_us` and `last_us`, the ends of the windows that they hold for, and `superseded`."""
    rows = plans.sort("plan_id", "issued_at", "revision").with_columns(
        pl.int_range(pl.len(), dtype=pl.Int32).over("plan_id").alias("superseded"),
        pl.col("issued_at").shift(-1).over("plan_id").alias("until"),
    )
    issued, until, begin, end = (pl.col(n).to_physical() for n in ("issued_at", "until", "from_at", "to_at"))
    return rows.with_columns(
        pl.max_horizontal(_up(begin) + WINDOW_US, _up(issued + 1)).alias("first_us"),
        (pl.min_horizontal(end // WINDOW_US, until // WINDOW_US) * WINDOW_US).alias("last_us"),
    )


def _up(us: pl.Expr) -> pl.Expr:
    return -(-us // WINDOW_US) * WINDOW_US


def _accounts(meter_versions: pl.DataFrame) -> pl.DataFrame:
    return meter_versions.filter(pl.col("role") == "main").select(
        "customer_no", "feeder", "contract_capacity_kva", registered_kw="protected_kw", valid_us=_us("valid_from"),
        over_us=_us("valid_to").fill_null(2**62),
    )  # fmt: skip


def _us(name: str) -> pl.Expr:
    return pl.col(name).to_physical()


def _members(held: pl.DataFrame, accounts: pl.DataFrame) -> pl.DataFrame:
    """row, customer_no, `feeder` that it is asked by (null: by its own number), capacity, registered_kw."""
    in_figures = [pl.col(name).list.eval(pl.element().struct.field("name")) for name in _AMOUNTS]
    nobody = pl.lit([], pl.List(pl.String()))
    of_figures = pl.concat_list(*(names.fill_null(nobody) for names in in_figures))
    by_figures = pl.col("customers").is_null() & pl.col("feeders").is_null()
    spans = held.select(
        "row",
        "first_us",
        "last_us",
        pl.when(by_figures).then(of_figures).otherwise(pl.col("customers").fill_null(nobody)).alias("customer_no"),
        pl.col("feeders").fill_null(nobody).alias("feeder"),
    )
    there = (pl.col("valid_us") < pl.col("last_us")) & (pl.col("over_us") > pl.col("first_us") - WINDOW_US)

    def listed(name: str) -> pl.DataFrame:
        rows = spans.select("row", "first_us", "last_us", name).explode(name).drop_nulls(name).unique()
        last = rows.join(accounts, on=name).filter(there).sort("valid_us", "feeder")
        return last.unique(("row", "customer_no"), keep="last", maintain_order=True)

    own = listed("customer_no").with_columns(feeder=pl.lit(None, pl.String))
    fed = listed("feeder").join(own, on=("row", "customer_no"), how="anti")
    names = ("row", "customer_no", "feeder", "contract_capacity_kva", "registered_kw")
    return pl.concat([own.select(names), fed.select(names)])


def _with_figures(members: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Members with what their plan says, and their figures; those that it asks nothing of are left out."""
    share = pl.col("contract_capacity_kva") / pl.col("contract_capacity_kva").sum().over("row", "feeder")
    rows = members.with_columns(share.alias("share"), every=pl.lit(EVERY))
    for name in _AMOUNTS:
        figures = held.select("row", name).explode(name).drop_nulls(name).unnest(name)
        for key, figure in (("customer_no", "own"), ("feeder", "fed"), ("every", "each")):
            of_key = figures.select("row", pl.col("name").alias(key), pl.col("value").alias(figure))
            rows = rows.join(of_key.unique(("row", key)), on=["row", key], how="left", maintain_order="left")
        rows = rows.with_columns(pl.coalesce("own", pl.col("fed") * pl.col("share"), "each").alias(name))
        rows = rows.drop("own", "fed", "each")
    asked = rows.filter(pl.col("cap_kw").is_not_null() | pl.col("reduction_kw").is_not_null())
    said = held.select("row", *_SAID, pl.col("revision").alias("plan_revision"))
    return asked.join(said, on="row").with_columns(pl.coalesce("protected_kw", "registered_kw").alias("protected_kw"))


def _without_refused(rows: pl.DataFrame, answered: pl.DataFrame) -> pl.DataFrame:
    """Targets cut to the windows that end before a refusal, or after the customer accepted again."""
    refused = answered.join(rows, on=("plan_id", "customer_no"), how="semi")
    if refused.is_empty():
        return rows
    said: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for plan_id, customer_no, at, answer in refused.sort("at").select(ANSWERS.names()).iter_rows():
        us = (at - _EPOCH) // timedelta(microseconds=1)
        said.setdefault((plan_id, customer_no), []).append((us, answer == "accepted"))
    parts = []
    for row in rows.iter_rows(named=True):
        for first, last in _spans(said.get((row["plan_id"], row["customer_no"]), ()), row["first_us"], row["last_us"]):
            parts.append({**row, "first_us": first, "last_us": last})
    return pl.DataFrame(parts, schema=rows.schema)


def _spans(said: Iterable[tuple[int, bool]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Windows from `first` to `last` that end while the customer takes part: it does until it refuses."""
    since: int | None = first
    for us, accepted in said:
        window = us // WINDOW_US * WINDOW_US
        if accepted and since is None:
            since = max(first, window + WINDOW_US)
        elif not accepted and since is not None:
            if since <= min(window, last):
                yield since, min(window, last)
            since = None
    if since is not None and since <= last:
        yield since, last


def precedence(plans: pl.DataFrame, settle_first: Sequence[str]) -> dict[str, int]:
    """Which plan a reduction counts for first: plan_id to its place. `plans`: `load_control_plans`, each revision once;
    `settle_first` as in the settings. Of plans that are alike the one of the lower plan_id comes first.
    """
    of_plan = (
        plans.sort("revision", "issued_at")
        .group_by("plan_id")
        .agg(
            pl.col("kind").last().replace_strict(KINDS, range(len(KINDS)), default=len(KINDS), return_dtype=pl.Int64),
            pl.col("level")
            .last()
            .replace_strict(LEVELS, range(len(LEVELS)), default=len(LEVELS), return_dtype=pl.Int64),
            pl.col("issued_at").min().alias("issued"),
        )
    )
    return {name: place for place, name in enumerate(of_plan.sort(*settle_first, "plan_id")["plan_id"])}


def holding(found: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """`windows` (customer_no, window_end, and more) with the target of each plan (TARGETS) that holds for them."""
    at = pl.col("window_end").to_physical()
    joined = windows.join(found, on="customer_no", maintain_order="left")
    return joined.filter(at >= pl.col("first_us"), at <= pl.col("last_us"))
