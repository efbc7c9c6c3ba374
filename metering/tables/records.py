"""Records: what is read besides telemetry. Feedback, plans, outages, meters' own events, service events.

Here: their declarations, one `RecordKind` for each topic; from a row here follow what is accepted, the lake's table, the
JSON Schema, the topic, the folder of files and the docs. Not here: reading them (`metering.records`, `pipelines`), what
is made of them (`metering.events.feedback`, the assets).

A record is a JSON object. It may come late, twice and out of order: of several with one `key` the one counts that is the
last by `order`, then by its place in the log (`metering.records.current`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from metering.tables.schema import SOURCE, TIMESTAMP, Column, Table

FIGURES = pl.List(pl.Struct({"name": pl.String(), "value": pl.Float64()}))
"""A JSON object of numbers, by name; those of an object within it are named `outer.inner`."""
EVERY = "*"
"""The name of a figure that came as a bare number."""
NAMES = pl.List(pl.String())
MONEY = pl.Decimal(18, 4)
"""Decimal text in JSON: a binary number would not say what was meant."""
LINES = pl.List(pl.Struct({"item": pl.String(), "quantity": MONEY, "price": pl.Decimal(18, 8), "amount": MONEY}))
"""A JSON array of objects, the lines of a bill: `item`, and as decimal text `quantity`, `price`, `amount`."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record and the lake's column that it becomes. `json`: its name there, where that is not the
    column's. It is required where the column is not nullable and has no default. `month`: a Date written YYYY-MM.
    """

    column: Column
    json: str = ""
    month: bool = False

    @property
    def name(self) -> str:
        return self.json or self.column.name

    @property
    def required(self) -> bool:
        return not self.column.nullable and self.column.default is None


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold between fields, as a boolean expression over the columns (null: it does), and what is said if not."""

    holds: pl.Expr
    said: str


@dataclass(frozen=True)
class RecordKind:
    """A kind of record: `name` and `version` make the topic's name, `folder` under the home holds its NDJSON files.

    `key`: columns that name what a record is about; `order`: columns that say which of several is the last; `time`: the
    column whose local date a row is filed under. A `broadcast` kind is known to every worker of a stream, in every turn:
    the last of each key; where `revisions` are named (columns), the last of each of these too; of variants only those
    in `told`, if there are some.
    `variants`: by the value of the column `variant`, the fields that such a record may have besides `common` ones, True
    where it must.
    """

    name: str
    version: int
    folder: str
    table: Table
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    time: str
    order: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    broadcast: bool = False
    revisions: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    variant: str = ""
    common: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """The topic's name, where the settings give no other."""
        return f"{self.name}.v{self.version}"

    @property
    def file(self) -> str:
        """Name of its JSON Schema file."""
        return f"{self.topic}.schema.json"

    @property
    def order_in_log(self) -> tuple[str, ...]:
        """Columns by which the rows of a key are in order, the last one counting."""
        return (*self.order, "logged_at", "log_offset", "source_row")

    @property
    def schema(self) -> pl.Schema:
        """The columns that come from the record itself."""
        return pl.Schema({f.column.name: f.column.dtype for f in self.fields})


def _kind(
    table: str,
    meaning: str,
    name: str,
    folder: str,
    fields: tuple[Field, ...],
    *,
    key: tuple[str, ...],
    time: str,
    order: tuple[str, ...] = (),
    rules: tuple[Rule, ...] = (),
    broadcast: bool = False,
    revisions: tuple[str, ...] = (),
    told: tuple[str, ...] = (),
    variant: str = "",
    variants: Mapping[str, Mapping[str, bool]] | None = None,
) -> RecordKind:
    date = Column("date", pl.Date, f"Local calendar date of {time}", nullable=False)
    columns = tuple(f.column for f in fields)
    place = ("source", "source_partition", "source_offset", "source_row")
    said = f"{meaning} Of several with one {' and '.join(key)} the last one counts."
    of_variants = {field for names in (variants or {}).values() for field in names}
    common = tuple(f.column.name for f in fields if f.name not in of_variants)
    declared = Table(table, said, place, (*columns, *SOURCE, date))
    return RecordKind(
        name=name, version=1, folder=folder, table=declared, fields=fields, key=key, time=time, order=order, rules=rules,
        broadcast=broadcast, revisions=revisions, told=told, variant=variant, common=common, variants=variants or {},
    )  # fmt: skip


