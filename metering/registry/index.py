"""Which meter, and which version of it, a reading belongs to.

Here: the index that turns meter ids into small integers, at the cost of the rows looked up and not of the registry.
Not here: reading or checking the registry (`registry`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from metering.tables.lake import WINDOW_S

_OPEN_US = 2**63 - 1
_MANY_ROWS, _MANY_METERS = 1024, 8192
_BUCKETS_A_METER = 4


@dataclass(frozen=True, slots=True, eq=False)
class MeterIndex:
    """Index over `meter_versions` (one row for each version of a meter, sorted by meter_id and valid_from).

    A meter's code is its place among the ids. By code: `names` the ids, `first` the row in meter_versions of its first
    version, `scalar_like` whether the id could also be the text of a JSON number or literal. `ids`: the ids as a type.
    """

    meter_versions: pl.DataFrame
    names: pl.Series
    ids: pl.Enum
    first: pl.Series
    scalar_like: pl.Series
    _newest: pl.Series
    _cast: pl.Expr
    _guess: pl.Expr
    _newest_version: list[pl.Expr]

    @classmethod
    def of(cls, meter_versions: pl.DataFrame) -> MeterIndex:
        meters = (
            meter_versions.with_row_index("version")
            .group_by("meter_id", maintain_order=True)
            .agg(pl.col("version").first().alias("first"), pl.col("version").last().alias("newest"))
            .rechunk()
        )
        names, newest = meters["meter_id"], meters["newest"]
        ids = pl.Enum(names)
        return cls(
            meter_versions=meter_versions,
            names=names,
            ids=ids,
            first=meters["first"],
            scalar_like=names.str.contains(r"^\s*(-?[0-9]|true$|false$|null$|\[|\{)"),
            _newest=newest,
            # Made once: whenever Python hands an Enum to Polars, all its categories are hashed.
            _cast=pl.first().cast(ids, strict=False).to_physical().cast(pl.UInt32).alias("meter"),
            _guess=_code_by_hash(names),
            _newest_version=_newest_version(meter_versions, newest),
        )

    def code(self, meter_id: pl.Series) -> pl.Series:
        """Codes [UInt32] of meter ids; null where the registry does not know one."""
        asked = meter_id.to_frame()
        if len(meter_id) < _MANY_ROWS or len(self.names) < _MANY_METERS:
            return asked.select_seq(self._cast).to_series()
        # A cast waits for memory at every id (100 ns, of 300,000 meters), a gather only now and then (25 ns).
        code = asked.select_seq(self._guess).to_series()
        rows = self.names.gather(code).ne_missing(meter_id).arg_true()
        return code.scatter(rows, asked[rows].select_seq(self._cast).to_series()) if len(rows) else code

    def version(self, meter: pl.Series, ts: pl.Series) -> pl.Series:
        """Rows in `meter_versions` [UInt32] of each (code, time): stamps_from < ts <= stamps_to; null where none is."""
        asked = pl.DataFrame([meter.alias("meter"), ts.alias("ts")])
        version, valid = asked.select_seq(self._newest_version)
        if valid.all():  # nearly every reading is of its meter's newest version
            return version
        rows = (~valid).arg_true()
        return version.scatter(rows, self._any_version(meter.gather(rows), ts.gather(rows)))

    def version_of_window(self, meter: pl.Series, end: pl.Series) -> pl.Series:
        """Rows in `meter_versions` [UInt32] of each (code, window end): the one in force at its end, or last in it."""
        version = self.version(meter, end)
        if not version.has_nulls():
            return version
        rows = version.is_null().arg_true()
        begin, stop = (self.meter_versions[name].rechunk() for name in ("valid_from", "valid_to"))
        first, found = self.first.gather(meter.gather(rows)), self._newest.gather(meter.gather(rows))
        at = end.gather(rows)
        while (later := (found > first) & (begin.gather(found) > at)).any():
            found = found - later.cast(pl.UInt32).fill_null(0)
        start = at.dt.offset_by(f"-{WINDOW_S}s")
        inside = (begin.gather(found) <= at) & (stop.gather(found) > start)
        return version.scatter(rows, found.set(~inside.fill_null(False), None))

    def _any_version(self, meter: pl.Series, ts: pl.Series) -> pl.Series:
        """As `version`: from the meters' newest versions back, one a turn."""
        first, version = self.first.gather(meter), self._newest.gather(meter)
        while (earlier := (version > first) & (ts <= self.meter_versions["stamps_from"].gather(version))).any():
            version = version - earlier.cast(pl.UInt32).fill_null(0)
        begin, end = (self.meter_versions[name].gather(version) for name in ("stamps_from", "stamps_to"))
        valid = (ts > begin) & (end.is_null() | (ts <= end))
        return version.set(~valid.fill_null(False), None)


def _code_by_hash(names: pl.Series) -> pl.Expr:
    """The code of the first id with the same hash, cut to some bits: that of the id itself, or of another."""
    size = 1 << (_BUCKETS_A_METER * len(names)).bit_length()
    bits = pl.first().hash() & (size - 1)
    codes = names.to_frame().select(bits.alias("bits"), pl.int_range(pl.len(), dtype=pl.UInt32).alias("code"))
    first = codes.unique("bits", keep="first")
    table = pl.Series([None], dtype=pl.UInt32).new_from_index(0, size).scatter(first["bits"], first["code"])
    return pl.lit(table).gather(bits).alias("meter")


def _newest_version(meter_versions: pl.DataFrame, newest: pl.Series) -> list[pl.Expr]:
    """The row of the newest version of `meter`, and whether `ts` lies in it."""
    begin_us = meter_versions["stamps_from"].to_physical().gather(newest)
    end_us = meter_versions["stamps_to"].to_physical().fill_null(_OPEN_US).gather(newest)

    def of_meter(by_code: pl.Series) -> pl.Expr:
        return pl.lit(by_code).gather(pl.col("meter"))

    ts_us = pl.col("ts").to_physical()
    valid = (ts_us > of_meter(begin_us)) & (ts_us <= of_meter(end_us))
    return [of_meter(newest).alias("version"), valid.fill_null(False).alias("valid")]
