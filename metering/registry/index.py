"""Which meter, and which version of it, a reading belongs to.

Here: the index that turns meter ids into small integers, at the cost of the rows looked up and not of the registry.
Not here: reading or checking the registry (`registry`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, slots=True)
class MeterIndex:
    """Index over `meter_versions` (one row for each version of a meter, sorted by meter_id and valid_from).

    `ids` maps a meter id to its code, `first` gives the row in meter_versions of a code's first version, `several` the
    codes with more than one version, `scalar_like` whether an id could also be the text of a JSON number or literal.
    `plain`: no meter has an end or a second version, so that only times up to `newest_start_us` (epoch
    microseconds: a time zone may put it before Python's year 1) need a closer look.
    """

    meter_versions: pl.DataFrame
    ids: pl.Enum
    first: pl.Series
    scalar_like: pl.Series
    several: pl.Series
    newest_start_us: int | None
    plain: bool

    @classmethod
    def of(cls, meter_versions: pl.DataFrame) -> MeterIndex:
        numbered = meter_versions.with_row_index("version")
        meters = numbered.group_by("meter_id", maintain_order=True).agg(
            pl.col("version").first(), pl.len().alias("versions"), pl.col("valid_from").first()
        )
        codes = meters.with_row_index("meter")
        return cls(
            meter_versions=meter_versions,
            ids=pl.Enum(meters["meter_id"]),
            first=meters["version"],
            scalar_like=meters["meter_id"].str.contains(r"^\s*(-?[0-9]|true$|false$|null$|\[|\{)"),
            several=codes.filter(pl.col("versions") > 1)["meter"],
            newest_start_us=newest
            if isinstance(newest := meter_versions["valid_from"].to_physical().max(), int)
            else None,
            plain=meter_versions["valid_to"].is_null().all() and bool((meters["versions"] == 1).all()),
        )

    @property
    def names(self) -> pl.Series:
        """Meter ids by code."""
        return pl.Series(self.ids.categories)

    def code(self, meter_id: pl.Series) -> pl.Series:
        """Codes [UInt32] of meter ids; null where the registry does not know one."""
        return meter_id.cast(self.ids, strict=False).to_physical().cast(pl.UInt32).alias("meter")

    def version(self, meter: pl.Series, ts: pl.Series) -> pl.Series:
        """Rows in `meter_versions` [UInt32] of each (code, time): valid_from < ts <= valid_to; null where none is."""
        version = self.first.gather(meter).alias("version")
        if self.plain and self._all_after(ts):
            return version
        rows = pl.DataFrame([meter.alias("meter"), ts.alias("ts"), version]).with_row_index("row")
        if not self.several.is_empty():
            rows = self._pick_version(rows)
        span = [self.meter_versions[name].gather(rows["version"]) for name in ("valid_from", "valid_to")]
        valid = rows.with_columns(span).select(
            pl.when(
                (pl.col("ts") > pl.col("valid_from"))
                & (pl.col("valid_to").is_null() | (pl.col("ts") <= pl.col("valid_to")))
            ).then("version")
        )
        return valid.to_series().alias("version")

    def _all_after(self, ts: pl.Series) -> bool:
        oldest = ts.to_physical().min()
        return (
            not ts.has_nulls()
            and isinstance(oldest, int)
            and self.newest_start_us is not None
            and oldest > self.newest_start_us
        )

    def _pick_version(self, rows: pl.DataFrame) -> pl.DataFrame:
        versions = self.meter_versions.select(
            "valid_from",
            meter=self.code(self.meter_versions["meter_id"]),
            newest=pl.int_range(pl.len(), dtype=pl.UInt32),
        )
        picked = (
            rows.filter(pl.col("meter").is_in(self.several.implode()))
            .sort("ts")
            .join_asof(
                versions.sort("valid_from"), left_on="ts", right_on="valid_from", by="meter",
                strategy="backward", allow_exact_matches=False, check_sortedness=False,
            )
            .select("row", "newest")
        )  # fmt: skip
        return rows.join(picked, on="row", how="left", maintain_order="left").with_columns(
            version=pl.coalesce("newest", "version")
        )
