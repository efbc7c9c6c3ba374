"""docs/performance.json: what the benchmark found, row by row, with machine and versions; what it found before a large
change of the product; the baseline of quick runs.

Not here: what it means (`report`, `scaling`).
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks import rivals
from tests.benchmarks.measure import ROOT

DOCS = ROOT / "docs"
FILE = DOCS / "performance.json"
PACKAGES = ("bytewax", "confluent-kafka", "duckdb", "polars", "pyarrow")


def load(path: Path = FILE) -> dict[str, Any]:
    """`rows`, `before`, `quick`: figures by row, of full runs (now, before) and quick ones; `machine`, `versions`."""
    empty: dict[str, Any] = {"rows": {}, "before": {}, "quick": {}, "machine": {}, "versions": {}}
    return empty | (json.loads(path.read_text("utf-8")) if path.exists() else {})


def merge(found: dict[str, Any], where: str, path: Path = FILE) -> None:
    """Take rows into the file (`where`: rows, before, quick), each in place of the one that was there."""
    known = load(path)
    known[where] |= found
    known |= {"machine": machine(), "versions": versions()}
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1), "system": platform.system()}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    pinned = {f"{name} (rivals)": number for name, number in rivals.versions().items()}
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}, **pinned}
