"""What the stream has emitted cut anew from the lake's readings, under the registry and settings of today.

Here: running the lake's readings through the stream's own turns, in order of time and into a lake aside, and the rows
that put right what the stream's lake says: higher revisions of keys that differ. Not here: committing and publishing
them (`orchestration.stream.recut`), which days are to be materialised again.

Results depend on the readings alone, not on the order in which they came, but for what was told when it was looked at:
`reading_missing`, `clock_drift`, and warnings of load control. Those stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from metering.calendar import day_bounds
from metering.events.catalogue import told_apart
from metering.events.texts import tell
from metering.load.windows import latest, withdrawn
from metering.tables import LAKE
from metering.tables.reconcile import differing
from pipelines.shard.advance import TABLES, advance
from pipelines.shard.chunks import Bound
from pipelines.shard.recovery import state_of
from pipelines.shard.state import Shards, State
from pipelines.shard.store import EPOCH, Context, LakePast
from sinks.lake.parts import parts, write_part
from sinks.lake.reader import LakeReader, newest

LOT_ROWS = 500_000
"""Readings of a turn, and of the days that are read together, a day at least."""
_SHARD = 1
_WINDOWS, _VIOLATIONS, _COMPLIANCE, _CONTROL = (
    LAKE[n] for n in ("windows", "violations", "compliance", "load_control")
)
_KEPT = ("revision", "date")
_TOLD = ("state", "started_at", "ended_at", "value", "limit_value", "unit", "severity", "meter_id", "customer_no")
"""What a violation is; its words and counts follow from these, or from the order in which readings came."""


@dataclass(frozen=True, slots=True)
class Recut:
    """The lake of a home, and the one aside (its own folder, empty at the start) that its readings are cut into.

    `context`: registry, settings and records in force; its past is the lake's.
    """

    lake: LakeReader
    aside: LakeReader
    context: Context

    def replay(self) -> Iterator[int]:
        """Cut all of the lake's readings; yields how many of its days are done. Windows that the stream has not closed
        stay open: of their readings nothing but violations follows.
        """
        state = State(Shards().with_names(["recut"]))
        closed = self._closed()
        past = self._past(self.lake)
        waiting: list[pl.DataFrame] = []
        done = 0
        for lot in self.lake.lots(self.lake.dates("readings"), LOT_ROWS):
            rows = latest(past.of_days(lot)).sort("ts", "meter")
            is_open = rows["end_us"] > closed.of(rows["meter"])
            waiting.append(rows.filter(is_open))
            for turn in rows.filter(~is_open).iter_slices(LOT_ROWS):
                state = self._turn(state, turn, TABLES)
            done += len(lot)
            yield done
        if waiting:
            state = self._turn(state, waiting[0].clear(), TABLES, ended=(_SHARD,))
            self._turn(state, pl.concat(waiting).sort("ts", "meter"), ("violations",))

    def _past(self, lake: LakeReader) -> LakePast:
        return LakePast(lake, self.context.naming, self.context.settings)

    def _closed(self) -> Bound:
        """Up to where the stream has closed each meter's windows; those of meters not heard lately all are."""
        state = state_of(self._past(self.lake), self.context)
        closed = state.closed(self.context.index)
        highest = max(closed.highest, 0)
        return Bound(closed.of_shard.clone().scatter(0, highest), closed.shard_of, closed.floors)

    def _turn(self, state: State, rows: pl.DataFrame, tables: Sequence[str], ended: Sequence[int] = ()) -> State:
        past = self._past(self.aside)
        context = Context(
            self.context.naming, self.context.settings, self.context.windows_kept, past, self.context.silent_s,
            self.context.records,
        )  # fmt: skip
        taken = rows.select(*context.arriving_columns, pl.lit(_SHARD, pl.UInt16).alias("shard"))
        state, results = advance(state, taken, context, ended)
        self._keep(past.tables_of(taken, {}), {name: getattr(results, name) for name in tables})
        return state

    def _keep(self, *tables: Mapping[str, pl.DataFrame]) -> None:
        """Write rows into the lake aside."""
        rows = {name: [frame] for each in tables for name, frame in each.items() if frame.height}
        for folder, frame in parts(rows).items():
            path = self.aside.home / folder
            path.mkdir(parents=True, exist_ok=True)
            write_part(path / f"{len(list(path.iterdir())):06d}.parquet", frame)

    # --- what differs ---

    def days(self) -> list[date]:
        """Local days whose readings the lake holds whole."""
        dates = {day for lake in (self.lake, self.aside) for name in TABLES for day in lake.dates(name)}
        return [day for day in sorted(dates) if self.lake.whole(day)]

    def of_day(self, day: date) -> dict[str, pl.DataFrame]:
        """Rows for the lake that put windows, compliance and load control of a local day right."""
        with self.lake.held():
            stream = {t.name: self.lake.scan(t.name, [day]).collect() for t in (_WINDOWS, _COMPLIANCE, _CONTROL)}
        cut = {name: self.aside.scan(name, [day]).collect() for name in stream}
        return {
            "windows": _windows(stream["windows"], cut["windows"]),
            "compliance": self._compliance(day, stream["compliance"], cut["compliance"]),
            "load_control": _control(stream["load_control"], cut["load_control"]),
        }

    def _compliance(self, day: date, stream: pl.DataFrame, cut: pl.DataFrame) -> pl.DataFrame:
        table = _COMPLIANCE
        was, now = newest(stream, table.key), newest(cut, table.key)
        gone = was.join(now, on=table.key, how="anti")
        zero = [
            (pl.lit(None) if name.endswith(("rate", "power_factor", "kvar_needed")) else pl.lit(0.0)).alias(name)
            for name in table.names
            if name not in (*table.key, *_KEPT, "customer_no", "as_of")
        ]
        wanted = pl.concat([now.select(table.names), table.conform(gone.with_columns(zero)).select(table.names)])
        if not self.lake.whole(day.replace(day=1)):  # what the month's first days held is not known any more
            of_month = [
                n for n in table.names if n.startswith("month_") or n in ("kvar_needed", "projected_power_factor")
            ]
            before = was.select(*table.key, *of_month)
            wanted = wanted.drop(of_month).join(before, on=table.key, how="left").select(table.names)
        compared = [name for name in table.names if name not in (*table.key, *_KEPT)]
        return _revised(was, wanted, differing(was, wanted, table.key, compared), table.key)

    def violations(self) -> pl.DataFrame:
        """Rows for the lake that put violations right, of all days that it holds whole."""
        rules = set(self.context.naming.checks["rule"]) - {*told_apart(self.context.settings.rules)}
        days = self.days()
        if not days:
            return _VIOLATIONS.empty()
        start, _ = day_bounds(days[0], self.context.settings.timezone)
        judged = pl.col("rule").is_in(list(rules)) & (pl.col("started_at") >= start)
        with self.lake.held():
            was = newest(self.lake.scan("violations").filter(judged).collect(), _VIOLATIONS.key)
        now = newest(self.aside.scan("violations").filter(judged).collect(), _VIOLATIONS.key)
        now = now.filter((pl.col("state") != "withdrawn") | pl.col("violation_id").is_in(was["violation_id"].implode()))
        gone = was.filter(pl.col("state") != "withdrawn").join(now, on=_VIOLATIONS.key, how="anti")
        standing = was.join(gone, on=_VIOLATIONS.key, how="anti")
        both = standing.join(now.select(_VIOLATIONS.key), on=_VIOLATIONS.key, how="semi")
        keys = differing(both.with_columns(_again()), now.with_columns(_again()), _VIOLATIONS.key, _TOLD)
        known = both.filter(pl.col("state") != "withdrawn")["violation_id"].implode()
        again = pl.when(pl.col("violation_id").is_in(known)).then(_again()).otherwise("state").alias("state")
        found = _revised(both, now.with_columns(again), keys, _VIOLATIONS.key)
        return pl.concat([found, self._withdrawn(gone)]).sort("at", "violation_id")

    def _withdrawn(self, gone: pl.DataFrame) -> pl.DataFrame:
        """Violations that are none: as the stream withdraws them, and of meters that there are no more as they were."""
        state, revision = pl.lit("withdrawn").alias("state"), (pl.col("revision") + 1).alias("revision")
        known = self._past(self.lake).events(None, datetime(1970, 1, 2, tzinfo=EPOCH.tzinfo))
        told = tell(known.with_columns(state, revision), self.context.meter_versions, self.context.settings)
        told = told.join(gone.select(_VIOLATIONS.key), on=_VIOLATIONS.key, how="semi")
        others = gone.join(told.select(_VIOLATIONS.key), on=_VIOLATIONS.key, how="anti")
        none = pl.lit(None, pl.Int64).alias("duration_s")
        return pl.concat([told, others.with_columns(state, revision, none).select(told.columns)])


