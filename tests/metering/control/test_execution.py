"""Targets, baselines and verdicts equal an account by hand; a day is settled from its quarter-hours."""

from __future__ import annotations

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
from metering.control.execution import control_daily, executed, judged, projected, settlement
from metering.control.plans import ANSWERS, TARGETS, holding, precedence, targets
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.control import LOAD_CONTROL
from metering.tables.schema import no_rows
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


def message(plan: account.Plan) -> dict[str, Any]:
    figures = plan["figures"]
    by_name = {
        name: {no: figure[name] for no, figure in figures.items() if name in figure}
        for name in ("cap_kw", "reduction_kw", "protected_kw")
    }
    return {
        "plan_id": plan["plan_id"], "revision": plan["revision"], "state": plan["state"], "level": "orange",
        "from": plan["from"].isoformat(), "to": plan["to"].isoformat(), "issued_at": plan["issued_at"].isoformat(),
        "customers": list(figures), **{name: values for name, values in by_name.items() if values},
    }  # fmt: skip


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
    found = targets(account.plans_of(*map(message, plans)), NO_ANSWERS, versions, "last_5")
    ends = quarter_hours(DAY, TZ)["window_end"]
    keys = pl.DataFrame({"customer_no": ["C1", "C2"]}).join(ends.to_frame(), how="cross")
    start = ends[0] - timedelta(minutes=15)
    of_day = load.filter(pl.col("window_end") > start)
    held = holding(found, keys)
    base = baselines(held, load.filter(pl.col("window_end") <= start), found, versions, metering_settings)
    done = executed(held, of_day, base, versions, metering_settings)
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


