"""Lake and topics against the oracle: what is lost, what stands twice, what differs.

Not here: the oracle itself, the faults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tests.faults.harness import Home
from tests.faults.oracle import RULES, Expected
from tests.faults.topics import last_by_key, read_topic

KEYS = {"windows": ["meter_id", "window_end"], "violations": ["violation_id"], "compliance": ["meter_id", "date"]}
SILENCE = "reading_missing"
"""What depends on when it was looked at, and so on when a run was killed."""
_STEP = 0.015
"""Of an open violation its worst value is told in steps of 1 % of the limit."""
_POSITION = ["partition", "offset", "row"]
_TIMES = {"window_end": "w", "as_of": "as_of"}


@dataclass
class Verdict:
    """Counts of what is not as it should be; all 0 when the promise is kept. `compared`: how much there was."""

    lost: int = 0
    duplicated: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        return self.lost == self.duplicated == 0 and not any(self.differing.values())

    def note(self, what: str, wrong: pl.DataFrame, of: int) -> None:
        self.differing[what] = wrong.height
        self.compared[what] = of
        if wrong.height:
            self.examples.append(f"{what}: {wrong.height} of {of}, such as {wrong.row(0, named=True)}")


def final(home: Home, table: str) -> pl.DataFrame:
    """The current value of every key of a lake table, sorted by key."""
    key = ", ".join(KEYS[table])
    return home.frame(
        f"select * from {home.lake(table)} qualify row_number() over (partition by {key} order by revision desc) = 1 "
        f"order by {key}"
    )


def judge(home: Home, address: str, prefix: str, account: Expected) -> Verdict:
    """Compare everything that the run left."""
    verdict = Verdict()
    _positions(home, account, verdict)
    for table in KEYS:
        _revisions(home, table, verdict)
        _topic(home, address, prefix, table, verdict)
    _windows(home, account, verdict)
    _compliance(home, account, verdict)
    _violations(home, account, verdict)
    _rejected(address, prefix, account, verdict)
    return verdict


def judge_files(home: Home, account: Expected) -> Verdict:
    """Compare the lake that a stream over files left; where a line stood is the stream's to say, so what it said is."""
    verdict = Verdict()
    place = "source, source_partition, source_offset, source_row"
    held = home.frame(
        f"select {place}, meter_id, epoch_us(ts) as ts, p_kw, true as good from {home.lake('readings')} union all "
        f"select {place}, null, null, null, false from {home.lake('rejects')}"
    )
    verdict.duplicated = held.height - held.select(place.split(", ")).n_unique()
    verdict.lost = max(0, account.positions.height - held.height)
    value = ["meter_id", "ts", "p_kw"]
    wanted = account.positions.filter("good").group_by(value).agg(due=pl.len())
    found = held.filter("good").group_by(value).agg(here=pl.len())
    both = wanted.join(found, on=value, how="full", coalesce=True, nulls_equal=True)
    verdict.note("readings", both.filter(~pl.col("due").eq_missing(pl.col("here"))), wanted.height)
    for table in KEYS:
        _revisions(home, table, verdict)
    _windows(home, account, verdict)
    _compliance(home, account, verdict)
    _violations(home, account, verdict)
    return verdict


def _positions(home: Home, account: Expected, verdict: Verdict) -> None:
    place = "source_partition as partition, source_offset as offset, source_row as row"
    accepted = home.frame(f"select {place}, epoch_us(ts) as ts, p_kw, true as good from {home.lake('readings')}")
    rejected = home.frame(f"select {place}, null::bigint as ts, null::double as p_kw, false as good "
                          f"from {home.lake('rejects')}")  # fmt: skip
    held = pl.concat([accepted, rejected])
    verdict.duplicated = held.height - held.select(_POSITION).n_unique()
    verdict.lost = account.positions.join(held, on=_POSITION, how="anti").height
    both = account.positions.join(held, on=_POSITION, how="full", suffix="_held", coalesce=True)
    same = pl.col("good").eq_missing(pl.col("good_held")) & (
        ~pl.col("good") | (pl.col("ts").eq_missing(pl.col("ts_held")) & pl.col("p_kw").eq_missing(pl.col("p_kw_held")))
    )
    verdict.note("readings and rejects", both.filter(~same), account.positions.height)


def _revisions(home: Home, table: str, verdict: Verdict) -> None:
    """Append-only with revisions: no key has one twice."""
    key = ", ".join(KEYS[table])
    twice = home.frame(
        f"select {key}, revision, count(*) as n from {home.lake(table)} group by all having count(*) > 1"
    )
    verdict.note(f"revisions of {table}", twice, home.rows(table))


