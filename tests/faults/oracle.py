"""What a log should come to: an account of its own, in DuckDB SQL over the messages as they stand in the topic.

Here: which lines count, final windows, compliance sums, and (reading by reading) violations. Nothing of `metering`,
`pipelines` or `sinks` is used. Not here: reading topics and lake, and comparing (`verdict`).

Rules: a reading belongs to the version of its meter that is valid then, and registers are continuous within one;
watermark = running maximum of ts in offset order, by partition, less five minutes; a reading is late when its
window's end is not after the watermark at that reading; a window's revision is the number of late readings folded in,
those at its start edge included. Voltage limits: GB/T 12325-2008, 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import duckdb
import polars as pl

FIELDS = (
    "ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh", "export_kwh", "import_kvarh",
    "export_kvarh",
)  # fmt: skip

_READINGS = f"""
create table parsed as
select partition, "offset", row, logged_us,
  json_extract_string(j, [{", ".join(f"'$.{n}'" for n in ("meter_id", "ts", *FIELDS))}]) as v,
  json_type(j, [{", ".join(f"'$.{n}'" for n in ("meter_id", "ts", *FIELDS))}]) as t,
  case when t[1] = 'VARCHAR' then v[1] end as named,
  case when t[2] = 'VARCHAR' then epoch_us(try_cast(v[2] as timestamptz))
    when t[2] in ('DOUBLE', 'UBIGINT', 'BIGINT') then round(try_cast(v[2] as double) * 1000)::bigint end as ts
from (select *, case when json_valid(line) then line::json end as j from log);

create table judged as
select partition, "offset", row, logged_us, meter_id, customer_no, wiring, nominal_v, interval_s, from_us, ts,
  {", ".join(f"try_cast(v[{i}] as double) as {n}" for i, n in enumerate(FIELDS, 3))},
  coalesce(meter_id is not null and ts <= logged_us + 300000000
    and {" and ".join(f"(t[{i}] is null or t[{i}] in ('NULL', 'DOUBLE', 'UBIGINT', 'BIGINT')) and coalesce(isfinite(try_cast(v[{i}] as double)), true)" for i in range(3, 3 + len(FIELDS)))}
    , false) as good
from parsed left join meter_versions on meter_id = named and ts > from_us and ts <= coalesce(to_us, 9e18::bigint);

create table r as
select *, (slot + 899999999) // 900000000 * 900000000 as w, row_number() over log_order as pos,
  max(ts) over log_order - 300000000 as wm
from (  -- a stamp up to a tenth of the interval after a slot's end, at most a minute, still belongs to that slot
  select *, (ts - least(interval_s * 100000, 60000000) + interval_s * 1000000 - 1) // (interval_s * 1000000)
    * interval_s * 1000000 as slot
  from judged
) where good window log_order as (partition by partition order by "offset", row);

create table counted as  -- of two readings of a time the later in its partition counts, of two partitions' the later
with last as (
  select * from r qualify row_number() over (partition by meter_id, ts, partition order by "offset" desc, row desc) = 1
)
select *, slot is distinct from lead(slot) over (partition by meter_id order by ts) as answers from (
  select * from last qualify row_number() over (partition by meter_id, ts order by logged_us desc, partition desc) = 1
);

create table answering as select * replace (slot as ts) from counted where answers;  -- the last of each slot
"""  # noqa: E501

_WINDOWS = """
create macro step(a, b) as case when b >= a then b - a when b - a + 1e6 between 0 and 1e5 then b - a + 1e6 end;

create table lateness as
with own as (select meter_id, w, min(pos) as first_pos, count(*) filter (w <= wm) as late,
    bool_or(w > wm) as punctual from r group by all),
edge as (select r.meter_id, own.w, count(*) as late from r join own
    on own.meter_id = r.meter_id and own.w = r.w + 900000000
    where r.slot = r.w and r.wm >= own.w and r.pos > own.first_pos group by all)
select own.meter_id, own.w, own.late + coalesce(edge.late, 0) as revision, own.punctual
from own left join edge using (meter_id, w);

