"""The daily assets but forecasts, without Dagster and its checks: computed, published, and the warehouse built.

python daily_kilowatch.py HOME DAY
"""

import sys
from datetime import date
from pathlib import Path


def main() -> None:
    from assets.batch import Batch
    from assets.catalogue import RESULTS
    from metering.tables.batch import BATCH
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings
    from sinks.warehouse import build

    home, day = Path(sys.argv[1]), date.fromisoformat(sys.argv[2])
    settings = load_settings(home)
    batch = Batch(home, settings.metering, lambda: load(home, settings))
    for result in RESULTS:
        if result.group != "forecast":
            stage = batch.marts.stage()
            for part in result.compute(batch, [day]):
                stage.write(batch.tables.get(result.table) or BATCH[result.table], part.partition, part.rows)
            stage.publish()
    build(home, batch.tables)


if __name__ == "__main__":
    main()