def _again() -> pl.Expr:
    """What was raised and is told again: whether it has been updated depends on the order in which readings came."""
    return pl.col("state").replace("raised", "updated")


def _windows(stream: pl.DataFrame, cut: pl.DataFrame) -> pl.DataFrame:
    table = _WINDOWS
    was, now = newest(stream, table.key), newest(cut, table.key)
    standing = was.filter(~withdrawn())
    gone = standing.join(now, on=table.key, how="anti")
    values = [name for name in table.names if name not in (*table.key, *_KEPT)]
    found = _revised(was, now, differing(standing, now, table.key, values), table.key)
    keys = gone.select(*table.key, "customer_no", "date", pl.col("revision") + 1)
    empty = table.conform(keys, n=0, n_expected=0, covered_min=0.0, reason="no reading stands for it any more")
    return pl.concat([found, empty.select(found.columns)])


def _control(stream: pl.DataFrame, cut: pl.DataFrame) -> pl.DataFrame:
    table = _CONTROL
    was, now = newest(stream, table.key), newest(cut, table.key)
    final = pl.col("state") == "final"
    gone = was.filter(final).join(now, on=table.key, how="anti")
    wanted = pl.concat([now, gone.with_columns(state=pl.lit("withdrawn")).select(now.columns)])
    values = [name for name in table.names if name not in (*table.key, *_KEPT)]
    standing = was.join(wanted.select(table.key), on=table.key, how="semi")
    return _revised(was, wanted, differing(standing, wanted, table.key, values), table.key)


def _revised(was: pl.DataFrame, now: pl.DataFrame, keys: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Rows of `now` of some keys, each with the revision after the one that it was emitted with last."""
    before = was.select(*key, last="revision")
    rows = now.join(keys, on=key, how="semi").join(before, on=key, how="left")
    return rows.with_columns(revision=(pl.col("last").fill_null(-1) + 1).cast(pl.Int32)).select(now.columns)
