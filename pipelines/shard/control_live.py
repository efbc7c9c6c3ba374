"""Running quarter-hours: what customers are heading for, minute by minute.

Here: the frame LIVE, and looks at the readings of the few customers that are under a plan or near their contract
demand or capacity, one reading after the other in the order of the log. Not here: what is warned of
(`control_warnings`), windows that have closed (`control`).

A customer is looked at once a minute of its own time: when all of its meters that have spoken in the window have come
so far. Each meter goes on as at its last reading; the customer is their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import hypot

import polars as pl

from metering.calendar import local_date
from metering.control.alarms import Alarm
from metering.control.baseline import DECIMALS, meters_due
from metering.control.execution import finished, judged, with_baseline
from metering.control.plans import holding
from metering.readings import plausible
from metering.readings.slots import WINDOW_US
from metering.registry.meter_versions import OFF_GRID_US
from metering.tables.control import LOAD_CONTROL
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard import control_warnings
from pipelines.shard.control_plans import InForce
from pipelines.shard.control_warnings import WARNINGS, WATCHED, time_of
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import Context, Past
from pipelines.shard.windows import OPEN

LIVE = Frame(
    "control_live",
    1,
    pl.Schema({"meter": pl.UInt32(), **{n: dtype for n, dtype in LOAD_CONTROL.schema.items() if n != "date"}}),
)
"""What was emitted last of running windows, by the customer's first main meter."""
_MINUTE_US = 60_000_000
_MANY = 1 << 30
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOKS = pl.Schema(
    {
        "customer_no": pl.String(),
        "window_end": TIMESTAMP,
        "as_of": TIMESTAMP,
        "actual_kw": pl.Float64(),
        "projected_kw": pl.Float64(),
        "actual_kva": pl.Float64(),
        "projected_kva": pl.Float64(),
        "meters": pl.Int32(),
    }
)
_READINGS = ("meter", "version", "slot_us", "end_us", "p_kw", "q_kvar")


@dataclass(slots=True)
class Looked:
    """What came of a turn: the state's frames, rows of LOAD_CONTROL to emit, warnings to tell in their order."""

    state: State
    rows: pl.DataFrame
    alarms: list[Alarm]


def step(
    before: State, state: State, turn: Turn, force: InForce, changed: bool, past: Past, context: Context
) -> Looked:
    """Look at the turn's readings of windows that were open `before` it. `changed`: so have plans."""
    rows = _of_interest(before, turn, force, context)
    customers = set(rows["customer_no"])
    if changed:
        customers |= set(force.members.filter(force.planned.gather(force.members["meter"]))["customer_no"])
        customers |= set(state.frame(LIVE)["customer_no"])
    if not customers and state.frame(LIVE).is_empty() and state.frame(WARNINGS).is_empty():
        return Looked(state, LOAD_CONTROL.empty(), [])
    anyway = handled(pl.Series("customer_no", sorted(customers), pl.String), state, force, context) if changed else []
    looks = _looks(before, rows, set(anyway), state, force, context)
    live = _live_rows(looks, force, past, context)
    state, alarms = control_warnings.step(state, looks, live, turn, force, context)
    state, emitted = _emitted(state, live, turn, force, context)
    return Looked(state, emitted, alarms)


# --- which readings -------------------------------------------------------------------------------------------------


def _of_interest(before: State, turn: Turn, force: InForce, context: Context) -> pl.DataFrame:
    """Readings of open windows of customers that are under a plan then, or may pass contract demand or capacity."""
    nothing = no_rows(pl.Schema({**{n: OPEN.schema[n] for n in _READINGS}, "customer_no": pl.String()}))
    rows = turn.rows.filter(~pl.col("late"), ~pl.col("closed")) if turn.late or turn.closed else turn.rows
    if rows.is_empty():
        return nothing
    demand_kw, capacity_kva = (limit.gather(rows["version"]) for limit in (force.demand_kw, force.capacity_kva))
    squared = rows["p_kw"] ** 2 + rows["q_kvar"].fill_null(0.0) ** 2
    near = (rows["p_kw"] > demand_kw).fill_null(False) | (squared > capacity_kva**2).fill_null(False)
    planned = force.planned.gather(rows["meter"])
    known = before.frame(WARNINGS)
    if not (near.any() or planned.any() or known.height):
        return nothing
    mine = _believed(rows.select(*_READINGS, near=near), context)
    ends = mine.select("customer_no", pl.col("end_us").cast(TIMESTAMP).alias("window_end")).unique()
    held = holding(force.targets, ends.join(force.targets.select("customer_no").unique(), on="customer_no"))
    interesting = pl.concat([mine.filter("near")["customer_no"], held["customer_no"], known["customer_no"]]).unique()
    mine = mine.filter(pl.col("customer_no").is_in(interesting.implode())).select(nothing.columns)
    return mine.filter(pl.col("customer_no").is_in(handled(mine["customer_no"], before, force, context)))


