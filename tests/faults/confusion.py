"""Labels of a simulated fleet against what the stream raises, kind by kind, and the table in docs/events.md.

    python -m tests.faults.confusion --record

Telemetry is disturbed on its way: 2 % of it comes up to two hours late, 1 % twice, stamps jitter, and outside of faults
a value is now and then absurd. Ends with exit code 1 if an alarm is missing, or one is raised that no label names.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from metering.events.catalogue import default_rules
from metering.events.silence import RULE as SILENCE
from orchestration.home.fleet_files import simulate_fleet
from orchestration.home.settings import load_settings
from sinks.lake.reader import LakeReader, current

KILOWATCH = Path(sys.executable).with_name("kilowatch")
PAGE = Path(__file__).parents[2] / "docs" / "events.md"
BEGIN, END = "<!-- confusion -->\n", "<!-- end of confusion -->"
START = date(2026, 3, 2)
RUNS = ("920,30,900,1", "920,30,900,2", "920,30,900,3", "920,4,300,4", "300,3,60,5")
LATE, TWICE, JITTER, ABSURD = 0.02, 0.01, 0.3, 0.0005
NAME = ("meter_id", "kind", "phase")
RULES = [*(rule.id for rule in default_rules().rules if rule.fault), SILENCE]
"""Those of one reading, and silence. Registers are told by what goes wrong with a register."""


@dataclass(frozen=True, slots=True)
class Found:
    """Events of one run: `labels` with those of the rules, `raised` violations, and pairs of them that are one."""

    readings: int
    meters: int
    labels: pl.DataFrame
    raised: pl.DataFrame
    pairs: pl.DataFrame

    @property
    def missed(self) -> pl.DataFrame:
        return self.labels.join(self.pairs, on=[*NAME, "started_at"], how="anti")

    @property
    def invented(self) -> pl.DataFrame:
        found = self.pairs.select(*NAME, started_at="raised_at")
        return self.raised.join(found, on=[*NAME, "started_at"], how="anti")


def run(home: Path, customers: int, days: int, interval_s: int, seed: int) -> Found:
    """Simulate, disturb, stream, compare: an event is one of a label's if both ends are within one interval."""
    (home / "registry").mkdir(parents=True)
    settings = load_settings(home)
    simulated = simulate_fleet(
        home, settings, customers=customers, start=START, days=days, interval_s=interval_s, seed=seed
    )
    assert simulated.telemetry is not None
    _disturb(simulated.telemetry, simulated.labels, interval_s, seed)
    command = [KILOWATCH, "stream", "--source", home / "telemetry", "--home", home]
    subprocess.run(command, check=True, capture_output=True)
    labels = simulated.labels.filter(pl.col("kind").is_in(RULES)).with_columns(pl.col("phase").fill_null("total"))
    raised = current(LakeReader(home).scan("violations"), ("violation_id",)).collect()
    raised = raised.filter(pl.col("state") != "withdrawn", pl.col("rule").is_in(RULES)).rename({"rule": "kind"})
    slots = pl.duration(seconds=pl.col("value") * interval_s)  # what is never sent ends where the meter speaks again
    gap_end = pl.when(pl.col("kind") == SILENCE).then(pl.col("started_at") + slots)
    raised = raised.with_columns(pl.coalesce("ended_at", gap_end).alias("ended_at"))
    return Found(simulated.readings, simulated.meters, labels, raised, _pairs(labels, raised, interval_s))


def _pairs(labels: pl.DataFrame, raised: pl.DataFrame, interval_s: int) -> pl.DataFrame:
    """Labels and events that are one, each once."""
    near = timedelta(seconds=interval_s)
    ours = raised.select(*NAME, raised_at="started_at", cleared_at="ended_at")
    pairs = labels.join(ours, on=NAME).with_columns(
        start_off=(pl.col("raised_at") - pl.col("started_at")).abs(),
        end_off=(pl.col("cleared_at") - pl.col("ended_at")).abs(),
    )
    pairs = pairs.filter(pl.col("start_off") <= near, pl.col("end_off") <= near).sort("start_off", "end_off")
    return pairs.unique([*NAME, "started_at"], keep="first").unique([*NAME, "raised_at"], keep="first")


