"""The life of one violation after the other, a reading at a time: plain, slow, and right in whatever order they come.

Here: one check on one meter, whose readings may come late or again. Not here: the vectorised pass over readings in
order (`lifecycle`), to which this is equal (a property test holds them together), what readings say (`judge`).

A late reading is put where it belongs, and the machine goes on from there until it stands where it stood before: what
follows cannot differ then. What differs in between is emitted: a violation that was emitted before gets its next
revision, one that should not have been is withdrawn, one not known yet appears. Of an open one a worse value counts as
a difference where it is another step (`lifecycle`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from metering.events.judge import END, START
from metering.events.lifecycle import plain_step_of
from metering.events.stories import UNNAMED, Change, Cleared, Emitted, Judged, Run, Story, Violation
from metering.settings import USUAL_ALARMS, AlarmSettings


def step(
    before: Run | None, reading: Judged, side: int, gap_intervals: float, alarms: AlarmSettings = USUAL_ALARMS
) -> tuple[Run | None, Cleared | None]:
    """Where a check stands after a reading that comes next in time, and the violation that this clears. None: no
    violation is open or may be opened again, nor does a run for one go on.
    """
    sided = reading.value * side
    interval_us = reading.interval_s * 1_000_000
    if (
        before is not None
        and reading.verdict == before.verdict
        and reading.ts_us - before.last_us <= interval_us * gap_intervals
    ):
        run_start_us, run_s = before.run_start_us, before.run_s + reading.interval_s
        run_extreme = max(before.run_extreme, sided)
    else:
        run_start_us, run_s, run_extreme = reading.ts_us - interval_us, float(reading.interval_s), sided
    run = (reading.verdict, run_start_us, run_s, run_extreme, reading.ts_us)
    if before is not None and before.active:
        assert before.violation is not None
        if reading.verdict == END and run_s >= reading.clear_hold_s:
            cleared = Cleared(before.violation, run_start_us, before.extreme, before.occurrences)
            soon_s = reading.flicker_s + reading.hold_s if reading.flicker_s else 0.0
            reopens_us = reading.ts_us + int(soon_s * 1e6)
            idle = before._replace(ended_us=run_start_us, reopens_until_us=reopens_us)
            return _idle(idle, reading.ts_us), cleared
        extreme, reached = max(before.extreme, sided), before.step
        if (reading.ts_us - 1) // alarms.update_us != (before.last_us - 1) // alarms.update_us:
            reached = max(
                reached, plain_step_of(extreme, before.violation.whole.limit_value * side, alarms.update_step)
            )
        return Run(before.violation, extreme, reached, before.occurrences, None, None, *run), None
    if reading.verdict != START:
        return _idle(before, reading.ts_us), None
    until_us = before.reopens_until_us if before is not None else None
    known = before if until_us is not None and reading.ts_us <= until_us else None
    if run_s >= reading.hold_s:
        violation = known.violation if known else None
        extreme = max(known.extreme, run_extreme) if known else run_extreme
        violation = violation or Violation(run_start_us, reading.limit_value, reading.ruleset)
        reached = plain_step_of(extreme, violation.whole.limit_value * side, alarms.update_step)
        return Run(violation, extreme, reached, known.occurrences + 1 if known else 1, None, None, *run), None
    if known is not None and until_us is not None and reading.ts_us < until_us:
        return Run(*known[:6], *run), None
    return Run(None, 0.0, 0.0, 0, None, None, *run), None


def heard_at(run: Run | None, us: int) -> Run | None:
    """Where a check stands once a reading of this time has changed nothing: what may not be opened again is over."""
    if run is None or run.reopens_until_us is None or us < run.reopens_until_us:
        return run
    return run._replace(**UNNAMED) if run.verdict == START else None


def _idle(run: Run | None, now_us: int) -> Run | None:
    """A violation that may be opened again, with nothing going on; None once it may not."""
    if run is None or run.ended_us is None or run.reopens_until_us is None or now_us >= run.reopens_until_us:
        return None
    return Run(*run[:6], END, run.ended_us, 0.0, run.extreme, run.ended_us)


def _alike(one: Run | None, other: Run | None) -> bool:
    """Whether the same follows from both, whatever readings come."""
    if one is None or other is None:
        return one is other
    return _alike_but_for_the_violation(one, other) and one.named == other.named


def _alike_but_for_the_violation(one: Run, other: Run) -> bool:
    """Whether the same follows from both, but for what names the violation in both."""
    if (one.violation is None) != (other.violation is None) or one[1:7] != other[1:7]:
        return False
    if one.active:  # how long it has been in violation decides nothing any more
        return one.verdict != END or (one.run_start_us, one.run_s) == (other.run_start_us, other.run_s)
    return one[7:10] == other[7:10]


_NONE_CHANGED: Sequence[Change] = ()


@dataclass(slots=True)
class Pair:
    """One check on one meter: where it stood at first (`base`), its readings since then in order of time, and what has
    been emitted of its violations since then, by their start [us]. Those that began before `settled_us` are let be: the
    machine may not have known of them from their beginning. `heard_us`: the last reading that spoke, if that changed
    nothing and was left out.
    """

    side: int
    gap_intervals: float
    base: Run | None
    emitted: dict[int, Emitted]
    settled_us: int
    alarms: AlarmSettings = USUAL_ALARMS
    heard_us: int = -(1 << 62)
    _readings: list[Judged] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)
    _runs: list[Run | None] = field(default_factory=list)
    _cleared: list[Cleared | None] = field(default_factory=list)

    def start(self, readings: Iterable[Judged]) -> None:
        """Readings known before, in order of time; what they say has been emitted."""
        run = self.base
        for reading in readings:
            run, cleared = step(run, reading, self.side, self.gap_intervals, self.alarms)
            self._readings.append(reading)
            self._times.append(reading.ts_us)
            self._runs.append(run)
            self._cleared.append(cleared)

    @property
    def now(self) -> Run | None:
        return self.at(max([self.heard_us, *self._times[-1:]]))

    def at(self, us: int) -> Run | None:
        """Where it stood after the last reading up to this time, as far as anything can follow from it."""
        index = bisect_left(self._times, us + 1)
        run = self._runs[index - 1] if index else self.base
        heard = [*self._times[max(index - 1, 0) : index], *([self.heard_us] if self.heard_us <= us else [])]
        return heard_at(run, max(heard)) if heard else run

    def put(self, ts_us: int, reading: Judged | None) -> Sequence[Change]:
        """A reading of this time comes, and counts from now on; None: it says nothing to this check."""
        if reading is not None and (not self._times or ts_us > self._times[-1]):
            return self._next(reading)
        at = bisect_left(self._times, ts_us)
        known = at < len(self._times) and self._times[at] == ts_us
        if not known and reading is None:
            return _NONE_CHANGED
        if known and reading is not None and self._readings[at] == reading:
            return _NONE_CHANGED
        return self._anew(at, known, reading, ts_us)

    def _next(self, reading: Judged) -> Sequence[Change]:
        before = self._runs[-1] if self._runs else self.base
        self._readings.append(reading)
        self._times.append(reading.ts_us)
        if before is None and reading.verdict != START:
            self._runs.append(None)
            self._cleared.append(None)
            return _NONE_CHANGED
        run, cleared = step(before, reading, self.side, self.gap_intervals, self.alarms)
        self._runs.append(run)
        self._cleared.append(cleared)
        if cleared is not None:
            return self._emit(*cleared.told, reading.version, reading.ts_us)
        if run is not None and run.active and (before is None or not before.active or run.step > before.step):
            return self._emit(run.started_us, run.story, reading.version, reading.ts_us)
        return _NONE_CHANGED

    def _anew(self, at: int, known: bool, reading: Judged | None, ts_us: int) -> list[Change]:
        """Put a reading in at `at` (in place of one, if `known`; none: take that out), and go on from there."""
        before = self._runs[at - 1] if at else self.base
        came = [] if reading is None else [reading]
        first = end = at + known  # of those after it; and of those that nothing changes for
        runs: list[Run | None] = []
        cleared: list[Cleared | None] = []
        run, reached, joined = before, False, None
        for each in came:
            run, clear = step(run, each, self.side, self.gap_intervals, self.alarms)
            runs.append(run)
            cleared.append(clear)
        while end < len(self._readings) and not (reached or joined):
            run, clear = step(run, self._readings[end], self.side, self.gap_intervals, self.alarms)
            runs.append(run)
            cleared.append(clear)
            if _told(clear) == _told(self._cleared[end]):
                reached = _alike(run, self._runs[end])
                if reached:
                    _one_violation(run, self._runs[end])
                elif clear is None:
                    joined = self._joined(before, run, self._runs[end])
            end += 1
        version = [*came, *self._readings[at:first]][0].version  # of what is put in, or else taken out
        readings, goes_on = [*came, *self._readings[first:end]], reached or joined is not None
        expected = _stories(before, version, runs, cleared, readings, goes_on)
        was = self._runs[at:end], self._cleared[at:end], self._readings[at:end]
        emitted = _stories(before, version, *was, goes_on)
        if joined is not None:
            self._join(*joined, emitted, expected)
        self._readings[at:end], self._runs[at:end], self._cleared[at:end] = readings, runs, cleared
        self._times[at:first] = [each.ts_us for each in came]
        return self._differences(emitted, expected, ts_us)

    def _joined(self, before: Run | None, new: Run | None, old: Run | None) -> tuple[Violation, Violation] | None:
        """The violation that was open, and the one that it is part of from now on, where nothing but that has changed
        and no reading before this one was in it.
        """
        if new is None or old is None or new.violation is None or old.violation is None:
            return None
        was, now = old.violation.whole, new.violation.whole
        told = self.emitted.get(was.started_us)
        if told is None or told.state == "withdrawn" or min(was.started_us, now.started_us) < self.settled_us:
            return None
        if before is not None and before.violation is not None and before.violation.whole is was:
            return None
        if was is now or was.limit_value != now.limit_value:  # against another limit steps go on in another way
            return None
        return (was, now) if _alike_but_for_the_violation(new, old) else None

    def _join(
        self,
        was: Violation,
        now: Violation,
        emitted: dict[int, tuple[Story, int]],
        expected: dict[int, tuple[Story, int]],
    ) -> None:
        """Make the readings of a violation those of another one: their stories end alike."""
        told = self.emitted[was.started_us]
        emitted[was.started_us] = told.story, told.version
        story = told.story._replace(limit_value=now.limit_value, ruleset=now.ruleset)
        expected[now.started_us] = story, told.version
        was.part_of = now

    def _differences(
        self, before: dict[int, tuple[Story, int]], after: dict[int, tuple[Story, int]], at_us: int
    ) -> list[Change]:
        changes: list[Change] = []
        for started_us in sorted(before.keys() | after.keys()):
            if started_us < self.settled_us or _same(before.get(started_us), after.get(started_us)):
                continue
            told = self.emitted.get(started_us)
            if started_us in after:
                story, version = after[started_us]
                if told is None or told.state == "withdrawn" or told.story[:5] != story[:5]:
                    goes_on = story.ended_us is None  # then it is told as of now, not as of the late reading
                    until_us = max([at_us, *self._times[-1:]]) if goes_on else at_us
                    changes += self._emit(started_us, story, version, until_us)
                else:  # the step alone, which nobody is told
                    told.story = story
            elif told is not None and told.state != "withdrawn":
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
        again = "raised" if told.state == "withdrawn" else "updated"
        state = again if story.ended_us is None else "cleared"
        return [self._emitted(started_us, state, told.revision + 1, story, version, at_us)]

    def _emitted(self, started_us: int, state: str, revision: int, story: Story, version: int, at_us: int) -> Change:
        self.emitted[started_us] = Emitted(state, revision, story, version)
        return Change(started_us, state, revision, story, version, at_us)


def _one_violation(new: Run | None, old: Run | None) -> None:
    """Readings before and after the place where two stand alike are in one violation."""
    if new is not None and old is not None and new.violation is not None and old.violation is not None:
        was, now = old.violation.whole, new.violation.whole
        if was is not now:
            was.part_of = now


def _told(cleared: Cleared | None) -> tuple[int, Story] | None:
    return None if cleared is None else cleared.told


def _same(one: tuple[Story, int] | None, other: tuple[Story, int] | None) -> bool:
    return one is other if one is None or other is None else one[0].alike(other[0])


def _stories(
    before: Run | None,
    version: int,
    runs: Sequence[Run | None],
    cleared: Sequence[Cleared | None],
    readings: Sequence[Judged],
    goes_on: bool,
) -> dict[int, tuple[Story, int]]:
    """Violations of a stretch of readings, by start: story, and the meter's version then (`version` at its beginning).
    One that is open at the end of a stretch that `goes_on` as ever is left out: nothing has changed in it.
    """
    found: dict[int, tuple[Story, int]] = {}
    if before is not None and before.violation is not None:
        found[before.started_us] = (before.story, version)
    for run, clear, reading in zip(runs, cleared, readings, strict=False):
        if clear is not None:
            started_us, story = clear.told
            found[started_us] = (story, reading.version)
        elif run is not None and run.active:
            story = run.story
            if run.started_us not in found or found[run.started_us][0] != story:
                found[run.started_us] = (story, reading.version)
    last = runs[-1] if runs else before
    if goes_on and last is not None and last.active:
        found.pop(last.started_us, None)
    return found
