"""The generated pages are current, and every command is documented."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from orchestration.cli import COMMANDS, cli
from orchestration.home.settings import Settings
from orchestration.reference import DOCS, pages

ROOT = Path(__file__).parents[2]


def test_reference_pages_are_current(default_settings: Settings) -> None:
    for name, text in pages(default_settings).items():
        assert (DOCS / name).read_text("utf-8") == text, f"docs/{name}: run `python -m orchestration.reference`"


def test_every_command_is_in_the_readme_and_explains_itself() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"kilowatch {name}" in readme, name
        shown = CliRunner().invoke(cli, [name, "--help"])
        assert shown.exit_code == 0, shown.output
        assert len(shown.output.splitlines()) > 5, name


def test_every_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = [
        line.split(":")[0] for line in makefile.splitlines() if line[:1].isalpha() and ": " in line and "=" not in line
    ]
    for target in targets:
        assert any(line.startswith(f"{target}:") and "##" in line for line in makefile.splitlines()), target
