"""Does a test fail when `metering/` says something else? Small changes, by chance, each against its room's tests.

    make mutants                # a hundred of them, by chance; MUTANTS=1000 SEED=2

Each change is made in a copy of the tree (by cosmic-ray), never here; of a module, all tests of its room run, and stop
at the first that fails. What survives is either not tested, or changes nothing that anybody could see: look at each.
Annotations and docstrings are left out.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.commands.init import init
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 180.0
_COPIED = ("metering", "pipelines", "assets", "quality", "sinks", "orchestration", "tests", "docs", "pyproject.toml")
_AT_ONCE = 2
_TRY = """
import json, sys
from pathlib import Path
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_item import MutationSpec
said = json.loads(sys.argv[1])
result = mutate_and_test([MutationSpec(**said["spec"])], said["command"], said["timeout"])
print(json.dumps([result.test_outcome, result.diff or ""]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    every = sorted(
        _specs(), key=lambda spec: (str(spec.module_path), spec.start_pos, spec.operator_name, spec.occurrence)
    )
    chosen = random.Random(options.seed).sample(every, min(options.mutants, len(every)))
    print(f"{len(every):,} changes are possible, {len(chosen)} are tried", flush=True)
    outcomes: Counter[str] = Counter()
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(_AT_ONCE):
            copies.put(_copy(Path(folder) / str(number)))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tried = pool.map(lambda spec: _tried(spec, copies), chosen)
            for number, (spec, (outcome, diff)) in enumerate(zip(chosen, tried, strict=True), 1):
                outcomes[outcome] += 1
                place = f"{spec.module_path}:{spec.start_pos[0]} {spec.operator_name.removeprefix('core/')}"
                print(f"{number:4d} {outcome:12s} {place}", flush=True)
                if outcome == TestOutcome.SURVIVED:
                    survivors.append(f"{place}\n{_changed(diff)}")
    judged = outcomes[TestOutcome.KILLED] + outcomes[TestOutcome.SURVIVED]
    print("\n\n".join(["", "Survivors:", *survivors]) if survivors else "\nNone survived.")
    print(f"\nscore {outcomes[TestOutcome.KILLED]} of {judged} killed ({dict(outcomes)}), seed {options.seed}")
    return 0


def _specs() -> Iterator[MutationSpec]:
    modules = [path.relative_to(ROOT) for path in sorted((ROOT / "metering").rglob("*.py")) if _tests_of(path)]
    with use_db(":memory:", WorkDB.Mode.create) as work:
        init(modules, work, {})
        skipped = {module: _without_meaning(ROOT / module) for module in modules}
        for item in work.work_items:
            for spec in item.mutations:
                if not any(first <= spec.start_pos <= last for first, last in skipped[spec.module_path]):
                    yield spec


def _tests_of(module: Path) -> list[str]:
    room = module.relative_to(ROOT / "metering").parts[0]
    tests = ROOT / "tests" / "metering" / room
    if tests.is_dir():
        return [str(tests.relative_to(ROOT))]
    own = tests.with_name(f"test_{room}")
    return [str(own.relative_to(ROOT))] if own.exists() else []


def _without_meaning(module: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Places of annotations."""
    found: list[ast.AST | None] = []
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    nodes = [node for node in found if isinstance(node, ast.expr)]
    return [((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)) for node in nodes]


def _copy(folder: Path) -> Path:
    folder.mkdir()
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    shared = ROOT.parent / "shared"
    if shared.exists() and not (folder.parent / "shared").exists():
        (folder.parent / "shared").symlink_to(shared)
    return folder


def _tried(spec: MutationSpec, copies: SimpleQueue[Path]) -> tuple[str, str]:
    copy = copies.get()
    try:
        return asyncio.run(_in(copy, spec))
    finally:
        copies.put(copy)


async def _in(copy: Path, spec: MutationSpec) -> tuple[str, str]:
    tests = " ".join(_tests_of(ROOT / spec.module_path))
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -m 'not kafka' {tests}"
    said = {
        "spec": {
            "module_path": str(spec.module_path),
            "operator_name": spec.operator_name,
            "occurrence": spec.occurrence,
            "start_pos": spec.start_pos,
            "end_pos": spec.end_pos,
            "operator_args": spec.operator_args,
        },
        "command": command,
        "timeout": TIMEOUT_S,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TRY, json.dumps(said), cwd=copy,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    lines = out.decode().splitlines()
    outcome, diff = json.loads(lines[-1]) if lines else (TestOutcome.INCOMPETENT, "")
    return outcome, diff


def _changed(diff: str) -> str:
    """The lines of a diff that say what was changed."""
    return "\n".join(line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---"))


if __name__ == "__main__":
    sys.exit(main())
