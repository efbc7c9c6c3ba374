"""The environment of the rivals: Quix Streams and plain Bytewax, with versions of their own.

Quix Streams wants an older Kafka client than Kilowatch has, so it lives in `.venv-bench`, pinned with hashes in
`rivals.lock`; nothing of it is in the product's environment. `make bench` builds it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measure import ROOT

FOLDER = ROOT / ".venv-bench"
LOCK = Path(__file__).with_name("rivals.lock")
CONTENDERS = Path(__file__).with_name("contenders")


def python(say: Callable[[str], None]) -> Path | str:
    """The rivals' Python, built when it is missing or older than its lock; why not, as a text, when it cannot be."""
    found = FOLDER / "bin" / "python"
    ready = FOLDER / ".ready"
    if ready.exists() and ready.read_text("utf-8") == LOCK.read_text("utf-8"):
        return found
    say("installing the rivals into .venv-bench")
    pip = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
    for command in ([sys.executable, "-m", "venv", "--clear", FOLDER], [*pip, "-r", LOCK]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"the rivals cannot be installed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
    ready.write_text(LOCK.read_text("utf-8"), "utf-8")
    return found


def versions(names: tuple[str, ...] = ("quixstreams", "bytewax", "confluent-kafka", "orjson")) -> dict[str, str]:
    """Pinned versions of the rivals, by the lock."""
    pinned = (line.split()[0].partition("==") for line in LOCK.read_text("utf-8").splitlines() if "==" in line)
    return {name: version for name, _, version in pinned if name in names}
