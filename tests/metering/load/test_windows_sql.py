"""15-minute windows of random readings: against SQL that shares no code with them, in any order, cut and company."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.load.windows import latest, windows
from metering.tables.lake import REGISTERS
from tests.metering.load.readings import SCHEMA, T0, ZONE, Frame, Row, frame

# --- an independent oracle ------------------------------------------------------------------------------------------

ORACLE = """
with r as (  -- the later of two readings of one time
  select * from readings
  qualify row_number() over (partition by meter, ts order by log_offset desc, source_row desc) = 1
), e as (
  select r.*, f.*, epoch_us(ts) as us, (ceil(epoch_us(ts) / 9e8) * 900000000)::bigint as w,
    case when wiring = '1p' then 1 when wiring = '3p3w' then 2 else 3 end as phases,
    case when wiring = '1p' then [ua_v] when wiring = '3p3w' then [ua_v, uc_v] else [ua_v, ub_v, uc_v] end as u
  from r join meter_versions f on f.row = r.version
), g as (
  select meter, w, count(*) as n, count(p_kw) as p_n, ceil(900 / any_value(interval_s)) as n_expected,
    avg(p_kw) as p_mean, max(p_kw) as p_max, min(p_kw) as p_min, avg(q_kvar) as q_mean,
    sum(p_kw) * any_value(interval_s) / 3600 as p_kwh,
    sum(greatest(q_kvar, 0)) filter (q_kvar is not null) * any_value(interval_s) / 3600 as q_import,
    sum(greatest(-q_kvar, 0)) filter (q_kvar is not null) * any_value(interval_s) / 3600 as q_export,
    avg(u[1]) as ua, avg(case wiring when '3p4w' then ub_v end) as ub,
    avg(case when wiring <> '1p' then uc_v end) as uc,
    min(list_min(u)) as u_min, max(list_max(u)) as u_max,
    sum(len(list_filter(u, lambda x : x between 154 and 264))) * any_value(interval_s) / 60 as monitored,
    sum(len(list_filter(u, lambda x : x > u_upper_v and x <= 264))) * any_value(interval_s) / 60 as over,
    sum(len(list_filter(u, lambda x : x < u_lower_v and x >= 154))) * any_value(interval_s) / 60 as under
  from e group by meter, w
), edges as (
  select g.*, case when g.p_n = g.n_expected then g.p_kwh end as whole_kwh,
    s.import_kwh as ie0, t.import_kwh as ie1, s.export_kwh as ee0, t.export_kwh as ee1,
    s.import_kvarh as iq0, t.import_kvarh as iq1, s.export_kvarh as eq0, t.export_kvarh as eq1
  from g left join r s on s.meter = g.meter and epoch_us(s.ts) = g.w - 900000000
         left join r t on t.meter = g.meter and epoch_us(t.ts) = g.w
), d as (
  select *, step(ie0, ie1) as ie, step(ee0, ee1) as ee, step(iq0, iq1) as iq, step(eq0, eq1) as eq from edges
), net as (  -- 20 kWh are one count of the register: 0.01 kWh x 2000
  select *, case when abs(kwh - whole_kwh) > greatest(0.2 * abs(whole_kwh), 20)
      and not coalesce(ee0 is null and ee1 is null and kwh > whole_kwh and p_min < 0, false)
    then null else kwh end as registered
  from (select *, ie - case when ee0 is null and ee1 is null then 0 else ee end as kwh from d)
)
select meter, w, n, n_expected::int, p_mean, p_max, p_min, q_mean,
  coalesce(registered, p_kwh) as energy,
  case when registered is not null then 'registers' when p_kwh is not null then 'power' end as basis,
  iq, eq, q_import, q_export, ua, ub, uc, u_min, u_max, monitored, over, under,
  case when p_mean <> 0 or q_mean <> 0 then abs(p_mean) / sqrt(p_mean ** 2 + q_mean ** 2) end as pf
