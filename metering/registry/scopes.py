"""Scopes that customers' figures are put together in: each customer, their groups, the whole.

Here: which scopes a customer is in, and how a scope is written. Not here: what is put together.
"""

from __future__ import annotations

import polars as pl

from metering.registry.parse import WHOLE_SCOPE

CUSTOMER, WHOLE = "customer", "whole"
ROLLUP_GROUPS = ("segment", "industry", "voltage_level_kv", "feeder", "manager")
"""Columns of the customers' registry that roll-ups are made by."""


def label(group: str, customers: pl.DataFrame) -> pl.Expr:
    """The scope of a group, such as `voltage_level_kv:10`; null where a customer is in none."""
    text = pl.col(group).cast(pl.String)
    if customers.schema[group].is_float():
        text = text.str.strip_suffix(".0")
    return pl.when(text != "").then(pl.format(f"{group}:{{}}", text))


def groups_of(customers: pl.DataFrame) -> pl.DataFrame:
    """Groups that each of `customers` (one row each) is in, and the whole: customer_no, scope_kind, scope."""
    labels = {group: label(group, customers) for group in ROLLUP_GROUPS} | {WHOLE: pl.lit(WHOLE_SCOPE)}
    return pl.concat(
        customers.select("customer_no", pl.lit(kind).alias("scope_kind"), scope.alias("scope"))
        for kind, scope in labels.items()
    ).filter(pl.col("scope").is_not_null())


def scopes_of(customers: pl.DataFrame) -> pl.DataFrame:
    """All scopes that each of `customers` is in, itself first: customer_no, scope_kind, scope."""
    themselves = customers.select("customer_no", pl.lit(CUSTOMER).alias("scope_kind"), scope="customer_no")
    return pl.concat([themselves, groups_of(customers)])
