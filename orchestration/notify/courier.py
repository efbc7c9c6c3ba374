"""A process of its own that hands messages over, so that it can finish one when the process that started it is killed.

Here: starting and ending it (`Courier`), and what it does (`python -m orchestration.notify.courier HOME FIGURES`). Not
here: handing over (`sender`), what is due (`sinks.notices.ledger`).

Between a receiver's answer and its record nobody else knows that a message came: a process that is killed there sends
it twice. So that moment is in a process that nobody means to kill: it is told what to do through its standard input,
and when that ends, since it is to stop or who started it is gone, it writes down what is under way and ends. The next
one waits for it, by a lock.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import structlog

from metering.errors import OperationError
from metering.settings.notices import NoticeSettings

log = structlog.get_logger(__name__)

LEDGER, LOCK = "ledger.sqlite", "courier.lock"
_WAKE, _NO_MORE_MEMBERS = b"w", b"m"
_END_TIMEOUT_S = 60.0


class Courier:
    """The process, for whoever starts it. Raises OperationError once it is gone unasked."""

    def __init__(self, folder: Path, settings: NoticeSettings) -> None:
        figures = json.dumps(asdict(settings))
        command = [sys.executable, "-P", "-m", "orchestration.notify.courier", str(folder), figures]
        # its own session: neither Ctrl-C nor a signal to the group of its parent is meant for it
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, bufsize=0)

    def wake(self) -> None:
        """There may be more that is due."""
        self._tell(_WAKE)

    def no_more_members(self) -> None:
        """All there is has been read: storms need not wait."""
        self._tell(_NO_MORE_MEMBERS)

    def check(self) -> None:
        """Raises OperationError when the process has ended."""
        if self._process.poll() is not None:
            raise OperationError(
                f"the process that sends notices has ended ({self._process.returncode}): see above, and start again"
            )

    def stop(self) -> None:
        """Nothing more is handed over; what is under way is written down."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("a message is under way for very long: not waited for")

    def _tell(self, what: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(what)
        except BrokenPipeError:
            self._process.wait(_END_TIMEOUT_S)
            self.check()


def main(folder: Path, figures: dict[str, Any], commands: IO[bytes]) -> None:
    """Send what is due until `commands` ends."""
    from orchestration.logs import configure
    from orchestration.notify.sender import Sender
    from sinks.locking import locked
    from sinks.notices.channels import Channels
    from sinks.notices.ledger import Ledger

    configure()
    settings = NoticeSettings(**figures)
    channels = Channels()
    with locked(folder / LOCK):  # waits for the one before
        ledger = Ledger(folder / LEDGER, settings)
        if again := ledger.recover(datetime.now(UTC)):
            log.warning("handed over or not when the last run ended: sent again, with the same ids", notices=again)
        sender = Sender(ledger, channels.hand_over, settings.parallel)
        while (told := commands.read(1)) and sender.failure is None:
            if told == _NO_MORE_MEMBERS:
                sender.no_more_members = True
            sender.wake()
        sender.stop()
        ledger.close()
    if sender.failure is not None:
        log.error("notices are not sent any more", problem=str(sender.failure))
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.stdin.buffer)