from net order by meter, w
"""
ON_BY = """
create macro on_by(a, b) as case when b >= a then b - a when b - a + 1e6 <= 1e5 then b - a + 1e6 end
"""
STEP = """
create macro step(a, b) as case when on_by(a, b) <= 1.2 * 7920 / 4 and greatest(a, b) < 1e6 then on_by(a, b) end
"""
COLUMNS = (
    "n", "n_expected", "p_mean_kw", "p_max_kw", "p_min_kw", "q_mean_kvar", "energy_kwh", "energy_basis", "import_kvarh",
    "export_kvarh", "q_import_kvarh", "q_export_kvarh", "ua_mean_v", "ub_mean_v", "uc_mean_v", "u_min_v", "u_max_v",
    "u_monitored_min", "u_over_min", "u_under_min", "pf",
)  # fmt: skip


def _random_rows(seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows: list[Row] = []
    for meter, step in enumerate((1, 1, 5, 15)):
        registers = {name: rng.choice((0.0, 999_980.0, 400_000.0)) for name in REGISTERS}
        for minute in range(0, 240, step):
            for name in REGISTERS:
                registers[name] = (registers[name] + rng.random() * step * (2 if name == "import_kwh" else 1)) % 1e6
                if rng.random() < 0.01:
                    registers[name] = rng.choice((0.0, 990_000.0, 2e6))
            if rng.random() < 0.1:
                continue
            values = {
                "p_kw": rng.uniform(-50, 170), "q_kvar": rng.uniform(-100, 100), **registers,
                **{u: rng.choice((rng.uniform(195, 245), 100.0, 300.0, 220.0)) for u in ("ua_v", "ub_v", "uc_v")},
            }  # fmt: skip
            holes = {name for name in values if rng.random() < 0.04}
            row = {"minute": minute, "meter": meter, **{n: None if n in holes else v for n, v in values.items()}}
            rows.append(row)
            if rng.random() < 0.05:
                rows.append({**row, "p_kw": rng.uniform(0, 10), "import_kwh": None})
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_windows_equal_sql(four_meters: Frame, sql: Callable[..., list[tuple[Any, ...]]], seed: int) -> None:
    readings = frame(_random_rows(seed))
    got = windows(latest(readings), four_meters, ZONE)
    sql(ON_BY)
    sql(STEP)
    known = four_meters.select("wiring", "interval_s", "u_lower_v", "u_upper_v").with_row_index("row")
    expected = sql(ORACLE, readings=readings, meter_versions=known)
    assert got.select("meter", pl.col("window_end").to_physical()).rows() == [row[:2] for row in expected]
    assert {"registers", "power"} <= set(got["energy_basis"])
    for at, name in enumerate(COLUMNS, start=2):
        ours, theirs = got[name].to_list(), [row[at] for row in expected]
        assert ours == [
            v if v is None or isinstance(v, str) else pytest.approx(v, rel=1e-9, abs=1e-9) for v in theirs
        ], name


# --- determinism ----------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_neither_order_nor_cut_nor_other_meters_change_a_window(
    four_meters: Frame, seed: int, data: st.DataObject
) -> None:
    readings = frame(_random_rows(seed))
    whole = windows(latest(readings), four_meters, ZONE)
    shuffled = readings.sample(fraction=1, shuffle=True, seed=seed)
    cut = data.draw(st.integers(0, shuffled.height))
    pieces = pl.concat([shuffled[cut:], shuffled[:cut]], rechunk=False)
    assert windows(latest(pieces), four_meters, ZONE).equals(whole)
    alone = [windows(latest(readings.filter(pl.col("meter") == meter)), four_meters, ZONE) for meter in range(4)]
    assert pl.concat(alone).equals(whole)


def test_latest_is_sorted_and_keeps_every_column(four_meters: Frame) -> None:
    readings = frame(_random_rows(5))
    kept = latest(readings)
    assert kept.columns == readings.columns
    assert kept.select("meter", "ts").equals(kept.select("meter", "ts").unique().sort("meter", "ts"))
    assert latest(kept).equals(kept)


def test_of_two_readings_of_a_time_the_later_in_its_partition_counts_and_of_two_partitions_the_later_logged() -> None:
    places = [(0, 900, 10), (0, 901, 20), (1, 3, 30), (1, 2, 40)]  # partition, offset, minute it was logged at
    rows = frame([{"minute": 1, "p_kw": float(n), "log_offset": at} for n, (_, at, _) in enumerate(places)])
    rows = rows.with_columns(
        pl.Series("source_partition", [partition for partition, _, _ in places], pl.Int32),
        logged_at=pl.Series([T0 + timedelta(minutes=minute) for _, _, minute in places], dtype=SCHEMA["ts"]),
    )
    assert latest(rows)["p_kw"].to_list() == [2.0]  # not offset 901, nor what was logged last but came before
    assert latest(rows.filter(pl.col("source_partition") == 0))["p_kw"].to_list() == [1.0]
    assert latest(rows.with_columns(logged_at=pl.lit(T0)))["p_kw"].to_list() == [2.0]  # the higher partition