def _required(name: str, meaning: str, dtype: pl.DataType | type[pl.DataType] = pl.String, json: str = "") -> Field:
    return Field(Column(name, dtype, meaning, nullable=False), json)


def _enum(name: str, meaning: str, *allowed: str, required: bool = False, default: str | None = None) -> Field:
    nullable = not required and default is None
    return Field(Column(name, pl.String, meaning, nullable=nullable, allowed=allowed, default=default))


def _text(name: str, meaning: str, json: str = "") -> Field:
    return Field(Column(name, pl.String, meaning), json)


def _time(name: str, meaning: str, json: str = "", *, required: bool = False) -> Field:
    return Field(Column(name, TIMESTAMP, meaning, "UTC", nullable=not required), json)


def _number(
    name: str, meaning: str, unit: str = "", minimum: float | None = None, maximum: float | None = None
) -> Field:
    return Field(Column(name, pl.Float64, meaning, unit, minimum=minimum, maximum=maximum))


def _flag(name: str, meaning: str) -> Field:
    return Field(Column(name, pl.Boolean, meaning))


def _date(name: str, meaning: str, *, month: bool = False) -> Field:
    return Field(Column(name, pl.Date, meaning), month=month)


def _money(name: str, meaning: str) -> Field:
    return Field(Column(name, MONEY, meaning, "yuan"))


def _not_before(later: str, earlier: str) -> Rule:
    return Rule(pl.col(later) >= pl.col(earlier), f"{later} is before {earlier}")


ACTIONS = ("acknowledged", "confirmed", "false", "handled", "closed")

FEEDBACK = _kind(
    "feedback",
    "What people say of alarms: that they know, whether it was one, that it is mended, that it is done with.",
    "alarm.feedback",
    "feedback",
    (
        _required("violation_id", "The violation"),
        _enum("action", "What was done or found", *ACTIONS, required=True),
        _time("at", "When", required=True),
        _text("by_role", "Role or office that says so", "by"),
        _text("note", "Note"),
    ),
    key=("violation_id", "action"),
    time="at",
    order=("at",),
)

_BY = "by customer, or by feeder to be shared by contract capacity; * for each"
_HOLDS = pl.col("state") == "active"

PLANS = _kind(
    "load_control_plans",
    "Load-control plans: who is to draw less, by how much, from when to when.",
    "load.control.plan",
    "control",
    (
        _required("plan_id", "The plan"),
        Field(Column("revision", pl.Int32, "Higher replaces lower", nullable=False, minimum=0, default="0")),
        _enum("kind", "Demand response or orderly usage", "demand_response", "orderly_usage", default="orderly_usage"),
        _enum("level", "Band of system shortage", "red", "orange", "yellow", "blue"),
        _time("from_at", "Start; only its whole quarter-hours are under the plan", "from"),
        _time("to_at", "End", "to"),
        Field(Column("customers", NAMES, "Customers of the plan; null without feeders: those that have figures")),
        Field(Column("feeders", NAMES, "Feeders whose customers are of the plan")),
        Field(Column("cap_kw", FIGURES, f"Most power that a customer may draw, {_BY}", "kW")),
        Field(Column("reduction_kw", FIGURES, f"Power to be saved, {_BY}", "kW")),
        Field(Column("protected_kw", FIGURES, "Load that is never cut, likewise; null: as registered", "kW")),
        _text("baseline", "Method of the baseline, as the settings name it; null: their default"),
        _enum("state", "Whether it holds", "active", "withdrawn", default="active"),
        _time("issued_at", "When this revision was issued", required=True),
    ),
    key=("plan_id",),
    time="issued_at",
    order=("revision", "issued_at"),
    rules=(
        Rule(pl.col("to_at") > pl.col("from_at"), "to is not after from"),
        Rule(~_HOLDS | pl.all_horizontal(pl.col("from_at", "to_at").is_not_null()), "an active plan needs from and to"),
        Rule(
            ~_HOLDS | pl.any_horizontal(pl.col("cap_kw", "reduction_kw").is_not_null()),
            "an active plan needs cap_kw or reduction_kw",
        ),
        *(
            Rule(~pl.col(name).list.eval(pl.element().struct.field("value") < 0).list.any(), f"{name} is below 0")
            for name in ("cap_kw", "reduction_kw", "protected_kw")
        ),
    ),
    broadcast=True,
    revisions=("revision", "issued_at"),
)

