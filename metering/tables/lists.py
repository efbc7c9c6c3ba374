"""The warehouse's table of customer lists.

Here: its declaration. Not here: the rules (settings, `[lists]`), the history (`metering.registry.lists`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

APPROVED, PROPOSED = "approved", "proposed"
ADD, REMOVE = "add", "remove"

CUSTOMER_LISTS = Table(
    "customer_lists",
    "Who is on which list, from when to when: memberships as they were approved, and what the rules propose today.",
    ("list", "customer_no", "valid_from"),
    (
        Column("list", pl.String, "Name of the list, as the rule profiles in the settings name it", nullable=False),
        Column("customer_no", pl.String, "Customer number, the only key of a customer", nullable=False),
        Column(
            "valid_from",
            pl.Date,
            "First local day of the membership; of a proposal the day whose data it is made from",
            nullable=False,
        ),
        Column("valid_to", pl.Date, "Last local day of the membership; null: it goes on"),
        Column("state", pl.String, "Whether somebody approved of it", nullable=False, allowed=(APPROVED, PROPOSED)),
        Column(
            "rule_profile", pl.String, "Rule profile that put the customer on it; by_hand: none did", nullable=False
        ),
        Column("reason", pl.String, "What of the profile the customer met", nullable=False),
        Column("approver", pl.String, "Role or office that approved; null: nobody yet"),
        Column("approved_at", TIMESTAMP, "When it was approved", "UTC"),
        Column(
            "change",
            pl.String,
            "What is proposed: add; remove, of an approved membership that no profile supports any more; null: nothing",
            allowed=(ADD, REMOVE),
        ),
        Column("as_of", pl.Date, "Last local day whose data the proposal knows", nullable=False),
    ),
)
