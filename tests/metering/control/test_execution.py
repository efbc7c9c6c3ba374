"""Targets, baselines and verdicts equal an account by hand; a day is settled from its quarter-hours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.calendar import quarter_hours
from metering.control.baseline import LOAD_SCHEMA, baselines, customer_load
from metering.control.coverage import control_coverage
from metering.control.execution import control_daily, executed, instructed, judged, projected
from metering.control.plans import ANSWERS, holding, parse_plan, targets
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.control import LOAD_CONTROL
from tests.metering.control import account

Builder = Callable[..., pl.DataFrame]
TZ = "Asia/Shanghai"
ZONE = ZoneInfo(TZ)
DAY = date(2026, 3, 18)  # a Wednesday
BEFORE = 12
NOON = datetime(2026, 3, 18, 12, tzinfo=ZONE)
NO_ANSWERS = pl.DataFrame(schema=ANSWERS)


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    customers = make_customers({"C1": {}, "C2": {}})
    return make_meter_versions(
        customers,
        {
            "330200000001": {"customer_no": "C1"},
            "330200000002": {"customer_no": "C1"},
            "330200000003": {"customer_no": "C1", "role": "check"},
            "330200000004": {"customer_no": "C2"},
        },
    )


def coded(windows: pl.DataFrame, versions: pl.DataFrame) -> pl.DataFrame:
    index = MeterIndex.of(versions)
    rows = windows.with_columns(index.code(windows["meter_id"]))
    return rows.with_columns(index.version_of_window(rows["meter"], rows["window_end"]))


def power_of(day: date, level: float) -> list[float]:
    return [level + (n % 7) for n in range(96)]


def message(plan: account.Plan) -> bytes:
    figures = plan["figures"]
    return json.dumps(
        {
            "plan_id": plan["plan_id"], "revision": plan["revision"], "state": plan["state"], "level": "orange",
            "from": plan["from"].isoformat(), "to": plan["to"].isoformat(), "issued_at": plan["issued_at"].isoformat(),
            "customers": [{"customer_no": no, **figure} for no, figure in figures.items()],
        }
    ).encode()  # fmt: skip


MINUTES = st.integers(-60 * 24 * 5, 60 * 11)
FIGURES = st.one_of(
    st.fixed_dictionaries({"cap_kw": st.integers(0, 300).map(float)}, optional={"protected_kw": st.just(150.0)}),
    st.fixed_dictionaries({"reduction_kw": st.integers(0, 300).map(float)}, optional={"protected_kw": st.just(150.0)}),
)


@st.composite
def revisions(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for plan_id in ("P-1", "P-2"):
        for revision in range(draw(st.integers(0, 3))):
            begin = NOON + timedelta(minutes=draw(MINUTES))
            found.append(
                {
                    "plan_id": plan_id,
                    "revision": revision,
                    "state": draw(st.sampled_from(["active", "active", "withdrawn"])),
                    "from": begin,
                    "to": begin + timedelta(minutes=draw(st.integers(1, 600))),
                    "issued_at": NOON + timedelta(minutes=draw(MINUTES), seconds=revision),
                    "figures": draw(st.dictionaries(st.sampled_from(["C1", "C2"]), FIGURES, min_size=1)),
                }
            )
    return found


@settings(max_examples=40)
@given(
    plans=revisions(),
    levels=st.lists(st.integers(100, 400), min_size=BEFORE + 1, max_size=BEFORE + 1),
    missing=st.sets(st.tuples(st.integers(0, BEFORE), st.integers(0, 95)), max_size=3),
)
def test_a_day_equals_the_account_by_hand(
    plans: list[dict[str, Any]],
    levels: list[int],
    missing: set[tuple[int, int]],
    versions: pl.DataFrame,
    make_windows: Builder,
    metering_settings: MeteringSettings,
) -> None:
    days = [DAY - timedelta(days=BEFORE - n) for n in range(BEFORE + 1)]
    frames, power = [], {}
    for n, day in enumerate(days):
        ends = quarter_hours(day, TZ)["window_end"].to_list()
        values: list[float | None] = list(power_of(day, levels[n]))
        for meter, customer, factor in (
            ("330200000001", "C1", 0.25), ("330200000002", "C1", 0.75), ("330200000003", "C1", 1.0),
            ("330200000004", "C2", 1.5),
        ):  # fmt: skip
            lost = [None if (n, slot) in missing and factor == 0.75 else v for slot, v in enumerate(values)]
            frames.append(make_windows(meter, customer, day, [v and v * factor for v in lost]))
        for slot, (end, value) in enumerate(zip(ends, values, strict=True)):
            if (n, slot) not in missing:
                power["C1", end] = value
            power["C2", end] = (value or 0.0) * 1.5
    load = customer_load(coded(pl.concat(frames), versions), versions)
    rows = [parse_plan(message(plan), TZ) for plan in plans]
    found = targets(pl.concat([*rows, parse_plan(message(_nothing()), TZ).clear()]), NO_ANSWERS, versions, "last_5")
    ends = quarter_hours(DAY, TZ)["window_end"]
    keys = pl.DataFrame({"customer_no": ["C1", "C2"]}).join(ends.to_frame(), how="cross")
    start = ends[0] - timedelta(minutes=15)
    of_day = load.filter(pl.col("window_end") > start)
    done = executed(keys, of_day, load.filter(pl.col("window_end") <= start), found, versions, metering_settings)
    told = {(row["plan_id"], row["customer_no"], row["window_end"]): row for row in done.to_dicts()}

    def off(day: date) -> bool:
        return day in metering_settings.holidays or (day.weekday() > 4 and day not in metering_settings.workdays)

    expected = 0
    for customer in ("C1", "C2"):
        eligible = account.reference_days(plans, customer, DAY, power, off, ZONE)[:5]
        for plan_id in ("P-1", "P-2"):
            for end in ends:
                held = account.target(plans, plan_id, customer, end)
                if held is None:
                    assert (plan_id, customer, end) not in told
                    continue
                expected += 1
                revision, superseded = held
                row = told[plan_id, customer, end]
                base = account.baseline(eligible, customer, end, power, ZONE)
                wanted = account.execution(revision["figures"][customer], base, power.get((customer, end)))
                for name in ("cap_kw", "instructed_kw", "achieved_kw"):
                    assert row[name] == pytest.approx(wanted[name], abs=1e-5), (name, row)
                assert row["compliant"] == wanted["compliant"], row
                assert row["baseline_kw"] == pytest.approx(base, abs=1e-5)
                assert (row["plan_revision"], row["revision"]) == (revision["revision"], superseded)
                assert row["baseline_days"] == len(eligible)
    assert expected == done.height


def _nothing() -> dict[str, Any]:
    return {
        "plan_id": "P", "revision": 0, "state": "active", "from": NOON, "to": NOON + timedelta(hours=1),
        "issued_at": NOON, "figures": {"C1": {"cap_kw": 1.0}},
    }  # fmt: skip


# --- single rules ---------------------------------------------------------------------------------------------------


def plan(**changed: Any) -> pl.DataFrame:
    given = {
        "plan_id": "P-1", "revision": 1, "kind": "orderly_usage", "from": "2026-03-18T10:00:00+08:00",
        "to": "2026-03-18T12:00:00+08:00", "issued_at": "2026-03-17T16:00:00+08:00", "customers": ["C1"], "cap_kw": 500,
    }  # fmt: skip
    return parse_plan(json.dumps({k: v for k, v in {**given, **changed}.items() if v is not None}), TZ)


def held(found: pl.DataFrame) -> list[tuple[str, str, str]]:
    """plan, customer and local end of each window that is under a plan, first and last of a stretch."""
    ends = pl.concat([quarter_hours(DAY, TZ)["window_end"]]).to_frame()
    keys = found.select("customer_no").unique(maintain_order=True).join(ends, how="cross")
    rows = holding(found, keys).with_columns(
        pl.col("window_end").dt.convert_time_zone(TZ).dt.strftime("%H:%M").alias("at")
    )
    return rows.select("plan_id", "customer_no", "at").rows()


def test_a_feeders_figures_are_shared_by_capacity_and_named_customers_are_asked_once(
    make_customers: Builder, make_meter_versions: Builder
) -> None:
    customers = make_customers(
        {
            "C1": {"feeder": "F-1", "contract_capacity_kva": 1000.0},
            "C2": {"feeder": "F-1", "contract_capacity_kva": 3000.0},
            "C3": {"feeder": "F-1", "contract_capacity_kva": 9000.0},
            "C4": {"feeder": "F-2"},
        }
    )
    meters = {f"33020000001{n}": {"customer_no": f"C{n}"} for n in (1, 2, 3, 4)}
    versions = make_meter_versions(customers, meters)
    rows = plan(customers=["C3"], cap_kw=None, reduction_kw={"C3": 50, "F-1": 400}, feeders=["F-1"])
    found = targets(rows, NO_ANSWERS, versions, "last_5")
    assert dict(found.select("customer_no", "reduction_kw").iter_rows()) == {"C1": 100.0, "C2": 300.0, "C3": 50.0}


def test_only_whole_quarter_hours_count_and_a_revision_holds_for_windows_that_end_after_it(
    versions: pl.DataFrame,
) -> None:
    first = plan(**{"from": "2026-03-18T10:05:00+08:00", "to": "2026-03-18T11:10:00+08:00"})
    assert [at for *_, at in held(targets(first, NO_ANSWERS, versions, "last_5"))] == ["10:30", "10:45", "11:00"]
    withdrawn = plan(revision=2, state="withdrawn", issued_at="2026-03-18T10:50:00+08:00", customers=None, cap_kw=None)
    found = targets(pl.concat([plan(), withdrawn]), NO_ANSWERS, versions, "last_5")
    assert [at for *_, at in held(found)] == ["10:15", "10:30", "10:45"]
    exactly = plan(revision=2, state="withdrawn", issued_at="2026-03-18T10:45:00+08:00")
    found = targets(pl.concat([exactly, plan()]), NO_ANSWERS, versions, "last_5")
    assert [at for *_, at in held(found)] == ["10:15", "10:30", "10:45"]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("demand_response", ["10:15", "10:30", "11:30", "11:45", "12:00"]),
        ("orderly_usage", ["10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45", "12:00"]),
    ],
)
def test_demand_response_can_be_refused_and_orderly_usage_cannot(
    kind: str, wanted: list[str], versions: pl.DataFrame
) -> None:
    at = datetime(2026, 3, 18, 2, 40, tzinfo=UTC)
    answers = pl.DataFrame(
        [("P-1", "C1", at, "opted_out"), ("P-1", "C1", at + timedelta(minutes=35), "accepted")],
        schema=ANSWERS,
        orient="row",
    )
    assert [at for *_, at in held(targets(plan(kind=kind), answers, versions, "last_5"))] == wanted


def test_what_is_protected_is_never_cut(make_customers: Builder, make_meter_versions: Builder) -> None:
    versions = make_meter_versions(
        make_customers({"C1": {"protected_kw": 200.0}}), {"330200000001": {"customer_no": "C1"}}
    )
    for figures in ({"cap_kw": 50}, {"cap_kw": None, "reduction_kw": 900}):
        found = targets(plan(**figures), NO_ANSWERS, versions, "last_5")
        assert found["protected_kw"].to_list() == [200.0]
        rows = instructed(found.with_columns(baseline_kw=pl.lit(500.0)))
        assert rows.select("cap_kw", "instructed_kw").row(0) == (200.0, 300.0)


def test_baseline_methods_are_rows(versions: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    """Of eleven workdays before: the last five, and the five of most energy of the last ten."""
    workdays = [DAY - timedelta(days=n) for n in range(1, 16) if (DAY - timedelta(days=n)).weekday() < 5][:11]
    levels = [100.0, 200.0, 900.0, 300.0, 100.0, 700.0, 800.0, 100.0, 600.0, 500.0, 5000.0]
    frames = [
        quarter_hours(day, TZ).with_columns(
            pl.lit("C2").alias("customer_no"), pl.lit(level).alias("p_kw"), meters=1, late=0, whole=1.0
        )
        for day, level in zip(workdays, levels, strict=True)
    ]
    load = pl.concat(frames).select(LOAD_SCHEMA.names()).cast(LOAD_SCHEMA)
    wanted = pl.DataFrame({"customer_no": ["C2"] * 2, "window_end": [NOON] * 2, "baseline": ["last_5", "high_5_of_10"]})
    wanted = wanted.cast({"window_end": pl.Datetime("us", "UTC")})
    found = baselines(
        wanted, load, targets(plan().clear(), NO_ANSWERS, versions, "last_5"), versions, metering_settings
    )
    assert dict(found.select("baseline", "baseline_kw").iter_rows()) == {"last_5": 320.0, "high_5_of_10": 700.0}
    strict = replace(metering_settings.control.baseline["last_5"], min_days=5)
    control = replace(metering_settings.control, baseline={"last_5": strict})
    few = load.filter(pl.col("p_kw") >= 500)
    got = baselines(
        wanted.head(1),
        few.filter(pl.col("p_kw") < 5000).filter(pl.col("p_kw") > 500),
        targets(plan().clear(), NO_ANSWERS, versions, "last_5"),
        versions,
        replace(metering_settings, control=control),
    )
    assert got["baseline_kw"].to_list() == [None]


def test_the_projection_goes_on_as_it_is() -> None:
    assert pl.select(projected(pl.lit(800.0), pl.lit(300), pl.lit(1100.0))).item() == 1000.0
    assert pl.select(projected(pl.lit(800.0), pl.lit(900), pl.lit(1.0))).item() == 800.0


def test_a_meter_that_is_not_known_leaves_no_verdict() -> None:
    rows = pl.DataFrame(
        {"baseline_kw": [900.0] * 2, "actual_kw": [400.0] * 2, "projected_kw": [400.0] * 2, "cap_kw": [500.0] * 2,
         "meters": [1, 2], "meters_due": [2, 2]}
    )  # fmt: skip
    assert judged(rows).select("compliant", "achieved_kw").rows() == [(None, None), (True, 500.0)]


def test_a_day_is_settled_from_its_quarter_hours() -> None:
    ends = quarter_hours(DAY, TZ)["window_end"].to_list()[40:45]
    rows = LOAD_CONTROL.conform(
        pl.DataFrame(
            {
                "window_end": ends,
                "state": ["final", "final", "final", "final", "withdrawn"],
                "baseline_kw": [1000.0, 1000.0, 1000.0, 1000.0, 1000.0],
                "instructed_kw": [400.0, 400.0, 0.0, 400.0, 400.0],
                "actual_kw": [500.0, 800.0, 1100.0, None, 0.0],
                "achieved_kw": [500.0, 200.0, 0.0, None, 1000.0],
                "compliant": [True, False, False, None, True],
                "protected_kw": [100.0] * 5,
                "baseline_days": [5, 4, 5, 5, 5],
            }
        ),
        plan_id="P-1", customer_no="C1", kind="demand_response", baseline_method="last_5", meters=1, meters_due=1,
        plan_revision=1, revision=0, date=DAY, as_of=ends[0],
    )  # fmt: skip
    at = datetime(2026, 3, 17, 9, tzinfo=UTC)
    answers = pl.DataFrame([("P-1", "C1", at, "accepted")], schema=ANSWERS, orient="row")
    (day,) = control_daily(rows, answers).to_dicts()
    assert (day["windows"], day["known_windows"], day["compliant_windows"]) == (4, 3, 1)
    assert (day["instructed_kwh"], day["achieved_kwh"], day["counted_kwh"]) == (200.0, 175.0, 150.0)
    assert day["execution_rate"] == 75.0
    assert (day["baseline_kwh"], day["actual_kwh"], day["available_kw"]) == (750.0, 600.0, 900.0)
    assert (day["baseline_days"], day["answer"], day["answered_at"]) == (4, "accepted", at)


def test_coverage_is_the_peak_of_the_equipped_of_the_peak_of_all(make_curve: Builder, make_customers: Builder) -> None:
    customers = make_customers({"A": {"controllable": True}, "B": {}, "C": {"controllable": True}})
    curves = {"A": [100.0] * 48 + [400.0] * 48, "B": [500.0] * 48 + [100.0] * 48, "C": [None] * 96}
    curve = pl.concat([make_curve(no, DAY, values) for no, values in curves.items()])
    rows = {row["customer_no"]: row for row in control_coverage(curve, customers, DAY).to_dicts()}
    assert (rows["*"]["p_max_kw"], rows["*"]["controllable_kw"]) == (600.0, 400.0)
    assert (rows["A"]["controllable_kw"], rows["B"]["controllable_kw"]) == (400.0, 0.0)
    assert rows["C"]["controllable_kw"] is None