OUTAGES = _kind(
    "outages",
    "Interruptions of supply, planned and found.",
    "supply.outages",
    "outages",
    (
        _required("outage_id", "The outage"),
        _enum("kind", "What it comes from", "planned", "fault", "supply_shortage", "external", required=True),
        _text("feeder", "Feeder that is off"),
        Field(Column("customers", NAMES, "Customers that are off")),
        _time("from_at", "Start", "from", required=True),
        _time("to_at", "End; null: it lasts", "to"),
        _time("announced_at", "When it was announced"),
        _text("state", "State, as whoever runs the grid calls it"),
    ),
    key=("outage_id",),
    time="from_at",
    rules=(_not_before("to_at", "from_at"),),
    broadcast=True,
)

METER_EVENTS = _kind(
    "meter_events",
    "Events that meters report themselves.",
    "meter.events",
    "meter_events",
    (
        _required("meter_id", "Meter"),
        _required("code", "The meter's code of the event"),
        _time("at", "Start", required=True),
        _time("cleared_at", "End; null: it lasts, or has none"),
        _text("detail", "What the meter says besides"),
    ),
    key=("meter_id", "code", "at"),
    time="at",
    order=("cleared_at",),
    rules=(_not_before("cleared_at", "at"),),
)

FROZEN = _kind(
    "frozen_registers",
    "Registers as meters froze them: at the end of a day, or on the day of settlement.",
    "meter.frozen",
    "frozen",
    (
        _required("meter_id", "Meter"),
        _time("at", "The moment of freezing", required=True),
        _enum("kind", "Why it was frozen", "day", "settlement", required=True),
        Field(Column("registers", FIGURES, "Registers, by rate (or register and rate), primary side")),
        _number("demand_kw", "Maximum demand of the period", "kW", minimum=0),
        _time("demand_at", "When that was"),
    ),
    key=("meter_id", "at"),
    time="at",
)

REQUEST_KINDS = (
    "new_supply", "capacity_increase", "change", "meter_installation", "repair", "complaint", "enquiry", "dispute",
)  # fmt: skip
SURVEY_SUBJECTS = ("handling", "proactive_service", "advice", "overall")
_REQUEST = {"request_id": True, "kind": False, "due_at": False, "stage": False, "accepted_by": False}
_VISIT = {"subject": False, "findings": False}
_DUTY = {"valid_to": False, "document": False, "findings": False}
_ADVICE = {"advice_id": True}
_ANSWER = {"plan_id": True}
_BILL = {"month": False, "amount": True, "due_on": False, "balance": False, "lines": False}
_ACCOUNT = {"month": False, "amount": True, "due_on": False, "balance": False}
PLAN_ANSWERS = ("plan.accepted", "plan.declined", "plan.opted_out")
SERVICE_TYPES: dict[str, dict[str, bool]] = {
    "call": {"queue_s": False, "connected": False, "lost": False, "answered_at": False},
    **dict.fromkeys(("request.received", "request.accepted", "request.progress", "request.done"), _REQUEST),
    "survey": {"subject": True, "method": False, "score": True, "request_id": False, "advice_id": False},
    **dict.fromkeys(("visit", "revisit", "leader_visit", "meeting"), _VISIT),
    **dict.fromkeys(("drill", "emergency_plan", "usage_plan", "equipment_diagnosis", "guidance", "inspection"), _DUTY),
    "outage_advice": {"outage_id": True, "accepted": False},
    "supply_check": {"sources_ok": False, "interlock_ok": False, "agreement_valid_to": False},
    "bill": _BILL,
    "payment": _ACCOUNT,
    "prepaid": {**_ACCOUNT, "amount": False, "balance": True},
    **dict.fromkeys(("advice.sent", "advice.accepted", "advice.declined", "advice.done"), _ADVICE),
    **dict.fromkeys(PLAN_ANSWERS, _ANSWER),
    "meter.field_reading": {"meter_id": True, "import_kwh": True},
}
"""Fields of each type of service event: True, it must be there."""

