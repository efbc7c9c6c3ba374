"""The request to replay rejects: asked by a command, answered by whichever stream owns the home.

Here: its files, `<home>/stream/replay.json` and one answer beside it for each worker. Not here: what is done about it
(`redrive`). A request stays until whoever asked takes it back, so that the next stream finds what the last one left.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sinks.lake.owner import make_folder


@dataclass(frozen=True, slots=True)
class Answer:
    """How far a worker is with the request `id`: rejects looked at, of how many; `done` once all is committed."""

    id: str
    worker: int
    workers: int
    looked_at: int
    total: int
    done: bool


@dataclass(frozen=True, slots=True)
class Requests:
    """The request of one home; there is at most one, and a newer one takes the place of an older."""

    home: Path

    def ask(self) -> str:
        """Leave a request; gives its id."""
        make_folder(self._folder)
        asked = uuid.uuid4().hex
        _write(self._request, {"id": asked})
        return asked

    def take_back(self) -> None:
        self._request.unlink(missing_ok=True)

    def asked(self) -> str | None:
        """Id of the request that there is, if any."""
        found = _read(self._request).get("id")
        return found if isinstance(found, str) else None

    def answer(self, answer: Answer) -> None:
        _write(self._folder / f"replay.{answer.worker}-of-{answer.workers}.json", asdict(answer))

    def answers(self, asked: str) -> list[Answer]:
        """What workers have said to the request `asked`."""
        return [answer for answer in self._all() if answer.id == asked]

    def answered(self, asked: str) -> bool:
        """Whether all workers of a stream are done with it."""
        done = [answer for answer in self.answers(asked) if answer.done]
        return any(len([a for a in done if a.workers == answer.workers]) == answer.workers for answer in done)

    def _all(self) -> Iterator[Answer]:
        for path in sorted(self._folder.glob("replay.*-of-*.json")):
            if (said := _read(path)).keys() == Answer.__dataclass_fields__.keys():
                yield Answer(**said)

    @property
    def _folder(self) -> Path:
        return self.home / "stream"

    @property
    def _request(self) -> Path:
        return self._folder / "replay.json"


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all; what a power cut takes with it is asked again."""
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(value), "utf-8")
    aside.rename(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