def _disturb(telemetry: Path, labels: pl.DataFrame, interval_s: int, seed: int) -> None:
    """Write the telemetry anew, as it comes from the field."""
    sent = pl.read_ndjson(telemetry).with_row_index("row")
    draw = {
        name: pl.int_range(pl.len()).shuffle(seed + n) / pl.len() for n, name in enumerate(("l", "t", "j", "a", "d"))
    }
    at = pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    rows = sent.with_columns(**draw, at=at)
    calm = ~_within(rows, labels)
    jitter = pl.duration(milliseconds=(0.9 * interval_s * 1000 * pl.col("d")).cast(pl.Int64))
    a_row_s = (rows["at"].max() - rows["at"].min()).total_seconds() / rows.height  # type: ignore[operator,union-attr]
    delay = (pl.col("d") * 7200 / a_row_s).cast(pl.Int64)
    rows = rows.with_columns(
        ts=pl.when(pl.col("j") < JITTER).then(pl.col("at") - jitter).otherwise("at"),
        ua_v=pl.when(calm & (pl.col("a") < ABSURD)).then(99_999.0).otherwise("ua_v"),
        place=pl.col("row").cast(pl.Int64) + pl.when(pl.col("l") < LATE).then(delay).otherwise(0),
    )
    again = rows.filter(pl.col("t") < TWICE).with_columns(place=pl.col("place") + delay)
    ordered = pl.concat([rows, again]).sort("place", maintain_order=True)
    told = ordered.with_columns(pl.col("ts").dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ"))
    told.select(name for name in sent.columns if name != "row").write_ndjson(telemetry)


def _within(rows: pl.DataFrame, labels: pl.DataFrame) -> pl.Series:
    """Whether readings are of the time of a fault, or near it."""
    near = timedelta(hours=2)
    day = pl.col("started_at").dt.convert_time_zone("Asia/Shanghai").dt.date()  # there is one fault a day
    whole = labels.group_by("meter_id", day=day).agg(pl.col("ended_at").max(), began=pl.col("started_at").min() - near)
    times = whole.select("meter_id", "began", ended="ended_at").sort("began")
    asked = rows.select("meter_id", "at", "row").sort("at")
    last = asked.join_asof(times, left_on="at", right_on="began", by="meter_id", check_sortedness=False)
    return last.sort("row").select((pl.col("at") <= pl.col("ended") + near).fill_null(False)).to_series()


# --- the page ---------------------------------------------------------------------------------------------------------


def table(found: Sequence[Found]) -> str:
    """The confusion table by kind, over runs."""
    labels, raised, pairs, missed, invented = (
        pl.concat([getattr(each, name) for each in found])
        for name in ("labels", "raised", "pairs", "missed", "invented")
    )
    lines = ["| kind | labels | events | matched | missed | invented | precision | recall | worst start | worst end |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for kind in RULES:
        of = [frame.filter(pl.col("kind") == kind) for frame in (labels, raised, pairs, missed, invented)]
        due, ours, matched, gone, extra = (frame.height for frame in of)
        shares = [f"{matched / total:.3f}" if total else "none" for total in (ours, due)]
        worst = [of[2][name].max() or timedelta() for name in ("start_off", "end_off")] if matched else ["", ""]
        cells = [f"`{kind}`", due, ours, matched, gone, extra, *shares, *worst]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def besides(found: Sequence[Found]) -> str:
    """Which rules faults of a kind break besides their own."""
    labels = pl.concat([each.labels for each in found])
    by = labels.with_columns(by=pl.col("detail").str.extract(r"^besides (\w+)$")).filter(pl.col("by").is_not_null())
    counts = by.group_by("by", "kind").len().sort("by", "kind")
    lines = ["| a fault of | breaks besides | how often |", "|---|---|---|"]
    lines += [f"| `{fault}` | `{kind}` | {count} |" for fault, kind, count in counts.iter_rows()]
    return "\n".join(lines) + "\n"


def _record(found: Sequence[Found], runs: Iterable[str]) -> None:
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    told = f"Runs of {datetime.now(UTC):%Y-%m-%d}: {'; '.join(runs)}.\n\n{table(found)}\n{besides(found)}"
    PAGE.write_text(f"{head}{BEGIN}{told}{END}{tail}", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.confusion", description=__doc__)
    parser.add_argument(
        "runs", nargs="*", default=RUNS, help="customers,days,interval_s,seed of each (default: %(default)s)"
    )
    parser.add_argument("--record", action="store_true", help="write the table to docs/events.md")
    options = parser.parse_args()
    found, told = [], []
    for each in options.runs:
        customers, days, interval_s, seed = map(int, each.split(","))
        folder = Path(tempfile.mkdtemp(prefix="kilowatch-confusion-"))
        found.append(run(folder / "home", customers, days, interval_s, seed))
        shutil.rmtree(folder)
        last = found[-1]
        told.append(f"{last.meters:,} meters, {days} days at {interval_s} s, seed {seed}, {last.readings:,} readings")
        sys.stdout.write(f"{told[-1]}: {last.missed.height} missed, {last.invented.height} invented\n")
        sys.stdout.flush()
    sys.stdout.write(table(found))
    for each in found:
        if each.missed.height + each.invented.height:
            sys.stdout.write(f"missed: {each.missed.head(20).rows()}\ninvented: {each.invented.head(20).rows()}\n")
    if options.record:
        _record(found, told)
    return int(any(each.missed.height + each.invented.height for each in found))


if __name__ == "__main__":
    sys.exit(main())
