"""Messages to people: who gets them (`registry/contacts.csv`), and what became of each (the lake's table `notices`).

Here: the two tables. Not here: who is told what and when (`metering.notices`), sending (`sinks.notices`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

SEVERITIES = ("info", "warning", "critical")
LANGUAGES = ("zh", "en")
CLASSES = ("power_notice", "outage", "orderly_usage", "limit_warning")
"""Classes of messages that come with the product; rules may name others."""
EVERYBODY = "*"
NOBODY = "none"

CONTACTS = Table(
    "contacts",
    "Who is told what, as in registry/contacts.csv. A contact may have several rows; of those that fit, the first counts.",
    ("contact", "scope", "event_class"),
    (
        Column(
            "contact", pl.String, "Name of the contact: of a desk, a phone, a group, not of a person", nullable=False
        ),
        Column("role", pl.String, "Role or office that is behind it, never a person", nullable=False),
        Column(
            "scope",
            pl.String,
            "Whose events: *, a customer number, feeder:10kV-01, segment:large, voltage_level_kv:10, manager:...",
            nullable=False,
            default=EVERYBODY,
            optional=True,
        ),
        Column(
            "event_class",
            pl.String,
            "Classes of messages, with blanks between; * for all",
            nullable=False,
            default=EVERYBODY,
            optional=True,
        ),
        Column(
            "severity",
            pl.String,
            "Least severity that is told",
            nullable=False,
            allowed=SEVERITIES,
            default="info",
            optional=True,
        ),
        Column("quiet", pl.String, "Quiet hours, local, such as 22:00-07:00; empty: none", optional=True),
        Column(
            "quiet_passes",
            pl.String,
            "Least severity that is told in quiet hours too; the rest waits for their end",
            nullable=False,
            allowed=(*SEVERITIES, NOBODY),
            default="critical",
            optional=True,
        ),
        Column(
            "language", pl.String, "Language", nullable=False, allowed=LANGUAGES, default=LANGUAGES[0], optional=True
        ),
        Column(
            "channels",
            pl.String,
            "Apprise URLs, with blanks between, one receiver each; ${NAME} stands for an environment variable",
            nullable=False,
        ),
        Column(
            "level",
            pl.Int32,
            "0: told at once; 1 and up: told when nobody has acknowledged",
            nullable=False,
            minimum=0,
            maximum=9,
            default="0",
            optional=True,
        ),
        Column(
            "after_min",
            pl.Float64,
            "Of levels from 1 up: minutes without an acknowledgement",
            "min",
            minimum=0.1,
            maximum=10_080,
            optional=True,
        ),
    ),
)

NOTICES = Table(
    "notices",
    "What became of each message to a person, through one channel to one contact.",
    ("notice_id",),
    (
        Column("notice_id", pl.String, "Function of what is told, contact, channel and level", nullable=False),
        Column(
            "state",
            pl.String,
            "Outcome. expired: too old when Kilowatch learnt of it; superseded: over before quiet hours were",
            nullable=False,
            allowed=("sent", "failed", "expired", "superseded"),
        ),
        Column("event_class", pl.String, "Class of the message", nullable=False),
        Column(
            "event_state",
            pl.String,
            "What is told of the event",
            nullable=False,
            allowed=("raised", "updated", "cleared", "withdrawn"),
        ),
        Column("severity", pl.String, "Severity of the event", nullable=False, allowed=SEVERITIES),
        Column(
            "channel",
            pl.String,
            "Kind of channel: the scheme of its URL, or the variable that holds all of it",
            nullable=False,
        ),
        Column("contact", pl.String, "The contact", nullable=False),
        Column("role", pl.String, "Role or office that was told", nullable=False),
        Column("level", pl.Int32, "Level of escalation", nullable=False, minimum=0),
        Column("language", pl.String, "Language", nullable=False, allowed=LANGUAGES),
        Column("violation_id", pl.String, "The violation, where it is about one"),
        Column("plan_id", pl.String, "The load-control plan, where it is about one"),
        Column("outage_id", pl.String, "The outage, where it is about one"),
        Column("storm_id", pl.String, "The storm, where it is about several violations of one"),
        Column("members", pl.Int32, "Violations or customers that it is about", nullable=False, minimum=0),
        Column("customer_no", pl.String, "The customer, where it is about one"),
        Column("attempts", pl.Int32, "How often it was handed over, or tried to", nullable=False, minimum=0),
        Column("event_at", TIMESTAMP, "Time of the event that it tells of", "UTC", nullable=False),
        Column("taken_at", TIMESTAMP, "When Kilowatch learnt of it", "UTC", nullable=False),
        Column("at", TIMESTAMP, "When the outcome was there", "UTC", nullable=False),
        Column("title", pl.String, "Its title", nullable=False),
        Column("body", pl.String, "Its text", nullable=False),
        Column("detail", pl.String, "Why it was not sent, or what went wrong before it was"),
        Column("date", pl.Date, "Local calendar date of at", nullable=False),
    ),
)
