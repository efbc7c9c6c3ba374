"""Settings: each source overrides the one before, and what cannot be used is refused in one line that names the key."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from metering.errors import SettingsError
from orchestration.home.settings import load_settings


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timezone = 'Mars/Base'", "timezone"),
        ("nix = 1", "nix"),
        ("[stream]\nlateness_s = -1", "stream.lateness_s"),
        ("[stream]\nnix = 1", "stream.nix"),
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