create table windows as
with shut as (select partition, max(wm) as wm from r group by all),
u as (
  select c.*, case wiring when '1p' then [ua_v] when '3p3w' then [ua_v, uc_v] else [ua_v, ub_v, uc_v] end as u
  from counted c join shut using (partition) join limits on true where c.w <= shut.wm or ends
), g as (
  select meter_id, any_value(customer_no) as customer_no, w, count(*) filter (answers) as n, count(p_kw) filter (answers) as p_n,
    ceil(900 / any_value(interval_s))::int as n_expected, any_value(nominal_v) as nominal_v,
    any_value(interval_s) as interval_s,
    any_value(from_us) as from_us,
    avg(p_kw) filter (answers) as p_mean_kw, max(p_kw) as p_max_kw, min(p_kw) as p_min_kw, avg(q_kvar) filter (answers) as q_mean_kvar,
    sum(p_kw * interval_s / 3600) filter (answers) as p_kwh,
    sum(greatest(q_kvar, 0) * interval_s / 3600) filter (answers and q_kvar is not null) as q_import_kvarh,
    sum(greatest(-q_kvar, 0) * interval_s / 3600) filter (answers and q_kvar is not null) as q_export_kvarh,
    avg(ua_v) filter (answers) as ua_mean_v, avg(case wiring when '3p4w' then ub_v end) filter (answers) as ub_mean_v,
    avg(case when wiring <> '1p' then uc_v end) filter (answers) as uc_mean_v, min(list_min(u)) as u_min_v, max(list_max(u)) as u_max_v,
    sum(len(list_filter(u, lambda x : x between nominal_v * 0.7 and nominal_v * 1.2)) * interval_s / 60) filter (answers) as u_monitored_min,
    sum(len(list_filter(u, lambda x : x > nominal_v * 1.07 and x <= nominal_v * 1.2)) * interval_s / 60) filter (answers) as u_over_min,
    sum(len(list_filter(u, lambda x : x < nominal_v * 0.93 and x >= nominal_v * 0.7)) * interval_s / 60) filter (answers) as u_under_min
  from u group by meter_id, w
), e as (
  select g.*, step(s.import_kwh, t.import_kwh) as imported, step(s.export_kwh, t.export_kwh) as exported,
    s.export_kwh is null and t.export_kwh is null as no_export,
    step(s.import_kvarh, t.import_kvarh) as import_kvarh, step(s.export_kvarh, t.export_kvarh) as export_kvarh
  from g left join answering s on s.meter_id = g.meter_id and s.from_us = g.from_us and s.ts = g.w - 900000000
    left join answering t on t.meter_id = g.meter_id and t.from_us = g.from_us and t.ts = g.w
), net as (  -- registers near power where that is whole: within a fifth, or one count of 0.01 kWh times 100 and 20
  select *, case when p_n = n_expected and abs(kwh - p_kwh) > greatest(0.2 * abs(p_kwh), 20) then null else kwh end as registered
  from (select *, imported - case when no_export then 0 else exported end as kwh from e)
)
select net.* exclude (imported, exported, no_export, p_kwh, p_n, kwh, registered, nominal_v, interval_s, from_us),
  coalesce(registered, p_kwh) as energy_kwh,
  case when registered is not null then 'registers' when p_kwh is not null then 'power' end as energy_basis,
  n * interval_s / 60 as covered_min,
  (u_min_v - nominal_v) / nominal_v * 100 as u_dev_min_pct, (u_max_v - nominal_v) / nominal_v * 100 as u_dev_max_pct,
  abs(p_mean_kw) / sqrt(p_mean_kw ** 2 + q_mean_kvar ** 2) as pf, revision, revision + punctual::int as emissions,
  (make_timestamp(w - 1) + interval 8 hour)::date as date
from net join lateness using (meter_id, w);
"""  # noqa: E501

_COMPLIANCE = """
create table compliance as
with day as (
  select meter_id, date, max(w) as as_of, sum(emissions) as emissions, sum(u_monitored_min) as monitored_min,
    sum(u_over_min) as over_min, sum(u_under_min) as under_min, coalesce(sum(energy_kwh), 0) as active_kwh,
    coalesce(sum(coalesce(import_kvarh, q_import_kvarh)), 0) as import_kvarh,
    coalesce(sum(coalesce(export_kvarh, q_export_kvarh)), 0) as export_kvarh
  from windows group by meter_id, date
), sums as (
  select meter_id, date, as_of, sum(emissions) over m - 1 as revision, {day}, {month}
  from day window m as (partition by meter_id, date_trunc('month', date) order by date)
)
select *, (1 - (day_over_min + day_under_min) / nullif(day_monitored_min, 0)) * 100 as day_qualification_rate,
  (1 - (month_over_min + month_under_min) / nullif(month_monitored_min, 0)) * 100 as month_qualification_rate
from sums;
"""
_SUMS = ("monitored_min", "over_min", "under_min", "active_kwh", "import_kvarh", "export_kvarh")

_SAID = """
with said as (
  select meter_id, ts, interval_s, unnest([
    {'rule': 'over_voltage', 'phase': 'a', 'value': ua_v, 'lim': nominal_v * 1.2, 'side': 1},
    {'rule': 'over_voltage', 'phase': 'b', 'value': case wiring when '3p4w' then ub_v end, 'lim': nominal_v * 1.2, 'side': 1},
    {'rule': 'over_voltage', 'phase': 'c', 'value': case when wiring <> '1p' then uc_v end, 'lim': nominal_v * 1.2, 'side': 1},
    {'rule': 'under_voltage', 'phase': 'a', 'value': ua_v, 'lim': nominal_v * 0.78, 'side': -1},
    {'rule': 'under_voltage', 'phase': 'b', 'value': case wiring when '3p4w' then ub_v end, 'lim': nominal_v * 0.78, 'side': -1},
    {'rule': 'under_voltage', 'phase': 'c', 'value': case when wiring <> '1p' then uc_v end, 'lim': nominal_v * 0.78, 'side': -1},
    {'rule': 'over_capacity', 'phase': 'total', 'value': sqrt(p_kw ** 2 + q_kvar ** 2), 'lim': capacity_kva, 'side': 1},
    {'rule': 'low_power_factor', 'phase': 'total', 'side': -1, 'lim': pf_standard, 'value':
       case when sqrt(p_kw ** 2 + q_kvar ** 2) > 0.05 * capacity_kva then abs(p_kw) / sqrt(p_kw ** 2 + q_kvar ** 2) end}
  ], recursive := true) from answering join limits on true
)
select meter_id, rule, phase, side, interval_s, lim, ts, value,
  case when side * value > side * lim then 1 when side * value <= side * lim * (1 - 0.02 * side) then -1 else 0 end as says
