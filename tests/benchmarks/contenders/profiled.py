"""Kilowatch in one process, watched: where its CPU goes, by stage.

    python profiled.py HOME OUT.json SOURCE_FILE
    python profiled.py HOME OUT.json --kafka READINGS

CPU time of the whole process (Polars' threads too) is put down to the innermost stage that is running. Watching costs
a little, so these are shares, not the figures of the benchmark.
"""

import cProfile
import json
import os
import pstats
import sys
import time
from pathlib import Path

from tests.benchmarks.profile import split

os.environ["KILOWATCH_STREAM__METRICS_PORT"] = "-1"


def main() -> None:
    from orchestration.home.settings import load_settings
    from orchestration.stream.run import stream_files, stream_kafka
    from pipelines.flow.dataflow import Run

    home, out, source = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    readings = int(sys.argv[4]) if source == "--kafka" else None
    profile = cProfile.Profile(time.process_time)
    run = Run()
    started: list[float] = []

    def look(_: object) -> None:
        if not started:  # the flow's thread is not this one: a profile is of the thread that starts it
            started.append(time.process_time())
            profile.enable()
        if readings is not None and run.metrics.readings + run.metrics.rejects >= readings:
            run.stop.set()

    run.on_poll = look
    settings = load_settings(home)
    if readings is None:
        stream_files(home, settings, Path(source), run)
    else:
        stream_kafka(home, settings, run)
    total = time.process_time()
    profile.create_stats()
    seconds = split(pstats.Stats(profile).stats, total, started[0])
    out.write_text(json.dumps(seconds), "utf-8")


if __name__ == "__main__":
    main()