SERVICE = _kind(
    "service_events",
    "Business events of customers: calls, requests, surveys, visits, duties of care, bills, advice.",
    "service.events",
    "service",
    (
        _required("event_id", "The event"),
        _enum("type", "What it is", *SERVICE_TYPES, required=True),
        _time("at", "When", required=True),
        _required("customer_no", "Customer number"),
        _enum("channel", "Way it came", "95598", "hall", "web", "manager", "visit"),
        _text("by_role", "Role or office", "by"),
        _number("queue_s", "Time in the queue", "s", minimum=0),
        _flag("connected", "The call was put through"),
        _flag("lost", "The caller hung up before that"),
        _time("answered_at", "When the call was answered"),
        _text("request_id", "The request"),
        _enum("kind", "Kind of request", *REQUEST_KINDS),
        _time("due_at", "When the request is due to be done"),
        _text("stage", "Stage that the request is at"),
        _text("accepted_by", "Role or office that accepted the request"),
        _text("subject", f"What a visit is about, or a survey: {', '.join(SURVEY_SUBJECTS)}"),
        _enum("method", "How a survey was made", "key_press", "asked", "sample", "revisit"),
        Field(Column("score", pl.Int32, "Score of a survey, 5 the best", minimum=1, maximum=5)),
        _text("advice_id", "The advice"),
        _text("findings", "What was found"),
        _date("valid_to", "Last day that a plan, document or drill holds"),
        _text("document", "Document"),
        _text("outage_id", "The outage that was advised on"),
        _flag("accepted", "The advice on an outage was taken"),
        _flag("sources_ok", "All sources of supply are in order"),
        _flag("interlock_ok", "The interlock against back-feeding is in order"),
        _date("agreement_valid_to", "Last day of the agreement on dual or own supply"),
        _date("month", "First day of the month that a bill is for", month=True),
        Field(Column("lines", LINES, "Lines of a bill: item, and as decimal text quantity, price, amount (yuan)")),
        _money("amount", "Amount"),
        _date("due_on", "Day that a bill is due on"),
        _money("balance", "Balance after it"),
        _text("plan_id", "Load-control plan that is answered"),
        _text("meter_id", "Meter that was read"),
        _number("import_kwh", "Register, active import, as read in the field, primary side", "kWh", minimum=0),
    ),
    key=("event_id",),
    time="at",
    order=("at",),
    rules=(
        Rule(
            (pl.col("type") != "survey") | pl.col("subject").is_in(SURVEY_SUBJECTS),
            f"subject of a survey is none of {', '.join(SURVEY_SUBJECTS)}",
        ),
    ),
    broadcast=True,
    told=PLAN_ANSWERS,
    variant="type",
    variants=SERVICE_TYPES,
)

KINDS: dict[str, RecordKind] = {k.table.name: k for k in (FEEDBACK, PLANS, OUTAGES, METER_EVENTS, FROZEN, SERVICE)}
"""Every kind of record, by its table in the lake."""
