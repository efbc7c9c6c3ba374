"""What holds for the whole repository: its layers, and what it must not name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_MODULE = 400
PACKAGES = ("metering", "pipelines", "assets", "quality", "sinks", "orchestration")


def _imported(path: Path) -> set[str]:
    """Modules that a module imports, by their whole names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_import_contracts_fail_when_an_arrow_turns(tmp_path: Path) -> None:
    """The contracts are not empty words: a copy in which metering imports duckdb breaks them."""
    import shutil

    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    assert subprocess.run(lint, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    with (tmp_path / "metering" / "load" / "windows.py").open("a", encoding="utf-8") as module:
        module.write("\nimport duckdb\n")
    with (tmp_path / "sinks" / "lake" / "parts.py").open("a", encoding="utf-8") as module:
        module.write("\nimport pipelines.shard.state\n")
    broken = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert broken.returncode != 0
    assert "metering knows no framework BROKEN" in " ".join(broken.stdout.split())
    assert "Arrows point down" in broken.stdout


def test_one_module_locks() -> None:
    """All use of the kernel's locks is in one place."""
    users = {
        str(path.relative_to(ROOT))
        for folder in (*PACKAGES, "tests")
        for path in (ROOT / folder).rglob("*.py")
        if "fcntl" in _imported(path)
    }
    assert users == {"sinks/locking.py"}


def test_one_module_uses_what_dagster_keeps_private() -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*.py")
        if any(name.startswith("dagster._") for name in _imported(path))
    }
    assert users == {"orchestration/batch/event_log.py"}


def test_modules_stay_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > LONGEST_MODULE
    }
    assert not long


def test_the_lock_is_hashed_and_names_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pinned = [line for line in lock.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert len(pinned) > 50
    assert all(line.rstrip().endswith("\\") for line in pinned), "every pin is followed by hashes"
    assert "http://" not in lock
    assert "https://" not in lock
    assert "index-url" not in lock
