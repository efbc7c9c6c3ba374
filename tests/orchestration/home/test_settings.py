"""Settings: each source overrides the one before, and what cannot be used is refused in one line that names the key."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from metering.errors import SettingsError
from orchestration.home.settings import DEFAULTS, explained_defaults, load_settings
from pipelines.flow.settings import StreamOptions, StreamSettings


def test_file_overrides_defaults_and_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(tmp_path).timezone == "Asia/Shanghai"
    text = 'timezone = "Europe/Berlin"\n[stream]\nlateness_s = 60\nbatch_rows = 10\n[kafka]\n"client.id" = "a"\n'
    (tmp_path / "kilowatch.toml").write_text(text, "utf-8")
    monkeypatch.setenv("KILOWATCH_STREAM__BATCH_ROWS", "20")
    settings = load_settings(tmp_path)
    assert (settings.timezone, settings.stream.lateness_s, settings.stream.batch_rows) == ("Europe/Berlin", 60, 20)
    assert settings.stream.windows_kept == load_settings(tmp_path / "other").stream.windows_kept
    assert settings.kafka == {"client.id": "a"}


def test_defaults_of_the_stream_stand_in_one_file_as_in_the_other(tmp_path: Path) -> None:
    written = tomllib.loads(DEFAULTS.read_text("utf-8"))["stream"]
    assert written.keys() == {field.name for field in fields(StreamOptions)}
    assert load_settings(tmp_path).stream == StreamOptions()


def test_settings_of_the_stream_are_handed_down_whole(tmp_path: Path) -> None:
    """Each figure set to another than its default arrives, whatever figures there are."""
    others = {field.name: field.default + 1 for field in fields(StreamOptions)}
    text = "".join(f"{name} = {value}\n" for name, value in others.items())
    (tmp_path / "kilowatch.toml").write_text(f"[stream]\n{text}", "utf-8")
    settings = load_settings(tmp_path)
    handed = StreamSettings.of(settings.metering, settings.stream)
    assert {name: getattr(handed, name) for name in others} == others
    assert handed.silent_s == 8 * 86_400
    assert handed.metering == settings.metering
    core = ("lateness_s", "future_tolerance_s", "gap_intervals")
    assert {name: getattr(handed.metering, name) for name in core} == {name: others[name] for name in core}


def test_every_setting_of_the_stream_is_explained_with_its_bounds() -> None:
    lines = {line.partition(" = ")[0]: line for line in explained_defaults().splitlines()}
    for field in fields(StreamOptions):
        assert " # " in lines[field.name], field.name
    assert "more from all partitions (at least 0, at most 1000)" in lines["linger_ms"]
    assert tomllib.loads(explained_defaults()) == tomllib.loads(DEFAULTS.read_text("utf-8"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timezone = 'Mars/Base'", "timezone"),
        ("nix = 1", "nix"),
        ("[stream]\nlateness_s = -1", "stream.lateness_s"),
        ("[stream]\nnix = 1", "stream.nix"),
        ("[stream]\nlinger_ms = 1001", "stream.linger_ms"),
        ("[stream]\nlinger_ms = -1", "stream.linger_ms"),
        ("[stream]\nlinger_ms = 0.5", "stream.linger_ms"),
        ("[stream]\nsilent_days = 0.5", "stream.silent_days"),
        ("[topics]\nreadings = ''", "topics.readings"),
        ("[kpi]\nnix = { target = 1 }", "no KPI 'nix'"),
        ("[forecast]\nhistory_days = 0", "history_days"),
        (
            "[[tariffs]]\nname = 'x'\neffective_from = 2020-01-01\ndefault_period = 'flat'\n"
            "hours = [{ period = 'peak', start = '25:00', end = '26:00' }]",
            "25:00",
        ),
        ("[[tariffs]]\nname = 'x'\neffective_from = 2020-01-01\ndefault_period = 'Flat X'", "Flat X"),
        (
            "[[prices]]\ncomponent = 'x'\nname_zh = '附加'\neffective_from = 2020-01-01\nper = 'kWh'\nclause = ''",
            "x: give one of price, by_period, by_month, by_hour, by_quarter_hour; there are none",
        ),
        ("[[settlement]]\neffective_from = 2020-01-01\nclause = ''\nreset_day = 31", "reset_day must be from 1 to 28"),
        ("basic_charge = []", "basic_charge: Value error, there must be at least one row"),
        (
            "[[rules]]\nid = 'over_voltage'\nstart = '1.2'",
            "kilowatch.toml or KILOWATCH_* settings: rules 1 (over_voltage)",
        ),
        ("rules = 1", "rules"),
        ("[[rulesets]]\nname = 'x'", "rulesets 1: a rule set needs a name and effective_from"),
        ("not toml", "not valid TOML"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kilowatch.toml").write_text(text, "utf-8")
    with pytest.raises(SettingsError) as raised:
        load_settings(tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("KILOWATCH_TIMEZON", "KILOWATCH_TIMEZONE"),
        ("KILOWATCH_BOOTSTRAP_SERVER", "KILOWATCH_BOOTSTRAP_SERVERS"),
        ("KILOWATCH_STREAMS__BATCH_ROWS", "KILOWATCH_STREAM__BATCH_ROWS"),
        ("KILOWATCH_STREAM_BATCH_ROWS", "KILOWATCH_STREAM"),
        ("KILOWATCH_HOMES", "KILOWATCH_HOME"),
        ("kilowatch_hom", "KILOWATCH_HOME"),
        ("KILOWATCH_STREAM__BATCH_ROW", "stream.batch_row"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError) as raised:
        load_settings(tmp_path)
    message = str(raised.value)
    assert said in message
    assert variable in message or "KILOWATCH_* settings" in message
    assert "\n" not in message


def test_variables_of_the_product_that_are_no_settings_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("KILOWATCH_HOME", "KILOWATCH_LOG_LEVEL", "KILOWATCH_REQUIRE_KAFKA", "kilowatch_timezone"):
        monkeypatch.setenv(variable, "Europe/Berlin")
    monkeypatch.setenv("KILOWATCH_KAFKA__CLIENT_ID", "x")
    assert load_settings(tmp_path).timezone == "Europe/Berlin"


def test_rules_of_a_home_are_rows_or_rule_sets_of_old(tmp_path: Path) -> None:
    old = "[[rulesets]]\nname = 'city'\neffective_from = 2020-01-01\n[rulesets.over_voltage]\nlimit = 1.1\n"
    row = "[[rules]]\nid = 'over_voltage'\nsegment = 'important'\nstart = 1.05\neffective_from = 2026-06-01\n"
    (tmp_path / "kilowatch.toml").write_text(old + row, "utf-8")
    rules = load_settings(tmp_path).metering.rules
    assert (rules.by_id["over_voltage"].start, rules.by_id["over_voltage"].version) == (1.1, "city")
    (override,) = rules.overrides
    assert (override.segment, override.effective_from, dict(override.values)) == (
        "important", date(2026, 6, 1), {"start": 1.05}
    )  # fmt: skip
    assert rules.by_id["low_power_factor"].version == "default-2020"


def test_a_tariff_is_added_by_rows_alone(tmp_path: Path) -> None:
    """A tariff with prices of its own, exact as they are written: a notice is text, not code."""
    text = """
[[tariffs]]
name = "charging_station"
effective_from = 2026-01-01
default_period = "flat"
factors = { flat = "1.05" }
[[prices]]
component = "purchase"
name_zh = "充电站购电"
effective_from = 2026-01-01
per = "kWh"
price = 0.1
floats = true
tariffs = ["charging_station"]
clause = "notice 2026-08"
"""
    (tmp_path / "kilowatch.toml").write_text(text, "utf-8")
    settings = load_settings(tmp_path).metering
    (price,) = settings.prices
    assert (price.price, settings.tariffs[0].factors) == (Decimal("0.1"), {"flat": Decimal("1.05")})
    assert settings.settlement[0].close_day == load_settings(tmp_path / "other").metering.settlement[0].close_day
