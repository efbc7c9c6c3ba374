"""`kilowatch init` and `kilowatch registry check`, as a user calls them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orchestration.cli import main
from orchestration.home.registry_files import contacts_path, load, registry_paths
from orchestration.home.settings import DEFAULTS, load_settings


def kilowatch(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    """Exit code of the command line; uncaught errors would raise."""
    monkeypatch.setattr("sys.argv", ["kilowatch", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_new_home_is_valid_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert kilowatch(monkeypatch, "init", "--home", home) == 0
    settings = load_settings(home)
    assert settings == load_settings(tmp_path / "elsewhere")
    registry = load(home, settings)
    assert registry.customers.height == 2
    assert registry.meters.height == 3
    capsys.readouterr()
    assert kilowatch(monkeypatch, "registry", "check", "--home", home) == 0
    said = " ".join(capsys.readouterr().out.split())  # a long path wraps
    assert "is valid" in said
    assert "with dual supply" in said


def test_the_template_of_settings_holds_every_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kilowatch(monkeypatch, "init", "--home", tmp_path) == 0
    text = (tmp_path / "kilowatch.toml").read_text("utf-8")
    assert tomllib.loads(text) == {}
    lines = [line.removeprefix("# ") for line in text.splitlines()[3:] if not line.startswith("# ---")]
    assert tomllib.loads("\n".join(lines)) == tomllib.loads(DEFAULTS.read_text("utf-8"))


def test_init_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = registry_paths(tmp_path)[1]
    path.parent.mkdir()
    path.write_text("mine")
    assert kilowatch(monkeypatch, "init", "--home", tmp_path) == 2
    assert "meters.csv exists already" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert not (tmp_path / "kilowatch.toml").exists()


def test_a_missing_registry_and_a_wrong_one_end_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kilowatch(monkeypatch, "registry", "check", "--home", tmp_path) == 2
    said = capsys.readouterr().err
    assert "customers.csv is missing" in said
    assert "kilowatch init" in said
    kilowatch(monkeypatch, "init", "--home", tmp_path)
    path = registry_paths(tmp_path)[0]
    path.write_text(path.read_text("utf-8").replace("0.90", "0.91", 1), "utf-8")
    capsys.readouterr()
    assert kilowatch(monkeypatch, "registry", "check", "--home", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("kilowatch: customers.csv, line 2, column pf_standard: ")
    assert said.count("\n") == 1


def test_contacts_are_checked_with_their_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kilowatch(monkeypatch, "init", "--home", tmp_path)
    path = contacts_path(tmp_path)
    capsys.readouterr()
    assert kilowatch(monkeypatch, "registry", "check", "--home", tmp_path) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "│ contacts │ 3 │" in said
    assert "channels with variables that are not set here │ 3 │" in said
    for wrong, column, problem in (
        ("json://${SMS_GATEWAY}/office-east", "channels", "does not know"),
        ("outage limit_warning", "event_class", "'x://hunter2'"),
    ):
        text = path.read_text("utf-8")
        path.write_text(text.replace(wrong, "x://hunter2"), "utf-8")
        assert kilowatch(monkeypatch, "registry", "check", "--home", tmp_path) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"kilowatch: contacts.csv, line 3, column {column}: ")
        assert problem in said
        path.write_text(text, "utf-8")
    path.unlink()
    assert kilowatch(monkeypatch, "registry", "check", "--home", tmp_path) == 0