from said where value is not null
qualify bool_or(side * value > side * lim) over (partition by meter_id, rule, phase)
order by meter_id, rule, phase, ts
"""  # noqa: E501
_FLICKER_S = 900
_HOLD_S = {"over_voltage": 60, "under_voltage": 60, "over_capacity": 900, "low_power_factor": 900}
RULES = tuple(_HOLD_S)
"""Those that are accounted for."""


@dataclass(frozen=True)
class Expected:
    """`positions`: every line of the log and whether it counts. Times are epoch microseconds."""

    positions: pl.DataFrame
    windows: pl.DataFrame
    compliance: pl.DataFrame
    violations: pl.DataFrame


def expected(
    log: pl.DataFrame,
    meter_versions: Sequence[dict[str, Any]],
    capacity_kva: float,
    pf_standard: float,
    ends: bool = False,
) -> Expected:
    """What comes of `log` (partition, offset, row, logged_us, line) for meters with `meter_versions`.

    `ends`: nothing will follow (files), so every window is closed.
    """
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("log", log.to_arrow())
        connection.register("meter_versions", pl.DataFrame(list(meter_versions)).to_arrow())
        limits = pl.DataFrame({"capacity_kva": [capacity_kva], "pf_standard": [pf_standard], "ends": [ends]})
        connection.register("limits", limits.to_arrow())
        spans = {
            "day": ", ".join(f"{name} as day_{name}" for name in _SUMS),
            "month": ", ".join(f"sum({name}) over m as month_{name}" for name in _SUMS),
        }
        for script in (_READINGS, _WINDOWS, _COMPLIANCE.format(**spans)):
            connection.execute(script)
        positions = 'select partition, "offset", row, good, meter_id, ts, p_kw from judged'
        frames = [_frame(connection, query) for query in (positions, "from windows", "from compliance")]
        said = connection.execute(_SAID).fetchall()
    return Expected(*frames, pl.DataFrame(list(_violations(said)), schema=_VIOLATION_SCHEMA, orient="row"))


def _frame(connection: duckdb.DuckDBPyConnection, query: str) -> pl.DataFrame:
    frame = pl.from_arrow(connection.sql(query).to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


_VIOLATION_SCHEMA = {
    "meter_id": pl.String, "rule": pl.String, "phase": pl.String, "started_at": pl.Int64, "ended_at": pl.Int64,
    "value": pl.Float64, "limit_value": pl.Float64, "occurrences": pl.Int64,
}  # fmt: skip


def _violations(said: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Reading by reading in order of time: what stands in the end, cleared or still open. What comes back soon is the
    same violation once more.
    """
    for (meter, rule, phase), rows in groupby(said, key=lambda row: row[:3]):
        run, run_start, held, extreme, previous = 0, 0, 0, 0.0, None
        open_: list[Any] | None = None
        cleared: list[Any] | None = None
        soon_us = (_FLICKER_S + _HOLD_S[rule]) * 1_000_000
        until = 0
        for *_, side, interval_s, limit, ts, value, says in rows:
            if previous is None or says != run or ts - previous > 1.5e6 * interval_s:
                run, run_start, held, extreme = says, ts - interval_s * 1_000_000, 0, value
            held, previous = held + interval_s, ts
            extreme = max(extreme, value, key=lambda x, side=side: x * side)
            if open_ is None and run == 1 and held >= _HOLD_S[rule]:
                if cleared is not None and ts <= until:
                    worst = max(cleared[5], extreme, key=lambda x, side=side: x * side)
                    open_, cleared = [*cleared[:4], None, worst, cleared[6], cleared[7] + 1], None
                else:
                    if cleared is not None:
                        yield tuple(cleared)
                    open_, cleared = [meter, rule, phase, run_start, None, extreme, limit, 1], None
            elif open_ is not None and run == -1 and held >= _HOLD_S[rule]:
                open_[4] = run_start
                open_, cleared, until = None, open_, ts + soon_us
            elif open_ is not None:
                open_[5] = max(open_[5], value, key=lambda x, side=side: x * side)
        yield from (tuple(last) for last in (cleared, open_) if last is not None)
