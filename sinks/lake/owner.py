"""Who may write into a home: one stream at a time, and an old one that wakes up can write no more.

Here: the lock, its sign of life, and the owner's own folder `<home>/stream/<number>/`. Not here: what is kept in it
(`commits`), publishing (`transactions`).

The lock is the kernel's and goes with the process that holds it; a holder that gives no sign of life is stalled, and is
taken over from. The number is in the path of everything that a stream writes before it is revealed: the next
owner renames the folder, and the old one finds none of its paths. A stream of several processes has one owner; the
others join it once it has announced them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from metering.errors import OperationError, OwnedError
from sinks.locking import LockedError, locked, try_lock

STALLED_AFTER_S = 15.0
_SIGN_EVERY_S = 1.0
_ANOTHER_LOOK_S = 1.2
_JOIN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Owner:
    """The one stream of a home, or a process of it. `folder` is where it keeps what is not revealed yet; `identity`
    is the home's own, and stays; `processes_before` is the most processes that a stream of the home has had.
    """

    folder: Path
    identity: str
    processes_before: int = 1
    _lock: IO[str] | None = None
    _released: threading.Event | None = None

    def check(self) -> None:
        """Raises OperationError once another stream has taken over."""
        if not self.folder.is_dir():
            raise OperationError(f"another stream has taken over {self.folder.parent.parent}: this one stops")

    def announce(self, addresses: Sequence[str]) -> None:
        """Let the processes at `addresses` join: what the last owner left has been finished."""
        if self._lock is not None:
            _sign(self._lock, addresses=list(addresses), folder=self.folder.name)

    def end(self) -> None:
        """Tell every process of this stream to end."""
        with contextlib.suppress(FileNotFoundError):  # taken over: nobody is left to tell
            (self.folder / "ended").touch()

    @property
    def ended(self) -> bool:
        """Whether a process of this stream has told the others to end."""
        return (self.folder / "ended").exists()

    def release(self) -> None:
        if self._released is not None:
            self._released.set()
        if self._lock is not None:
            self._lock.close()


def take(home: Path, processes: int = 1, stalled_after_s: float = STALLED_AFTER_S) -> Owner:
    """Become the owner of `home`; one without a sign of life for `stalled_after_s` is taken over from.

    Raises OwnedError naming the owner that is running.
    """
    root = home / "stream"
    make_folder(root)
    with _alone(root / "taking.lock"):
        lock = _locked(home, root / "owner.json", stalled_after_s)
        try:
            before = _read(lock).get("processes", 1)
            folder = _next_folder(root)
            # The most there ever were: a stream of files in between must not hide that there were several.
            _sign(lock, processes=max(before, processes))
            identity = _identity(root / "id")
        except BaseException:
            lock.close()
            raise
    released = threading.Event()
    threading.Thread(target=_give_signs, args=(lock.fileno(), released), daemon=True).start()
    return Owner(folder, identity, before, lock, released)


def join(home: Path, addresses: Sequence[str]) -> Owner:
    """Join the stream of `home` whose processes are at `addresses`, once its owner has announced them.

    Raises OperationError when none does within a minute.
    """
    root = home / "stream"
    deadline = time.monotonic() + _JOIN_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError), (root / "owner.json").open(encoding="utf-8") as signed:
            said = _read(signed)
            fresh = time.time() - os.fstat(signed.fileno()).st_mtime < STALLED_AFTER_S
            if fresh and said.get("addresses") == list(addresses):
                return Owner(root / said["folder"], _identity(root / "id"))
        time.sleep(0.1)
    raise OperationError(f"no stream with processes at {', '.join(addresses)} owns {home}: start process 0 as well")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time looks at who owns a home; the others wait a moment."""
    try:
        with locked(path, patience_s=_ANOTHER_LOOK_S + 5.0):
            yield
    except LockedError:
        raise OwnedError(f"another stream is just starting on {path.parent.parent}") from None


def _locked(home: Path, path: Path, stalled_after_s: float) -> IO[str]:
    """The lock, taken: it is free, or its holder is stalled and left with a file that nobody looks at any more."""
    lock = path.open("a+", encoding="utf-8")
    if try_lock(lock.fileno()):
        return lock
    if _stalled(lock, stalled_after_s):
        lock.close()
        path.unlink()
        lock = path.open("a+", encoding="utf-8")
        if try_lock(lock.fileno()):
            return lock
    said = _read(lock)
    lock.close()
    by = f"host {said['host']}, pid {said['pid']}, started {said['started']}" if said else "it has just started"
    raise OwnedError(f"a stream is running on {home} already: {by}; stop it first")


def _stalled(lock: IO[str], after_s: float) -> bool:
    """No sign of life for long, nor while looking (clocks may have been set)."""
    signed = os.fstat(lock.fileno()).st_mtime_ns
    if time.time() - signed / 1e9 < after_s:
        return False
    time.sleep(_ANOTHER_LOOK_S)
    return os.fstat(lock.fileno()).st_mtime_ns == signed


def _give_signs(descriptor: int, released: threading.Event) -> None:
    while not released.wait(_SIGN_EVERY_S):
        with contextlib.suppress(OSError):  # a full or absent disk: the commits say so
            os.utime(descriptor)


def _sign(lock: IO[str], **more: Any) -> None:
    """Write who owns the home, keeping nothing that an owner before said."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    said = _read(lock)
    kept = {**own, **said} if said.get("pid") == own["pid"] and said.get("host") == own["host"] else own
    lock.seek(0)
    lock.truncate(0)
    lock.write(json.dumps({**kept, **more}))
    lock.flush()


def _read(signed: IO[str]) -> dict[str, Any]:
    signed.seek(0)
    try:
        said = json.loads(signed.read())
    except ValueError:
        return {}
    return said if isinstance(said, dict) and {"host", "pid", "started"} <= said.keys() else {}


def _identity(path: Path) -> str:
    """The home's own name, made once: what its streams publish under."""
    if not path.exists():
        aside = path.with_suffix(".new")
        with aside.open("w") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_folder(path.parent)
    return path.read_text("utf-8").strip()


def _next_folder(root: Path) -> Path:
    """Rename the last owner's folder to the next number; that is the whole of taking over."""
    numbers = sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())
    folder = root / f"{(numbers[-1] if numbers else 0) + 1}"
    if numbers:
        (root / f"{numbers[-1]}").rename(folder)
        sync_folder(root)
        (folder / "ended").unlink(missing_ok=True)
    for name in ("staging", "commits"):  # also where a first start got no further
        make_folder(folder / name)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