# --- single rules ---------------------------------------------------------------------------------------------------


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
    found = baselines(wanted, load, no_rows(TARGETS), versions, metering_settings)
    assert dict(found.select("baseline", "baseline_kw").iter_rows()) == {"last_5": 320.0, "high_5_of_10": 700.0}
    strict = replace(metering_settings.control.baseline["last_5"], min_days=5)
    control = replace(metering_settings.control, baseline={"last_5": strict})
    few = load.filter(pl.col("p_kw") >= 500)
    got = baselines(
        wanted.head(1),
        few.filter(pl.col("p_kw") < 5000).filter(pl.col("p_kw") > 500),
        no_rows(TARGETS),
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


def overlapping(*plans: tuple[str, float | None, float | None], customer: str = "C1") -> pl.DataFrame:
    """One quarter-hour of each plan: what was instructed and achieved [kW]."""
    (end,) = quarter_hours(DAY, TZ)["window_end"].to_list()[40:41]
    return LOAD_CONTROL.conform(
        pl.DataFrame(
            plans, schema={"plan_id": pl.String, "instructed_kw": pl.Float64, "achieved_kw": pl.Float64}, orient="row"
        ).with_columns(pl.when(pl.col("instructed_kw").is_not_null()).then(1000.0).alias("baseline_kw")),
        customer_no=customer, window_end=end, kind="demand_response", state="final", baseline_method="last_5",
        baseline_days=5, meters=1, meters_due=1, plan_revision=1, revision=0, date=DAY, as_of=end, compliant=True,
        protected_kw=700.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("plans", "settled"),
    [
        ((("B", 200.0, 500.0), ("A", 200.0, 500.0)), {"B": 200.0, "A": 200.0}),
        ((("B", 200.0, 300.0), ("A", 200.0, 300.0)), {"B": 200.0, "A": 100.0}),
        ((("B", 200.0, 150.0), ("A", 200.0, 150.0)), {"B": 150.0, "A": 0.0}),
        ((("B", None, None), ("A", 200.0, 150.0)), {"B": None, "A": 150.0}),
        ((("B", 200.0, 350.0), ("A", 100.0, 350.0), ("stranger", 100.0, 350.0)), {"B": 200, "A": 100, "stranger": 50}),
    ],
)
def test_what_overlapping_plans_ask_for_is_settled_once(
    plans: tuple[tuple[str, float | None, float | None], ...], settled: dict[str, float | None]
) -> None:
    rows = pl.concat([overlapping(*plans), overlapping(("A", 200.0, 150.0), customer="C2")])
    days = control_daily(rows.reverse(), no_rows(ANSWERS), places={"B": 0, "A": 1})
    mine = days.filter(pl.col("customer_no") == "C1")
    found = dict(mine.select("plan_id", pl.col("settled_kwh") * 4).iter_rows())
    assert found == settled
    own = {plan: None if asked is None or got is None else min(asked, got) * 0.25 for plan, asked, got in plans}
    assert dict(mine.select("plan_id", "counted_kwh").iter_rows()) == own, "execution is each plan's own"
    assert days.filter(pl.col("customer_no") == "C2")["settled_kwh"].to_list() == [37.5]


def test_which_plan_a_reduction_counts_for_first_is_a_setting() -> None:
    at = datetime(2026, 3, 17, 9, tzinfo=UTC)
    plans = pl.DataFrame(
        [
            ("old", 1, at, "orderly_usage", "blue"), ("old", 2, at + timedelta(hours=9), "orderly_usage", "orange"),
            ("new", 1, at + timedelta(hours=1), "demand_response", None),
            ("red", 1, at + timedelta(hours=2), "orderly_usage", "red"),
        ],
        schema={"plan_id": pl.String, "revision": pl.Int32, "issued_at": pl.Datetime("us", "UTC"), "kind": pl.String,
                "level": pl.String},
        orient="row",
    )  # fmt: skip
    for first, wanted in (
        (["issued"], ["old", "new", "red"]), (["kind", "issued"], ["new", "old", "red"]),
        (["level"], ["red", "old", "new"]),
    ):  # fmt: skip
        assert list(precedence(plans, first)) == wanted


def test_a_plan_is_settled_as_the_sum_of_its_days() -> None:
    first = overlapping(("A", 200.0, 150.0), ("B", 300.0, None))
    second = first.with_columns(pl.col("window_end", "as_of", "date").dt.offset_by("1d"))
    asked = {"plan_id": "A", "customer_no": "C1", "first_us": 0, "last_us": 2**60, "reduction_kw": 400.0}
    targets = pl.concat([no_rows(TARGETS), pl.DataFrame([asked])], how="diagonal_relaxed")
    days = pl.concat([control_daily(rows, no_rows(ANSWERS), found=targets) for rows in (first, second)])
    by_plan = {row["plan_id"]: row for row in settlement(days).to_dicts()}
    plan = by_plan["A"]
    assert (plan["first_date"], plan["date"], plan["days"], plan["windows"]) == (DAY, DAY + timedelta(days=1), 2, 2)
    assert (plan["offered_kwh"], plan["instructed_kwh"], plan["settled_kwh"]) == (200.0, 100.0, 75.0)
    assert (plan["execution_rate"], plan["data_rate"]) == (75.0, 100.0)
    assert plan["availability_rate"] == 0.0, "300 kW of 400 could be cut"
    assert (by_plan["B"]["availability_rate"], by_plan["B"]["settled_kwh"]) == (100.0, None)


def test_coverage_is_the_peak_of_the_equipped_of_the_peak_of_all(make_curve: Builder, make_customers: Builder) -> None:
    customers = make_customers({"A": {"controllable": True}, "B": {}, "C": {"controllable": True}})
    curves = {"A": [100.0] * 48 + [400.0] * 48, "B": [500.0] * 48 + [100.0] * 48, "C": [None] * 96}
    curve = pl.concat([make_curve(no, DAY, values) for no, values in curves.items()])
    rows = {row["customer_no"]: row for row in control_coverage(curve, customers, DAY).to_dicts()}
    assert (rows["*"]["p_max_kw"], rows["*"]["controllable_kw"]) == (600.0, 400.0)
    assert (rows["A"]["controllable_kw"], rows["B"]["controllable_kw"]) == (400.0, 0.0)
    assert rows["C"]["controllable_kw"] is None
