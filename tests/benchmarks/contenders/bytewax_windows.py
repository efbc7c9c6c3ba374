"""Idiomatic Bytewax: Kafka source, a JSON parser, `fold_window` by meter, a file sink. In the rivals' environment.

    python bytewax_windows.py BROKERS TOPIC OUT.ndjson

Its clock is made to depend on the data alone, without which a backlog would be late and the clock would spin: the
system's time stands still, and no window waits for it. There is no recovery, no rules, no lake; a reading that
comes twice counts once. It ends at the end of the topic.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import orjson
from bytewax.connectors.files import FileSink
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import windowing
from bytewax.testing import run_main

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WINDOW = timedelta(minutes=15)
LATENESS = timedelta(minutes=5)
IMPLAUSIBLE_MS = 946_684_800_000  # before 2000
TICK = timedelta(microseconds=1)  # a window is (end - 15 min, end], a windower's is [start, end)


def parsed(message):
    reading = orjson.loads(message.value)
    ts = reading["ts"]
    return (reading["meter_id"], reading) if ts is not None and ts >= IMPLAUSIBLE_MS else None


def event_time(reading):
    return datetime.fromtimestamp(reading["ts"] / 1000, UTC) - TICK


def nothing():
    return [0, 0.0, float("-inf"), float("inf"), 0.0, float("inf"), float("-inf"), 0]


def folded(sums, reading):
    minute = 1 << reading["ts"] // 60_000 % 15
    if sums[7] & minute:  # it came twice
        return sums
    sums[7] |= minute
    p, ua, ub, uc = reading["p_kw"], reading["ua_v"], reading["ub_v"], reading["uc_v"]
    sums[0] += 1
    sums[1] += p
    sums[2] = max(sums[2], p)
    sums[3] = min(sums[3], p)
    sums[4] += reading["q_kvar"]
    sums[5] = min(sums[5], ua, ub, uc)
    sums[6] = max(sums[6], ua, ub, uc)
    return sums


def merged(a, b):
    return [
        a[0] + b[0], a[1] + b[1], max(a[2], b[2]), min(a[3], b[3]), a[4] + b[4], min(a[5], b[5]), max(a[6], b[6]),
        a[7] | b[7],
    ]  # fmt: skip


def written(item):
    meter_id, (window, (n, p, p_max, p_min, q, u_min, u_max, _)) = item
    answer = {
        "meter_id": meter_id, "window_end": (window + 1) * 900, "n": n, "p_mean_kw": p / n, "p_max_kw": p_max,
        "p_min_kw": p_min, "q_mean_kvar": q / n, "u_min_v": u_min, "u_max_v": u_max,
    }  # fmt: skip
    return "out", orjson.dumps(answer).decode()


def main():
    brokers, topic, out = sys.argv[1:4]
    now = datetime.now(UTC)
    clock = windowing.EventClock(event_time, LATENESS, now_getter=lambda: now, to_system_utc=lambda _: None)
    flow = Dataflow("windows")
    messages = op.input("in", flow, KafkaSource([brokers], [topic], tail=False, batch_size=1000))
    readings = op.filter_map("parse", messages, parsed)
    windows = windowing.fold_window(
        "fold", readings, clock, windowing.TumblingWindower(WINDOW, EPOCH), nothing, folded, merged
    )
    op.output("out", op.map("write", windows.down, written), FileSink(Path(out)))
    run_main(flow)


if __name__ == "__main__":
    main()
