"""The tables of a day in plain DuckDB SQL, from the same Parquet, on one thread.

    python daily_sql.py HOME DAY OUT.duckdb

It leaves out what the day does not need: gaps are not estimated (there are none), tariffs and limits are written in as
figures, registers do not roll over. Meters are exchanged at midnight, so a day has one version of each.
"""

import sys

import duckdb

TABLES = (
    "daily_curve", "daily_load", "voltage_daily", "power_factor_monthly", "violations", "kpi", "reconciliation",
)  # fmt: skip

_INPUT = """
create table customers as from read_csv('{home}/registry/customers.csv');
create table meters as from read_csv('{home}/registry/meters.csv', types = {{'meter_id': 'VARCHAR'}})
where valid_from <= date '{day}' and coalesce(valid_to >= date '{day}', true);
create temp table r as
select meter_id, ts, to_timestamp(ceil(epoch(ts) / 900) * 900) as window_end, p_kw, q_kvar, ua_v, ub_v, uc_v,
  import_kwh, import_kvarh, meters.customer_no, nominal_v, interval_s
from read_parquet('{home}/lake/readings/*/*.parquet') join meters using (meter_id)
where ts > timestamptz '{day} 00:00:00' - interval 15 minute and ts <= timestamptz '{day} 00:00:00' + interval 1 day
qualify row_number() over (partition by meter_id, ts order by source_offset desc, source_row desc) = 1;
"""
_WINDOWS = """
create table windows as
with g as (
  select meter_id, any_value(customer_no) as customer_no, window_end, count(*)::int as n,
    ceil(900 / any_value(interval_s))::int as n_expected,
    avg(p_kw) as p_mean_kw, max(p_kw) as p_max_kw, min(p_kw) as p_min_kw, avg(q_kvar) as q_mean_kvar,
    sum(p_kw) * any_value(interval_s) / 3600 as p_kwh,
    sum(greatest(q_kvar, 0)) * any_value(interval_s) / 3600 as q_import_kvarh,
    -sum(least(q_kvar, 0)) * any_value(interval_s) / 3600 as q_export_kvarh,
    avg(ua_v) as ua_mean_v, avg(ub_v) as ub_mean_v, avg(uc_v) as uc_mean_v,
    min(least(ua_v, ub_v, uc_v)) as u_min_v, max(greatest(ua_v, ub_v, uc_v)) as u_max_v,
    sum((ua_v between 0.7 * nominal_v and 1.2 * nominal_v)::int
      + (ub_v between 0.7 * nominal_v and 1.2 * nominal_v)::int
      + (uc_v between 0.7 * nominal_v and 1.2 * nominal_v)::int) * any_value(interval_s) / 60 as u_monitored_min,
    max(import_kwh) filter (ts = window_end) as import_end, max(import_kvarh) filter (ts = window_end) as kvarh_end
  from r group by meter_id, window_end
), e as (
  select *, import_end - lag(import_end) over m as imported, kvarh_end - lag(kvarh_end) over m as import_kvarh
  from g window m as (partition by meter_id order by window_end)
)
select * exclude (imported, import_end, kvarh_end, p_kwh), coalesce(imported, p_kwh) as energy_kwh,
  abs(p_mean_kw) / sqrt(p_mean_kw ** 2 + q_mean_kvar ** 2) as pf
from e where window_end > timestamptz '{day} 00:00:00';
"""
_CURVE = """
create table daily_curve as
with points as (select range as point, timestamptz '{day} 00:00:00' + range * interval 15 minute as window_end
  from range(1, 97))
select customer_no, date '{day}' as date, point, window_end,
  sum(coalesce(4 * energy_kwh, p_mean_kw)) as p_kw, sum(q_mean_kvar) as q_kvar,
  sum(energy_kwh) as energy_kwh,
  case when count(n) < count(*) then 'missing' when bool_and(n >= n_expected) then 'validated' else 'raw' end as status
from meters cross join points left join windows using (meter_id, window_end, customer_no)
group by customer_no, point, window_end order by all;
"""
_LOAD = """
create table daily_load as
with every as (
  from daily_curve union all by name
  select '*' as customer_no, date, point, window_end, sum(p_kw) as p_kw, sum(q_kvar) as q_kvar,
    sum(energy_kwh) as energy_kwh from daily_curve group by date, point, window_end
), came as (
  select customer_no, sum(least(n, n_expected)) as received from windows group by customer_no
), due as (
  select customer_no, sum(86400 // interval_s) as expected from meters group by customer_no
), complete as (
  select customer_no, received / expected as completeness from due join came using (customer_no)
  union all select '*', sum(received) / sum(expected) from due join came using (customer_no)
), timed as (
  select *, hour(window_end - interval 15 minute) as h from every
)
select customer_no, date, sum(energy_kwh) as energy_kwh, max(p_kw) as p_max_kw,
  arg_max(window_end, (p_kw, -point)) as p_max_at, min(p_kw) as p_min_kw,
  arg_min(window_end, (p_kw, point)) as p_min_at, avg(p_kw) as p_mean_kw, avg(p_kw) / max(p_kw) as load_factor,
  min(p_kw) / max(p_kw) as min_rate, max(p_kw) - min(p_kw) as peak_valley_kw,
  (max(p_kw) - min(p_kw)) / max(p_kw) as peak_valley_rate, max(p_kw) as demand_max_kw, 'block' as demand_basis,
  coalesce(sum(energy_kwh) filter (h between 8 and 10 or h between 18 and 22), 0) as energy_peak_kwh,
  coalesce(sum(energy_kwh) filter (h < 7 or h = 23), 0) as energy_valley_kwh,
  coalesce(sum(energy_kwh) filter (h = 7 or h between 11 and 17), 0) as energy_flat_kwh,
  0.0 as energy_sharp_kwh, 0.0 as energy_deep_valley_kwh, any_value(completeness) as completeness
from timed join complete using (customer_no) group by customer_no, date order by all;
"""
_VOLTAGE = """
create table voltage_daily as
with u as (
  select meter_id, customer_no, nominal_v, interval_s / 60 as minutes, unnest(['a', 'b', 'c']) as phase,
    unnest([ua_v, ub_v, uc_v]) as u
  from r where ts > timestamptz '{day} 00:00:00'
), inside as (
  from u where u between 0.7 * nominal_v and 1.2 * nominal_v
)
select meter_id, customer_no, date '{day}' as date, phase, sum(minutes) as monitored_min,
  coalesce(sum(minutes) filter (u > 1.07 * nominal_v), 0) as over_min,
  coalesce(sum(minutes) filter (u < 0.93 * nominal_v), 0) as under_min,
  (1 - (coalesce(sum(minutes) filter (u > 1.07 * nominal_v), 0)
    + coalesce(sum(minutes) filter (u < 0.93 * nominal_v), 0)) / sum(minutes)) * 100 as qualification_rate,
  min(u) as u_min_v, max(u) as u_max_v
from inside group by meter_id, customer_no, phase order by all;
"""
_POWER_FACTOR = """
create table power_factor_monthly as
with e as (
  select customer_no, sum(energy_kwh) as active_kwh, sum(coalesce(import_kvarh, q_import_kvarh)) as import_kvarh,
    sum(q_export_kvarh) as export_kvarh
  from windows group by customer_no
), f as (
  select *, floor(abs(active_kwh) / sqrt(active_kwh ** 2 + (import_kvarh + export_kvarh) ** 2) * 100 + 0.5) / 100
    as power_factor from e
), n as (
  select f.*, pf_standard, round(pf_standard * 100)::int - round(power_factor * 100)::int as short
  from f join customers using (customer_no)
)
select customer_no, date_trunc('month', date '{day}') as month, active_kwh, import_kvarh, export_kvarh, power_factor,
  pf_standard, greatest(least(short, 20), 0) * 0.5 + greatest(least(short - 20, 5), 0) * 1.0
    + greatest(short - 25, 0) * 2.0 - least(0.75, greatest(-short, 0) * 0.15) as adjustment_pct
from n order by all;
"""
_VIOLATIONS = """
create table violations as
from read_parquet('{home}/lake/violations/*/*.parquet')
qualify row_number() over (partition by violation_id order by revision desc) = 1 order by violation_id;
"""
_KPI = """
create table kpi as
with slots as (
  select customer_no, meter_id, 86400 // interval_s as expected, coalesce(received, 0) as received
  from meters left join (
    select meter_id, sum(least(n, n_expected)) as received from windows group by 1) using (meter_id)
), scopes as (
  select customer_no, unnest([customer_no::varchar, '*', 'segment:' || segment, 'feeder:' || feeder,
    'voltage_level_kv:' || regexp_replace(voltage_level_kv::double::varchar, '\\.0$', ''),
    'manager:' || manager]) as scope
  from customers
), of_scopes as (from scopes where scope is not null), s as (
  select scope as customer_no, expected, received from slots join of_scopes using (customer_no)
), v as (
  select scope as customer_no, monitored_min, over_min + under_min as out_min
  from voltage_daily join of_scopes using (customer_no)
), e as (
  select scope as customer_no, active_kwh, import_kvarh + export_kvarh as q
  from power_factor_monthly join of_scopes using (customer_no)
), counts as (
  select 'reading_success_rate' as kpi_id, customer_no, sum(received) as numerator, sum(expected) as denominator,
    1.0 as coverage, 100.0 as target, 100 as scale from s group by customer_no
  union all by name select 'monitoring_coverage' as kpi_id, customer_no, count(*) filter (received > 0) as numerator,
    count(*) as denominator, 1.0 as coverage, 100.0 as target, 100 as scale from s group by customer_no
  union all by name select k.kpi_id, customer_no, sum(monitored_min - out_min) as numerator,
    sum(monitored_min) as denominator, sum(monitored_min) / (count(*) * 1440) as coverage,
    any_value(k.target) as target,
    100 as scale
  from v cross join (values ('voltage_qualification_monitoring', 98.0), ('voltage_qualification_service', 98.5))
    as k(kpi_id, target) group by k.kpi_id, customer_no
  union all by name select 'power_factor' as kpi_id, customer_no, abs(sum(active_kwh)) as numerator,
    sqrt(sum(active_kwh) ** 2 + sum(q) ** 2) as denominator, 1.0 as coverage, 0.9 as target, 1 as scale
  from e group by customer_no
  union all by name select 'load_forecast_accuracy' as kpi_id, customer_no, null as numerator, null as denominator,
    0.0 as coverage, 98.2 as target, 100 as scale from (select distinct customer_no from s)
    where not contains(customer_no, ':')
), valued as (
  select *, case when kpi_id = 'power_factor' then floor(numerator / denominator * 100 + 0.5) / 100
    else numerator * scale / denominator end as value from counts
)
select period, kpi_id, customer_no as scope, numerator, denominator, value, target,
  case when value is null then 'no_data' when value >= target then 'met' else 'missed' end as status, coverage
from valued cross join (values ('{day}'), (strftime(date '{day}', '%Y-%m'))) as p(period)
order by period, kpi_id, scope;
"""
_RECONCILIATION = """
create table reconciliation as
with stream as (
  from read_parquet('{home}/lake/windows/date={day}/*.parquet')
  qualify row_number() over (partition by meter_id, window_end order by revision desc) = 1
), days as (
  from read_parquet('{home}/lake/compliance/date={day}/*.parquet')
  qualify row_number() over (partition by meter_id order by revision desc) = 1
), sums as (
  select meter_id, sum(energy_kwh) as active_kwh, sum(u_monitored_min) as monitored_min from windows group by meter_id
)
select date '{day}' as date, 'windows' as table_name, count(stream.n) as stream_rows, count(b.n) as batch_rows,
  count(*) filter (not coalesce({same}, false)) as differing_rows
from stream full join windows b using (meter_id, window_end)
where window_end <= (select max(ts) from r) - interval 5 minute
union all
select date '{day}', 'compliance', count(days.as_of), count(sums.active_kwh), count(*) filter (not coalesce(
  abs(day_active_kwh - active_kwh) <= 1e-6 * abs(active_kwh) and day_monitored_min = monitored_min, false))
from days full join sums using (meter_id);
"""
_SAME = " and ".join(
    f"abs(stream.{name} - b.{name}) <= 1e-9 * greatest(abs(stream.{name}), abs(b.{name}))"
    for name in (
        "n", "p_mean_kw", "p_max_kw", "p_min_kw", "q_mean_kvar", "energy_kwh", "q_import_kvarh", "ua_mean_v",
        "ub_mean_v", "uc_mean_v", "u_min_v", "u_max_v", "u_monitored_min", "pf",
    )
)  # fmt: skip


def main() -> None:
    home, day, out = sys.argv[1:4]
    with duckdb.connect(out, config={"threads": 1}) as connection:
        connection.execute("set TimeZone = 'Asia/Shanghai'")
        for script in (
            _INPUT, _WINDOWS, _CURVE, _LOAD, _VOLTAGE, _POWER_FACTOR, _VIOLATIONS, _KPI, _RECONCILIATION,
        ):  # fmt: skip
            connection.execute(script.format(home=home, day=day, same=_SAME))


if __name__ == "__main__":
    main()
