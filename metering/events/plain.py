"""The life of one violation after the other, a reading at a time: plain, slow, and right in whatever order they come.

Here: one check on one meter, whose readings may come late or again. Not here: the vectorised pass over readings in
order (`lifecycle`), to which this is equal (a property test holds them together), what readings say (`judge`).

A late reading is put where it belongs, and the machine goes on from there until it stands where it stood before: what
follows cannot differ then. What differs in between is emitted: a violation that was emitted before gets its next
revision, one that should not have been is withdrawn, one not known yet appears.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from metering.events.judge import END, START


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


class Run(NamedTuple):
    """Where a check stands: the violation that is open, if `active`, and the run that is going on. `extreme` and
    `run_extreme` are values times the check's side.
    """

    active: bool
    started_us: int
    extreme: float
    limit_value: float
    ruleset: str
    verdict: int
    run_start_us: int
    run_s: float
    run_extreme: float
    last_us: int


class Story(NamedTuple):
    """What there is to tell of a violation, beside its name; `ended_us` None: it is open."""

    ended_us: int | None
    extreme: float
    limit_value: float
    ruleset: str


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


def step(
    before: Run | None, reading: Judged, side: int, gap_intervals: float
) -> tuple[Run | None, tuple[int, Story] | None]:
    """Where a check stands after a reading that comes next in time, and the violation that this clears: its start and
    story. None: neither a violation is open nor does a run for one go on.
    """
    sided = reading.value * side
    interval_us = reading.interval_s * 1_000_000
    goes_on = (
        before is not None
        and reading.verdict == before.verdict
        and reading.ts_us - before.last_us <= interval_us * gap_intervals
    )
    if before is not None and goes_on:
        run_start_us, run_s = before.run_start_us, before.run_s + reading.interval_s
        run_extreme = max(before.run_extreme, sided)
    else:
        run_start_us, run_s, run_extreme = reading.ts_us - interval_us, float(reading.interval_s), sided
    run = (reading.verdict, run_start_us, run_s, run_extreme, reading.ts_us)
    if before is not None and before.active:
        if reading.verdict == END and run_s >= reading.clear_hold_s:
            return None, (
                before.started_us,
                Story(run_start_us, before.extreme, before.limit_value, before.ruleset),
            )
        extreme = max(before.extreme, sided)
        return Run(True, before.started_us, extreme, before.limit_value, before.ruleset, *run), None
    if reading.verdict != START:
        return None, None
    if run_s >= reading.hold_s:
        return Run(True, run_start_us, run_extreme, reading.limit_value, reading.ruleset, *run), None
    return Run(False, 0, 0.0, 0.0, "", *run), None


def _alike(one: Run | None, other: Run | None) -> bool:
    """Whether the same follows from both, whatever readings come."""
    if one is None or other is None:
        return one is other
    if one[:6] != other[:6]:
        return False
    if one.active:  # how long it has been in violation decides nothing any more
        return one.verdict != END or one[6:8] == other[6:8]
    return one[6:9] == other[6:9]


@dataclass(slots=True)
class Pair:
    """One check on one meter: where it stood at first (`base`), its readings since then in order of time, and what has
    been emitted of its violations since then, by their start [us]. Those that began before `settled_us` are let be: the
    machine may not have known of them from their beginning.
    """

    side: int
    gap_intervals: float
    base: Run | None
    emitted: dict[int, Emitted]
    settled_us: int
    _readings: list[Judged] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)
    _runs: list[Run | None] = field(default_factory=list)
    _cleared: list[tuple[int, Story] | None] = field(default_factory=list)

    def start(self, readings: Iterable[Judged]) -> None:
        """Readings known before, in order of time; what they say has been emitted."""
        run = self.base
        for reading in readings:
            run, cleared = step(run, reading, self.side, self.gap_intervals)
            self._readings.append(reading)
            self._times.append(reading.ts_us)
            self._runs.append(run)
            self._cleared.append(cleared)

    @property
    def now(self) -> Run | None:
        return self._runs[-1] if self._runs else self.base

    def at(self, us: int) -> Run | None:
        """Where it stood after the last reading up to this time."""
        index = bisect_left(self._times, us + 1)
        return self._runs[index - 1] if index else self.base

    def put(self, ts_us: int, reading: Judged | None) -> list[Change]:
        """A reading of this time comes, and counts from now on; None: it says nothing to this check."""
        at = bisect_left(self._times, ts_us)
        known = at < len(self._times) and self._times[at] == ts_us
        if not known and reading is None:
            return []
        if known and reading is not None and self._readings[at] == reading:
            return []
        if not known and at == len(self._times):
            assert reading is not None
            return self._next(reading)
        return self._anew(at, known, reading, ts_us)

    def _next(self, reading: Judged) -> list[Change]:
        before = self.now
        run, cleared = step(before, reading, self.side, self.gap_intervals)
        self._readings.append(reading)
        self._times.append(reading.ts_us)
        self._runs.append(run)
        self._cleared.append(cleared)
        if cleared is not None:
            return self._emit(*cleared, reading.version, reading.ts_us)
        if run is not None and run.active and (before is None or not before.active or run.extreme > before.extreme):
            return self._emit(run.started_us, _open(run), reading.version, reading.ts_us)
        return []

    def _anew(self, at: int, known: bool, reading: Judged | None, ts_us: int) -> list[Change]:
        """Put a reading in at `at` (in place of one, if `known`; none: take that out), and go on from there."""
        before = self._runs[at - 1] if at else self.base
        old_runs, old_cleared, old_readings = self._runs[at:], self._cleared[at:], self._readings[at:]
        came = [] if reading is None else [reading]
        rest = old_readings[known:]
        runs: list[Run | None] = []
        cleared: list[tuple[int, Story] | None] = []
        run, reached = before, False
        for number, each in enumerate([*came, *rest]):
            run, clear = step(run, each, self.side, self.gap_intervals)
            runs.append(run)
            cleared.append(clear)
            old = number - len(came) + known  # the same reading's place before
            if number >= len(came) and _alike(run, old_runs[old]) and clear == old_cleared[old]:
                reached = True
                break
        new_count = len(runs)
        old_count = new_count - len(came) + known
        version = [*came, *old_readings][0].version  # of what is put in or taken out: there may be no reading after it
        expected = _stories(before, version, runs, cleared, [*came, *rest], reached)
        emitted = _stories(before, version, old_runs[:old_count], old_cleared[:old_count], old_readings, reached)
        self._readings[at:] = [*came, *rest]
        self._times[at : at + known] = [each.ts_us for each in came]
        self._runs[at:] = [*runs, *old_runs[old_count:]]
        self._cleared[at:] = [*cleared, *old_cleared[old_count:]]
        return self._differences(emitted, expected, ts_us)

    def _differences(
        self, before: dict[int, tuple[Story, int]], after: dict[int, tuple[Story, int]], at_us: int
    ) -> list[Change]:
        changes: list[Change] = []
        for started_us in sorted(before.keys() | after.keys()):
            if started_us < self.settled_us or _story(before, started_us) == _story(after, started_us):
                continue
            if started_us in after:
                changes += self._emit(started_us, *after[started_us], at_us)
            elif (told := self.emitted.get(started_us)) is not None and told.state != "withdrawn":
                story = told.story._replace(ended_us=None)
                changes.append(self._emitted(started_us, "withdrawn", told.revision + 1, story, told.version, at_us))
        return changes

    def _emit(self, started_us: int, story: Story, version: int, at_us: int) -> list[Change]:
        told = self.emitted.get(started_us)
        if told is None:
            first = [self._emitted(started_us, "raised", 0, story._replace(ended_us=None), version, at_us)]
            if story.ended_us is None:
                return first
            return [*first, self._emitted(started_us, "cleared", 1, story, version, at_us)]
        if told.state != "withdrawn" and told.story == story:
            return []
        again = "raised" if told.state == "withdrawn" else "updated"
        state = again if story.ended_us is None else "cleared"
        return [self._emitted(started_us, state, told.revision + 1, story, version, at_us)]

    def _emitted(self, started_us: int, state: str, revision: int, story: Story, version: int, at_us: int) -> Change:
        self.emitted[started_us] = Emitted(state, revision, story, version)
        return Change(started_us, state, revision, story, version, at_us)


def _open(run: Run) -> Story:
    return Story(None, run.extreme, run.limit_value, run.ruleset)


def _story(stories: dict[int, tuple[Story, int]], started_us: int) -> Story | None:
    found = stories.get(started_us)
    return None if found is None else found[0]


def _stories(
    before: Run | None,
    version: int,
    runs: Sequence[Run | None],
    cleared: Sequence[tuple[int, Story] | None],
    readings: Sequence[Judged],
    goes_on: bool,
) -> dict[int, tuple[Story, int]]:
    """Violations of a stretch of readings, by start: story, and the meter's version then (`version` at its beginning).
    One that is open at the end of a stretch that `goes_on` as ever is left out: nothing has changed in it.
    """
    found: dict[int, tuple[Story, int]] = {}
    if before is not None and before.active:
        found[before.started_us] = (_open(before), version)
    for run, clear, reading in zip(runs, cleared, readings, strict=False):
        if clear is not None:
            found[clear[0]] = (clear[1], reading.version)
        elif run is not None and run.active:
            story = _open(run)
            if run.started_us not in found or found[run.started_us][0] != story:
                found[run.started_us] = (story, reading.version)
    last = runs[-1] if runs else before
    if goes_on and last is not None and last.active:
        found.pop(last.started_us, None)
    return found


def coalesced(changes: Iterable[Change]) -> list[Change]:
    """Without updates that another change of the same violation follows at once."""
    kept: list[Change] = []
    for change in changes:
        if kept and kept[-1].state == change.state == "updated" and kept[-1].started_us == change.started_us:
            kept.pop()
        kept.append(change)
    return kept
