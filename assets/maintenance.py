"""The upkeep of the lake as an asset: each run is one round, and its metadata say what that did.

Here: the asset and how a report is shown. Not here: the round (`sinks.lake.maintenance`), when it runs
(`orchestration`).
"""

from collections.abc import Callable

import dagster as dg

from metering.errors import KilowatchError
from sinks.lake.maintenance import Report

UPKEEP = "lake_upkeep"
_SHOWN = 50


def upkeep_asset(round_: Callable[[], Report]) -> dg.AssetsDefinition:
    """The asset `lake_upkeep`; `round_` does one round over the lake."""

    @dg.asset(
        name=UPKEEP,
        group_name="upkeep",
        description="Small parts of the lake merged into few; days past `retention.lake_days` taken out.",
        kinds={"parquet"},
    )
    def lake_upkeep(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        try:
            report = round_()
        except KilowatchError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        for reason in report.skipped:
            context.log.warning(reason)
        return dg.MaterializeResult(metadata=_metadata(report))

    return lake_upkeep


def _metadata(report: Report) -> dict[str, dg.MetadataValue | int]:
    names = ("rows", "parts_before", "parts_after", "bytes_before", "bytes_after")
    totals = {name: sum(getattr(day, name) for day in report.compacted) for name in names}
    metadata: dict[str, dg.MetadataValue | int] = {
        **totals,
        "days_compacted": len(report.compacted),
        "days_taken_out": len(report.expired),
    }
    if report.compacted:
        rows = [(d.table, d.day, *(getattr(d, name) for name in names)) for d in report.compacted]
        metadata["compacted"] = _table(("table", "day", *names), rows)
    if report.expired:
        metadata["taken_out"] = _table(("table", "day", "parts"), [(e.table, e.day, e.parts) for e in report.expired])
    if report.skipped:
        metadata["left_as_it_was"] = dg.MetadataValue.md("\n".join(f"- {reason}" for reason in report.skipped))
    return metadata


def _table(heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> dg.MetadataValue:
    lines = [heads, ("---",) * len(heads), *rows[:_SHOWN]]
    more = f"\nand {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + more)
