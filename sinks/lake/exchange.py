"""Two folders swap their names in one step: `renameat2` with RENAME_EXCHANGE, which Python does not offer.

Linux has it on ext4, XFS, Btrfs, F2FS and tmpfs; network file systems mostly lack it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from metering.errors import OperationError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LACKING = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


class NoExchangeError(OperationError):
    """The C library, the kernel or the file system cannot swap two names."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} lies where two folders cannot be swapped in one step (renameat2, RENAME_EXCHANGE): "
            "move the home to a local file system such as ext4, XFS or Btrfs"
        )


def exchange(one: Path, other: Path) -> None:
    """Swap two existing paths of one file system. Raises NoExchangeError where that cannot be done, else OSError."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library older than glibc 2.28
        raise NoExchangeError(other) from None
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code in _LACKING:
        raise NoExchangeError(other)
    raise OSError(code, os.strerror(code), str(one), None, str(other))
