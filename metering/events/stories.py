"""What the plain machine is about: what readings say, where a check stands, and what there is to tell of violations.

Here: the values. Not here: how they follow from each other (`plain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Judged(NamedTuple):
    """What a reading says to a check: `ts_us` is its end [us], `interval_s` what it stands for."""

    ts_us: int
    verdict: int
    value: float
    limit_value: float
    hold_s: float
    clear_hold_s: float
    ruleset: str
    version: int
    interval_s: int
    flicker_s: float | None = 0.0


@dataclass(slots=True, eq=False)
class Violation:
    """What names a violation, and what it is held against. Readings in it share this; one that turns out to be part of
    another is `part_of` that, and so are all its readings at once.
    """

    started_us: int
    limit_value: float
    ruleset: str
    part_of: Violation | None = None

    @property
    def whole(self) -> Violation:
        found = self
        while found.part_of is not None:
            found = found.part_of
        return found


class Run(NamedTuple):
    """Where a check stands: the violation that is open, or may be opened again, if any; and the run that is going on.

    `extreme` and `run_extreme` are values times the check's side, `step` is that of the last update. `ended_us` and
    `reopens_until_us` are of a violation that has been cleared: up to then it may be opened again.
    """

    violation: Violation | None
    extreme: float
    step: float
    occurrences: int
    ended_us: int | None
    reopens_until_us: int | None
    verdict: int
    run_start_us: int
    run_s: float
    run_extreme: float
    last_us: int

    @property
    def active(self) -> bool:
        return self.violation is not None and self.reopens_until_us is None

    @property
    def named(self) -> tuple[int, float, str]:
        """Start, limit and rule set of the violation."""
        whole = self.violation.whole if self.violation else _NONE
        return whole.started_us, whole.limit_value, whole.ruleset

    @property
    def started_us(self) -> int:
        return self.named[0]

    @property
    def story(self) -> Story:
        """That of the violation."""
        _, limit_value, ruleset = self.named
        step = self.step if self.ended_us is None else 0.0
        return Story(self.ended_us, self.extreme, limit_value, ruleset, self.occurrences, step)


_NONE = Violation(0, 0.0, "")
UNNAMED: dict[str, Any] = {
    "violation": None, "extreme": 0.0, "step": 0.0, "occurrences": 0, "ended_us": None, "reopens_until_us": None
}  # fmt: skip


class Cleared(NamedTuple):
    """A violation that a reading clears."""

    violation: Violation
    ended_us: int
    extreme: float
    occurrences: int

    @property
    def told(self) -> tuple[int, Story]:
        """Its start, and its story."""
        whole = self.violation.whole
        return whole.started_us, Story(
            self.ended_us, self.extreme, whole.limit_value, whole.ruleset, self.occurrences, 0.0
        )


class Story(NamedTuple):
    """What there is to tell of a violation, beside its name; `ended_us` None: it is open, and was updated at `step`."""

    ended_us: int | None
    extreme: float
    limit_value: float
    ruleset: str
    occurrences: int = 1
    step: float = 0.0

    def alike(self, other: Story) -> bool:
        """Whether nobody would act on the difference, if there is one."""
        if self.ended_us is None and other.ended_us is None:
            return self[2:] == other[2:]
        return self == other


@dataclass(slots=True)
class Emitted:
    """What was emitted last of a violation."""

    state: str
    revision: int
    story: Story
    version: int


class Change(NamedTuple):
    """Something to emit: a violation by its start, and the time of the reading that caused it."""

    started_us: int
    state: str
    revision: int
    story: Story
    version: int
    at_us: int