def _believed(rows: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Readings (`meter`, `version`, p_kw) of main meters that are believed, with `customer_no`."""
    versions, version = context.meter_versions, rows["version"]
    main = (versions["role"].gather(version) == "main") & (versions["grid_us"].gather(version) != OFF_GRID_US)
    mine = rows.with_columns(versions["customer_no"].gather(version)).filter(main)
    return plausible.believed(mine, versions).filter(pl.col("p_kw").is_not_null())


def handled(customers: pl.Series, state: State, force: InForce, context: Context) -> list[str]:
    """Those of `customers` that this worker speaks for: where there are several, the one that hears the first meter."""
    names = customers.unique().to_frame()
    if context.alone:
        return names.to_series().to_list()
    first = force.first.join(names, on="customer_no", how="semi")
    heard = state.meters(context.index)["shard"].gather(first["meter"]) != 0
    return first.filter(heard)["customer_no"].to_list()


# --- looks ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    """A meter's readings of one window: active and reactive power by slot (its end), the interval, and up to when it
    has come. Reactive power that is not known counts as none: what is apparent is at least what is active.
    """

    interval_us: int
    power: dict[int, tuple[float, float]] = field(default_factory=dict)
    newest_us: int = 0

    def add(self, slot_us: int, p_kw: float, q_kvar: float | None) -> None:
        self.power[slot_us] = p_kw, q_kvar or 0.0
        self.newest_us = max(self.newest_us, slot_us)

    def until(self, at_us: int, end_us: int) -> tuple[float, ...] | None:
        """Mean active power up to `at_us`, and at the window's end if it goes on as it is; reactive power likewise.
        None: nothing came by then.
        """
        slots = sorted(us for us in self.power if us <= at_us)
        if not slots:
            return None
        elapsed_us = slots[-1] - (end_us - WINDOW_US)
        found: list[float] = []
        for kind, last in enumerate(self.power[slots[-1]]):
            mean = sum(self.power[us][kind] for us in slots) / len(slots)
            found += [mean, (mean * elapsed_us + last * (WINDOW_US - elapsed_us)) / WINDOW_US]
        return tuple(found)


def _looks(
    before: State, rows: pl.DataFrame, anyway: set[str], state: State, force: InForce, context: Context
) -> pl.DataFrame:
    """_LOOKS, in order: one for each minute that a customer has come to; at those of `anyway` as they stand, too."""
    tallies: dict[tuple[str, int], dict[int, _Tally]] = {}
    interval_s = context.meter_versions["interval_s"]

    def take(readings: pl.DataFrame) -> Iterator[tuple[str, int]]:
        intervals = (interval_s.gather(readings["version"]).cast(pl.Int64) * 1_000_000).alias("interval_us")
        frame = readings.with_columns(intervals)
        columns = ("customer_no", "end_us", "meter", "interval_us", "slot_us", "p_kw", "q_kvar")
        for customer, end_us, meter, interval_us, slot_us, p_kw, q_kvar in frame.select(columns).iter_rows():
            of_window = tallies.setdefault((customer, end_us), {})
            of_window.setdefault(meter, _Tally(interval_us)).add(slot_us, p_kw, q_kvar)
            yield customer, end_us

    for _ in take(_open_readings(before, rows, anyway, force, context)):
        pass
    looked = _looked_until(state)
    found: list[tuple[object, ...]] = []

    def look(key: tuple[str, int], again: bool) -> None:
        customer, end_us = key
        at_us = min(tally.newest_us for tally in tallies[key].values()) // _MINUTE_US * _MINUTE_US
        here, last = (at_us, len(tallies[key])), looked.get(key, (end_us - WINDOW_US, _MANY))
        if (here < last and here[1] <= last[1]) or (here == last and not again):
            return
        known = [value for tally in tallies[key].values() if (value := tally.until(at_us, end_us)) is not None]
        if known:
            looked[key] = here
            mean_kw, heading_kw, mean_kvar, heading_kvar = (sum(values) for values in zip(*known, strict=True))
            powers = mean_kw, heading_kw, hypot(mean_kw, mean_kvar), hypot(heading_kw, heading_kvar)
            rounded = (round(power, DECIMALS) for power in powers)
            found.append((customer, time_of(end_us), time_of(at_us), *rounded, len(known)))

    for key in [key for key in tallies if key[0] in anyway]:
        look(key, again=True)
    for key in take(rows):
        look(key, again=False)
    return pl.DataFrame(found, schema=_LOOKS, orient="row")


def _open_readings(
    before: State, rows: pl.DataFrame, anyway: set[str], force: InForce, context: Context
) -> pl.DataFrame:
    """What was there before of the windows that `rows` lie in, and of all open windows of the customers `anyway`."""
    members = force.members
    meters = members.filter(pl.col("customer_no").is_in([*set(rows["customer_no"]), *anyway]))
    ends = rows.select("customer_no", "end_us").unique()
    theirs = pl.col("meter").is_in(meters["meter"].unique().implode())
    parts = [part.select(_READINGS) for part in before.chunks(OPEN).where(theirs)]
    found = _believed(pl.concat([rows.select(_READINGS).clear(), *parts]), context)
    wanted = pl.col("customer_no").is_in(list(anyway))
    key = ["customer_no", "end_us"]
    of_rows = found.filter(~wanted).join(ends, on=key, how="semi", maintain_order="left")
    return pl.concat([found.filter(wanted), of_rows])


def _looked_until(state: State) -> dict[tuple[str, int], tuple[int, int]]:
    """Up to when each customer's window was looked at last, and with how many meters."""
    live = state.frame(LIVE).select("customer_no", "window_end", "as_of", "meters")
    watched = state.frame(WARNINGS).filter(pl.col("state") == WATCHED)
    watched = watched.select("customer_no", window_end="until", as_of="at", meters="revision")
    seen: dict[tuple[str, int], tuple[int, int]] = {}
    rows = pl.concat([live, watched]).with_columns(pl.col("window_end", "as_of").to_physical())
    for customer, end_us, at_us, meters in rows.iter_rows():
        seen[customer, end_us] = max((at_us, meters), seen.get((customer, end_us), (at_us, meters)))
    return seen


# --- rows -----------------------------------------------------------------------------------------------------------


def _live_rows(looks: pl.DataFrame, force: InForce, past: Past, context: Context) -> pl.DataFrame:
    """LOAD_CONTROL, live, of each look and each plan that holds for it; in the order of the looks, with `look`."""
    held = holding(force.targets, looks.with_row_index("look"))
    if held.is_empty():
        return LOAD_CONTROL.empty().with_columns(look=pl.lit(None, pl.UInt32))
    held = held.with_columns(local_date(pl.col("window_end"), context.settings.timezone).alias("date"))
    based = with_baseline(held, force.baselines(held, past))
    known = judged(meters_due(based, context.meter_versions)).with_columns(
        revision=pl.col("baseline_late") + pl.col("superseded")
    )
    rows = finished(known, "live", context.settings)
    keys = known.select(*LOAD_CONTROL.key, "as_of", "look")
    return rows.join(keys, on=[*LOAD_CONTROL.key, "as_of"], how="left").sort("look", "plan_id")


def _emitted(
    state: State, live: pl.DataFrame, turn: Turn, force: InForce, context: Context
) -> tuple[State, pl.DataFrame]:
    """What is new of running windows: the last row of each, and that it is withdrawn where the plan holds no more."""
    before = state.frame(LIVE)
    if before.is_empty() and live.is_empty():
        return state, LOAD_CONTROL.empty()
    last = live.drop("look").unique(LOAD_CONTROL.key, keep="last", maintain_order=True)
    still = holding(force.targets, before.select("plan_id", "customer_no", "window_end", "plan_revision"))
    still = still.filter(pl.col("plan_id") == pl.col("plan_id_right"))
    gone = before.join(still, on=LOAD_CONTROL.key, how="anti")
    withdrawn = _dated(gone, context).with_columns(
        state=pl.lit("withdrawn"), compliant=pl.lit(None, pl.Boolean), revision=pl.col("revision") + 1
    )
    codes = last.join(force.first, on="customer_no", how="left", maintain_order="left")
    ends = turn.after.of(codes["meter"])
    last = last.filter(last["window_end"].to_physical() > ends)
    new = codes.select(LIVE.schema.names()).join(before, on=list(LIVE.schema.names()), how="anti", nulls_equal=True)
    fresh = last.join(new, on=LOAD_CONTROL.key, how="semi", maintain_order="left")
    others = before.join(
        pl.concat([rows.select(LOAD_CONTROL.key) for rows in (gone, codes)]), on=LOAD_CONTROL.key, how="anti"
    )
    kept = pl.concat([others, codes.select(LIVE.schema.names()).cast(LIVE.schema)])
    kept = kept.filter(kept["window_end"].to_physical() > turn.after.of(kept["meter"])).sort(LOAD_CONTROL.key)
    return state.having({LIVE: kept}), pl.concat([LOAD_CONTROL.conform(rows) for rows in (fresh, withdrawn)])


def _dated(rows: pl.DataFrame, context: Context) -> pl.DataFrame:
    return rows.with_columns(local_date(pl.col("window_end"), context.settings.timezone).alias("date"))
