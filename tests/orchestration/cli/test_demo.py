"""`kilowatch demo`, as a newcomer runs it: from nothing to the KPI table, on files and through Kafka, and again."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestration.cli import cli
from orchestration.kafka import broker
from sinks.lake.reader import LakeReader

READINGS_A_METER_AND_DAY = 1440


def _demo(home: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["demo", "--home", str(home), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Where to look next" in result.output
    return result.output


@pytest.fixture
def stream_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the batch, which takes most of a small demo's time."""
    monkeypatch.setattr("orchestration.cli.materialize.materialize", lambda *_: None)
    monkeypatch.setattr("orchestration.cli.demo._show_kpis", lambda *_: None)


def _streamed(home: Path, output: str) -> int:
    """Readings in the lake; all that were said to come are there, accepted or rejected, and none of another run."""
    (said,) = (line for line in output.splitlines() if line.startswith("2/4 streaming"))
    expected = int(said.split()[2].replace(",", ""))
    lake = LakeReader(home)
    with lake.held():
        counts = [lake.scan(name, lake.dates(name)).collect().height for name in ("readings", "rejects")]
    assert sum(counts) == expected
    return expected


def _ids(home: Path) -> set[str]:
    lake = LakeReader(home)
    with lake.held():
        return set(lake.scan("readings", lake.dates("readings")).collect()["meter_id"])


def test_a_demo_from_nothing_to_the_kpi_table(tmp_path: Path) -> None:
    output = _demo(tmp_path / "home", "--customers", "2", "--days", "1")
    assert _streamed(tmp_path / "home", output) > READINGS_A_METER_AND_DAY
    assert "KPI 2026-03-02" in output


def test_a_demo_on_the_home_of_another(tmp_path: Path, stream_only: None) -> None:
    home = tmp_path / "home"
    first = _streamed(home, _demo(home, "--customers", "3", "--days", "1"))
    second = _streamed(home, _demo(home, "--customers", "1", "--days", "1"))
    assert READINGS_A_METER_AND_DAY / 2 < second < first


def test_somebodys_own_home_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kilowatch.toml").touch()
    result = CliRunner().invoke(cli, ["demo", "--home", str(tmp_path)])
    assert result.exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["kilowatch.toml"]


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_second_demo_through_kafka_reads_what_it_sent_itself(
    kafka_jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with monkeypatch.context() as stream_only:
        stream_only.setattr("orchestration.cli.materialize.materialize", lambda *_: None)
        stream_only.setattr("orchestration.cli.demo._show_kpis", lambda *_: None)
        first = _streamed(home, _demo(home, "--kafka", "--customers", "1", "--days", "1"))
    meters = _ids(home)
    assert broker.status(home) is None
    output = _demo(home, "--kafka", "--customers", "3", "--days", "1")
    assert "KPI 2026-03-02" in output
    assert _streamed(home, output) > first
    assert len(_ids(home)) > len(meters)


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_demos_on_a_cluster_have_topics_of_their_own(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream_only: None
) -> None:
    monkeypatch.setenv("KILOWATCH_BOOTSTRAP_SERVERS", kafka)
    for customers in ("2", "1"):
        output = _demo(tmp_path / "home", "--kafka", "--customers", customers, "--days", "1")
        assert "topics of this run: demo-" in output
        _streamed(tmp_path / "home", output)
    assert not (tmp_path / "home" / "broker").exists()
