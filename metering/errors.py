"""Errors a user can act on: one line that says what is wrong and what to do.

KilowatchError
├── UserError              a user's mistake: command line exits with 2
│   ├── RegistryError      the registry is refused whole; carries file, line and column
│   ├── MappingError       a replay mapping that cannot be used
│   ├── SettingsError      kilowatch.toml or KILOWATCH_* that cannot be used
│   └── OwnedError         a stream is running on the home already
└── OperationError         the world is not as it should be (gap in the log, disk full, broker gone)
    ├── GapError           the log no longer holds offsets that the stream needs
    └── ApartError         meters move between partitions that different processes read
"""

from __future__ import annotations


class KilowatchError(Exception):
    """Base of all errors that are shown to a user as one line."""


class UserError(KilowatchError):
    """Something the user gave is wrong."""


class RegistryError(UserError):
    """The registry cannot be used. Names file, line (1 is the header) and column."""

    def __init__(self, file: str, line: int, column: str, problem: str) -> None:
        super().__init__(f"{file}, line {line}, column {column}: {problem}")
        self.file, self.line, self.column, self.problem = file, line, column, problem


class MappingError(UserError):
    """A mapping file for `replay` cannot be used."""


class SettingsError(UserError):
    """The settings cannot be used."""


class OwnedError(UserError):
    """Another stream is the home's owner."""


class OperationError(KilowatchError):
    """The world is not as it should be; the message says what to do."""


class GapError(OperationError):
    """Offsets that the stream needs next are gone from the log; with `anew` because the topic is another one now."""

    def __init__(self, topic: str, partition: int, missing_from: int, missing_to: int, anew: bool = False) -> None:
        more = ", and so is whatever followed them, for the topic was made anew" if anew else ""
        super().__init__(
            f"topic {topic} partition {partition}: offsets {missing_from} to {missing_to} are gone from the log{more}; "
            "restore them, or go on without them: kilowatch stream --kafka --accept-gap"
        )
        self.topic, self.partition, self.missing_from, self.missing_to = topic, partition, missing_from, missing_to


class ApartError(OperationError):
    """Meters move between partitions that different processes read, which one process alone can follow."""

    def __init__(self, moved: str) -> None:
        super().__init__(
            f"{moved}: run `kilowatch stream --kafka` in one process, without --workers or --addresses, until all have "
            "moved"
        )
