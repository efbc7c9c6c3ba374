"""Who may be in the lake's folders at a time: many who read or add parts, or one who takes parts away.

Here: the lock, on the folder `<home>/lake` itself; it goes with the process that holds it. Not here: what is done under
it. A reader that knows nothing of the lock may at worst find that a part it has listed is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from metering.errors import OperationError
from sinks.locking import LockedError, locked_folder


class BusyError(OperationError):
    """Readers did not let go of the lake in time."""


@contextmanager
def shared(home: Path) -> Iterator[None]:
    """No part is taken away meanwhile. Where there is no lake yet, there is nothing to lock."""
    with ExitStack() as held:
        with suppress(FileNotFoundError):
            held.enter_context(locked_folder(home / "lake", shared=True))
        yield


@contextmanager
def exclusive(home: Path, patience_s: float) -> Iterator[None]:
    """Nobody reads or adds parts meanwhile. Raises BusyError when others have not let go after `patience_s` seconds.

    It asks again and again rather than wait in line, so that readers and the stream never wait for other readers.
    """
    try:
        with locked_folder(home / "lake", patience_s=patience_s):
            yield
    except LockedError:
        raise BusyError(f"{home / 'lake'} is being read all the time: try again later") from None
