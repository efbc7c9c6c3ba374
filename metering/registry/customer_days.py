"""Customers' rows day by day: each day is judged by the row that is valid on it.

Not here: parsing them (`parse`).
"""

from __future__ import annotations

from datetime import date

import polars as pl


def customer_days(customers: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """The registry's columns of every customer for every local day from `first` to `last` on which it has a row.

    Columns: `date`, and those of CUSTOMERS; sorted by customer_no and date.
    """
    days = pl.date_range(first, last, eager=True).alias("date") if last >= first else pl.Series("date", [], pl.Date)
    begun = pl.col("valid_from").is_null() | (pl.col("valid_from") <= pl.col("date"))
    not_over = pl.col("valid_to").is_null() | (pl.col("valid_to") >= pl.col("date"))
    rows = customers.join(days.to_frame(), how="cross").filter(begun & not_over)
    return rows.sort("customer_no", "date", "valid_from", nulls_last=False).unique(
        ["customer_no", "date"], keep="last", maintain_order=True
    )
