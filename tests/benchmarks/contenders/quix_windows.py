"""Quix Streams: a tumbling window by meter, its results to a topic, its state in its own store with its changelog.

    python quix_windows.py BROKERS TOPIC RESULTS STATE_FOLDER COUNT

In the rivals' environment. No rules, no lake; a reading that comes twice counts once. It ends after COUNT messages.
"""

import sys
from datetime import timedelta

from quixstreams import Application

WINDOW = timedelta(minutes=15)
LATENESS = timedelta(minutes=5)
IMPLAUSIBLE_MS = 946_684_800_000  # before 2000


def event_time(value, _headers, _timestamp, _type):
    # a window is (end - 15 min, end], Quix's is [start, end)
    return max((value["ts"] or 0) - 1, 0)


def usable(reading):
    return reading["ts"] is not None and reading["ts"] >= IMPLAUSIBLE_MS


def minute(reading):
    return 1 << reading["ts"] // 60_000 % 15


def first(reading):
    p, u = reading["p_kw"], (reading["ua_v"], reading["ub_v"], reading["uc_v"])
    return [1, p, p, p, reading["q_kvar"], min(u), max(u), minute(reading)]


def reduced(sums, reading):
    at = minute(reading)
    if sums[7] & at:  # it came twice
        return sums
    p, ua, ub, uc = reading["p_kw"], reading["ua_v"], reading["ub_v"], reading["uc_v"]
    return [
        sums[0] + 1,
        sums[1] + p,
        max(sums[2], p),
        min(sums[3], p),
        sums[4] + reading["q_kvar"],
        min(sums[5], ua, ub, uc),
        max(sums[6], ua, ub, uc),
        sums[7] | at,
    ]


def main():
    brokers, topic, results, state, count = sys.argv[1:6]
    app = Application(
        broker_address=brokers,
        consumer_group=results,
        auto_offset_reset="earliest",
        state_dir=state,
        loglevel="WARNING",
    )
    readings = app.dataframe(app.topic(topic, value_deserializer="json", timestamp_extractor=event_time))
    windows = readings.filter(usable).tumbling_window(WINDOW, grace_ms=LATENESS).reduce(reduced, first).final()
    windows.to_topic(app.topic(results, value_serializer="json"))
    app.run(count=int(count), collect=False)


if __name__ == "__main__":
    main()
