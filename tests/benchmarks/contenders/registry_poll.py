"""CPU of decoding a poll of 8 readings, with the registry of a home.

    python registry_poll.py HOME OUT.json POLLS

Milliseconds of the whole process, median and mean, once the registry is read; the readings are a minute's, a poll's
meters far apart.
"""

import json
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

READINGS = 8
MINUTE_MS = 60_000


def main() -> None:
    from metering.readings.decode import Messages, decode
    from metering.registry.index import MeterIndex
    from metering.registry.meter_versions import meter_versions
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings

    home, out, polls = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = load_settings(home)
    registry = load(home, settings)
    index = MeterIndex.of(meter_versions(registry.customers, registry.meters, settings.metering))
    ids = registry.meters["meter_id"].unique().sort()
    now = datetime.now(UTC)
    ts = round(now.timestamp() * 1000) // MINUTE_MS * MINUTE_MS
    took = []
    for poll in range(polls):
        meters = ids.gather([(poll * 7919 + number * len(ids) // READINGS) % len(ids) for number in range(READINGS)])
        values = [
            b'{"meter_id":"%s","ts":%d,"ua_v":57.7,"ub_v":57.8,"uc_v":57.6,"ia_a":0.58,"ib_a":0.57,"ic_a":0.59,'
            b'"p_kw":200.1,"q_kvar":60.2,"import_kwh":1234.5,"import_kvarh":321.0}' % (meter.encode(), ts)
            for meter in meters
        ]
        offsets = range(poll * READINGS, (poll + 1) * READINGS)
        start = time.process_time()
        found = decode(Messages(values, offsets, [ts] * READINGS, [None] * READINGS), index, 300, now)
        took.append((time.process_time() - start) * 1000)
        assert found.accepted.height == READINGS, found.rejects
    out.write_text(json.dumps({"median_ms": statistics.median(took), "mean_ms": statistics.mean(took)}), "utf-8")


if __name__ == "__main__":
    main()