def _topic(home: Home, address: str, prefix: str, table: str, verdict: Verdict) -> None:
    """A keyed consumer ends with the lake's current rows."""
    lake = final(home, table)
    values = [json.loads(value) for value in last_by_key(address, f"{prefix}.{table}").values()]
    schema = {name: pl.String if dtype.is_temporal() else dtype for name, dtype in lake.schema.items()}
    told = pl.DataFrame([{name: value[name] for name in schema} for value in values], schema=schema)
    told = told.with_columns(_parsed(name, dtype) for name, dtype in lake.schema.items() if dtype.is_temporal())
    told = told.cast(lake.schema).sort(KEYS[table])
    wrong = pl.concat([told.join(lake, on=lake.columns, how="anti", nulls_equal=True),
                       lake.join(told, on=lake.columns, how="anti", nulls_equal=True)])  # fmt: skip
    verdict.note(f"topic of {table}", wrong, lake.height)


def _parsed(name: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Date):
        return pl.col(name).str.to_date()
    return pl.col(name).str.to_datetime(time_unit="us", time_zone="UTC")


def _windows(home: Home, account: Expected, verdict: Verdict) -> None:
    lake = final(home, "windows").with_columns(w=pl.col("window_end").dt.epoch("us")).drop("window_end")
    wanted = account.windows.drop("emissions", "date")
    verdict.note("windows", _unlike(wanted, lake, ["meter_id", "w"], 1e-9), wanted.height)


def _compliance(home: Home, account: Expected, verdict: Verdict) -> None:
    lake = final(home, "compliance").with_columns(pl.col("as_of").dt.epoch("us"), pl.col("date").cast(pl.Date))
    # Sums are kept in thousandths of a Wh: each window may be rounded.
    wrong = _unlike(account.compliance, lake, ["meter_id", "date"], 1e-4)
    verdict.note("compliance", wrong, account.compliance.height)


def _violations(home: Home, account: Expected, verdict: Verdict) -> None:
    lake = final(home, "violations").filter(pl.col("state") != "withdrawn", pl.col("rule").is_in(RULES))
    lake = lake.with_columns(pl.col("started_at", "ended_at").dt.epoch("us"))
    key = ["meter_id", "rule", "phase", "started_at"]
    over = pl.col("ended_at").is_not_null()
    for name, which, within in (("violations", over, 1e-9), ("open violations", ~over, _STEP)):
        wanted = account.violations.filter(which)
        verdict.note(name, _unlike(wanted, lake.filter(which), key, within), wanted.height)
    ended = (lake["state"] == "cleared") == lake["ended_at"].is_not_null()
    verdict.note("states of violations", lake.filter(~ended), lake.height)


def _rejected(address: str, prefix: str, account: Expected, verdict: Verdict) -> None:
    """Every rejected line is on its topic, and nothing else is."""
    values = [json.loads(message.value() or b"{}") for message in read_topic(address, f"{prefix}.rejected")]
    names = ("source_partition", "source_offset", "source_row")
    schema = {name: account.positions.schema[name] for name in _POSITION}
    told = pl.DataFrame([[v[n] for n in names] for v in values], schema=schema, orient="row").unique()
    wanted = account.positions.filter(~pl.col("good")).select(_POSITION)
    wrong = pl.concat([wanted.join(told, on=_POSITION, how="anti"), told.join(wanted, on=_POSITION, how="anti")])
    verdict.note("topic of rejects", wrong, wanted.height)


def _unlike(wanted: pl.DataFrame, found: pl.DataFrame, key: Sequence[str], tolerance: float) -> pl.DataFrame:
    """Rows that only one side has, or whose values differ: floats by more than `tolerance` (absolute and relative)."""
    values = [name for name in wanted.columns if name not in key]
    found = found.select(*key, *values)
    found = found.cast({name: wanted.schema[name] for name in key})  # type: ignore[arg-type]
    marked = found.with_columns(here=pl.lit(True))
    both = wanted.with_columns(due=pl.lit(True)).join(marked, on=key, how="full", suffix="_found", coalesce=True)
    same = [
        pl.col("due").is_not_null() & pl.col("here").is_not_null(),
        *(_same(n, wanted.schema, tolerance) for n in values),
    ]
    return both.filter(~pl.all_horizontal(same))


def _same(name: str, schema: Mapping[str, Any], tolerance: float) -> pl.Expr:
    ours, theirs = pl.col(name), pl.col(f"{name}_found")
    if not schema[name].is_numeric():
        return ours.eq_missing(theirs)
    close = (ours - theirs).abs() <= tolerance * (1 + ours.abs())
    return (ours.is_null() & theirs.is_null()) | close.fill_null(False)
