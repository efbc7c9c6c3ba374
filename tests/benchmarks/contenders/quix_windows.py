"""Quix Streams: a tumbling window by meter, its results to a topic, its state in its own store with its changelog.

    python quix_windows.py BROKERS TOPIC RESULTS STATE_FOLDER COUNT

In the rivals' environment. No rules, no lake; it ends after COUNT messages.
"""

import sys
from datetime import datetime, timedelta

from quixstreams import Application

WINDOW = timedelta(minutes=15)
LATENESS = timedelta(minutes=5)


def event_time(value, _headers, _timestamp, _type):
    # a window is (end - 15 min, end], Quix's is [start, end)
    return int(datetime.fromisoformat(value["ts"]).timestamp() * 1000) - 1


def first(reading):
    p, u = reading["p_kw"], (reading["ua_v"], reading["ub_v"], reading["uc_v"])
    return [1, p, p, p, reading["q_kvar"], min(u), max(u)]


def reduced(sums, reading):
    p, ua, ub, uc = reading["p_kw"], reading["ua_v"], reading["ub_v"], reading["uc_v"]
    return [
        sums[0] + 1,
        sums[1] + p,
        max(sums[2], p),
        min(sums[3], p),
        sums[4] + reading["q_kvar"],
        min(sums[5], ua, ub, uc),
        max(sums[6], ua, ub, uc),
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
    windows = readings.tumbling_window(WINDOW, grace_ms=LATENESS).reduce(reduced, first).final()
    windows.to_topic(app.topic(results, value_serializer="json"))
    app.run(count=int(count), collect=False)


if __name__ == "__main__":
    main()
