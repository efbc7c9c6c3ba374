"""The gate between computed frames and published partitions, and the smaller assets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import assets.batch
from assets.batch import Batch, Part, gated
from assets.violations import notices_of, storms_of, violations
from metering.tables import LAKE
from metering.tables.alarms import ALARMS
from metering.vee.findings import FINDINGS
from sinks.marts import day_partition

D1, D2 = date(2026, 3, 2), date(2026, 3, 3)


@pytest.fixture
def empty(
    tmp_path: Path, make_batch_home: Callable[[Path, date, int], Path], batch_of: Callable[[Path], Batch]
) -> Batch:
    return batch_of(make_batch_home(tmp_path / "home", D1, 1))


def kpi(batch: Batch, day: date, status: str = "met", copies: int = 1) -> Part:
    table = batch.tables["kpi"]
    row = {"period": [str(day)], "kpi_id": ["x"], "scope": ["*"], "name_zh": ["甲"], "name_en": ["x"], "unit": ["%"]}
    frame = table.conform(pl.DataFrame(row), status=status, coverage=1.0)
    return Part(day_partition(day), pl.concat([frame] * copies), day)


def test_parts_are_counted_validated_together_and_wait_for_publishing(empty: Batch) -> None:
    told: list[tuple[str, int, int]] = []
    batch = Batch(empty.home, empty.settings, empty.load_registry, lambda *step: told.append(step))
    outcome = gated(batch, batch.tables["kpi"], [D1, D2], [kpi(batch, D1), kpi(batch, D2)])
    assert outcome.verdict.success
    assert outcome.verdict.rows == 2
    assert outcome.rows == {D1: 1, D2: 1}
    assert told == [("kpi", 1, 2), ("kpi", 2, 2)]
    assert batch.marts.files("kpi") == []
    outcome.stage.publish()
    assert len(batch.marts.files("kpi")) == 2


@pytest.mark.parametrize("lot", [1, 5_000_000])
def test_a_row_that_is_not_as_declared_is_kept_out_and_named_and_holds_no_other_up(
    empty: Batch, lot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets.batch, "GATE_ROWS", lot)
    parts = [kpi(empty, D1), kpi(empty, D2, status="good")]
    outcome = gated(empty, empty.tables["kpi"], [D1, D2], parts)
    assert outcome.verdict.success
    outcome.stage.publish()
    assert outcome.rows == {D1: 1, D2: 0}
    assert empty.marts.scan(empty.tables["kpi"]).collect()["period"].to_list() == [str(D1)]
    (found,) = empty.marts.scan(empty.tables["quality_results"]).collect().to_dicts()
    assert (found["date"], found["table_name"], found["severity"], found["failing_rows"]) == (D2, "kpi", "error", 1)
    assert found["rule"] == "status: expect_column_values_to_be_in_set"
    assert found["sample"] == f"period {D2}, kpi_id x, scope *, status good"
    gated(empty, empty.tables["kpi"], [D1, D2], [kpi(empty, D1), kpi(empty, D2)]).stage.publish()
    assert empty.marts.scan(empty.tables["quality_results"]).collect().is_empty()  # mended, so no longer told


def test_a_key_that_is_there_twice_and_a_problem_of_the_part_keep_the_table_back(empty: Batch) -> None:
    assert not gated(empty, empty.tables["kpi"], [D1], [kpi(empty, D1, copies=2)]).verdict.success
    wrong = replace(kpi(empty, D1), problem="stream and readings differ")
    (failure,) = gated(empty, empty.tables["kpi"], [D1], [wrong]).verdict.failures
    assert str(failure) == "stream and readings differ"


def test_findings_are_summed_up_by_rule_and_name_meter_time_and_value(empty: Batch) -> None:
    at = datetime(2026, 3, 2, 2, 15, tzinfo=UTC)
    found = pl.DataFrame(
        [
            {"meter_id": f"M{n}", "window_end": at, "rule": "spike", "severity": "warning", "value": 400.0,
             "limit": 180.0, "detail": "400 kW, third-highest of the day 100 kW"}
            for n in (2, 1)
        ],
        schema=FINDINGS,
    )  # fmt: skip
    outcome = gated(empty, empty.tables["kpi"], [D1], [replace(kpi(empty, D1), findings=found)])
    (row,) = outcome.quality.to_dicts()
    assert (row["rule"], row["severity"], row["failing_rows"]) == ("spike", "warning", 2)
    said = "at 2026-03-02 10:15: 400 kW, third-highest of the day 100 kW"
    assert row["sample"] == f"meter M1 {said}; meter M2 {said}"


def test_nothing_stays_staged_when_computing_fails(empty: Batch) -> None:
    def parts() -> object:
        yield kpi(empty, D1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        gated(empty, empty.tables["kpi"], [D1, D2], parts())
    assert [path for path in empty.marts.root.rglob("*") if path.is_file()] == []


def test_violations_are_the_last_state_of_each_over_the_whole_lake(empty: Batch) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    texts = dict.fromkeys(("severity", "message_zh", "message_en", "ruleset", "unit"), "warning")
    row = {"violation_id": "v", "rule": "over_voltage", "phase": "a", "meter_id": "M1", "customer_no": "C1", **texts}
    for day, state, revision in ((D1, "raised", 0), (D2, "cleared", 1)):
        rows = LAKE["violations"].conform(
            pl.DataFrame([row]), state=state, revision=revision, started_at=at, value=1.0, limit_value=1.0, at=at
        )
        folder = empty.home / "lake" / "violations" / f"date={day}"
        folder.mkdir(parents=True)
        rows.drop("date").write_parquet(folder / "0.parquet")
    (part,) = violations(empty, [D1])
    assert part.rows.select("violation_id", "state", "revision", "date").rows() == [("v", "cleared", 1, D2)]
    assert part.rows.schema == ALARMS.schema


def test_losses_of_one_feeder_are_a_storm_and_a_lone_one_is_none(empty: Batch) -> None:
    at = datetime(2026, 3, 1, 2, tzinfo=UTC)
    texts = dict.fromkeys(("severity", "message_zh", "message_en", "ruleset", "unit"), "warning")
    lost = [("M1", "C1", "F1", 1), ("M2", "C2", "F1", 2), ("M3", "C2", "F1", 9), ("M4", "C1", "F2", 2)]
    rows = [
        {"violation_id": meter, "meter_id": meter, "customer_no": customer, "feeder": feeder, **texts,
         "started_at": at + timedelta(minutes=minute), "storm_id": f"{feeder}/loss/2026-03-01T02:00:00Z"}
        for meter, customer, feeder, minute in lost
    ]  # fmt: skip
    told = LAKE["violations"].conform(
        pl.DataFrame(rows),
        rule="power_off",
        phase="total",
        state="raised",
        revision=0,
        value=1.0,
        limit_value=1.0,
        at=at,
    )
    folder = empty.home / "lake" / "violations" / f"date={D1}"
    folder.mkdir(parents=True)
    told.drop("date").write_parquet(folder / "0.parquet")
    gated(empty, empty.tables["violations"], [D1], violations(empty, [D1])).stage.publish()
    outcome = gated(empty, empty.tables["storms"], [D1], storms_of(empty, [D1]))
    assert outcome.verdict.failures == ()
    outcome.stage.publish()
    now = empty.marts.scan(empty.tables["violations"]).select("meter_id", "storm_id").sort("meter_id").collect()
    assert now["storm_id"].to_list() == [*["F1/loss/2026-03-01T02:00:00Z"] * 3, None]
    storm = empty.marts.scan(empty.tables["storms"]).select("storm_id", "members", "customers", "kva").collect()
    assert storm.rows() == [("F1/loss/2026-03-01T02:00:00Z", 3, 2, 1400.0)]


def test_what_became_of_messages_is_in_the_warehouse_and_stays_there_when_the_lake_has_it_no_more(empty: Batch) -> None:
    at = datetime(2026, 3, 1, 1, tzinfo=UTC)
    words = dict.fromkeys(("channel", "contact", "role", "title", "body"), "调度台")
    row = {"event_class": "outage", "event_state": "raised", "severity": "critical", "language": "zh", "level": 0,
           "state": "sent", "members": 3, "attempts": 1, "event_at": at, "taken_at": at, "at": at, **words}  # fmt: skip
    for day, names in ((D1, ("n1", "n2")), (D2, ("n3",))):
        rows = LAKE["notices"].conform(pl.DataFrame([{**row, "notice_id": name} for name in names]))
        folder = empty.home / "lake" / "notices" / f"date={day}"
        folder.mkdir(parents=True)
        rows.drop("date").write_parquet(folder / "0.parquet")
    table = empty.tables["notices"]
    for taken in (False, True):
        if taken:
            (empty.home / "lake" / "notices" / f"date={D1}" / "0.parquet").unlink()
            (empty.home / "lake" / "taken_until").write_text(str(D1))
        outcome = gated(empty, table, [D1, D2], notices_of(empty, [D1, D2]))
        assert outcome.verdict.failures == ()
        outcome.stage.publish()
        told = empty.marts.read(table, [D1, D2]).select("notice_id", "date", "title").sort("notice_id")
        assert told.rows() == [("n1", D1, "调度台"), ("n2", D1, "调度台"), ("n3", D2, "调度台")]


def test_violations_that_retention_took_out_of_the_lake_stay_as_they_were_published(empty: Batch) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    texts = dict.fromkeys(("severity", "message_zh", "message_en", "ruleset", "unit"), "warning")

    def told(day: date, name: str, revision: int) -> None:
        row = {
            "violation_id": name,
            "rule": "over_voltage",
            "phase": "a",
            "meter_id": "M1",
            "customer_no": "C1",
            **texts,
        }
        rows = LAKE["violations"].conform(
            pl.DataFrame([row]), state="raised", revision=revision, started_at=at, value=1.0, limit_value=1.0, at=at
        )
        folder = empty.home / "lake" / "violations" / f"date={day}"
        folder.mkdir(parents=True, exist_ok=True)
        rows.drop("date").write_parquet(folder / f"{name}.parquet")

    def published() -> list[tuple[str, int]]:
        outcome = gated(empty, ALARMS, [D2], violations(empty, [D2]))
        outcome.stage.publish()
        return sorted(empty.marts.scan(ALARMS).select("violation_id", "revision").collect().rows())

    told(D1, "over", 0)
    told(D1, "goes on", 0)
    told(D2, "new", 0)
    assert published() == [("goes on", 0), ("new", 0), ("over", 0)]
    shutil.rmtree(empty.home / "lake" / "violations" / f"date={D1}")
    empty.lake.mark.write_text(D1.isoformat(), "ascii")
    told(D2, "goes on", 1)
    (empty.home / "lake" / "violations" / f"date={D2}" / "new.parquet").unlink()  # not by retention: the lake is right
    assert published() == [("goes on", 1), ("over", 0)]


def test_kpis_are_there_for_days_and_months_and_every_scope(batch: Batch, days: list[date]) -> None:
    rows = batch.marts.scan(batch.tables["kpi"]).collect()
    assert set(rows["period"]) == {*map(str, days), "2026-03"}
    groups = {"segment:large", "segment:important", "voltage_level_kv:10", "voltage_level_kv:0.38"}
    assert set(rows["scope"]) == {"*", "C1", "C2"} | groups
    assert not rows.select(batch.tables["kpi"].key).is_duplicated().any()
    month = rows.filter(pl.col("period") == "2026-03", pl.col("scope") == "*")
    reading = month.row(by_predicate=pl.col("kpi_id") == "reading_success_rate", named=True)
    assert (reading["value"], reading["status"]) == (100.0, "met")
    assert reading["denominator"] == len(days) * (96 + 1440)
