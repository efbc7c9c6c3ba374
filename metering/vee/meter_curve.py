"""The day of each meter, quarter-hour by quarter-hour: what was measured, checked, estimated and edited.

Here: putting validation, estimation and edits together, and the sums of a meter's day. Every figure of a customer's
energy, in whatever table, is a sum of these rows. Not here: the single steps (`estimation`, `validation`, `edits`),
sums over a customer's meters (`metering.load.curve`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import polars as pl

from metering.calendar import local_date
from metering.load.registers import chain_of, step
from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS, METER_CURVE, REGISTER_ENDS
from metering.tables.lake import CHAIN
from metering.tables.schema import TIMESTAMP, finite, no_rows
from metering.tables.warehouse import METER_DAILY
from metering.text import filled
from metering.vee import edits
from metering.vee.chains import end_of
from metering.vee.estimation import MISSING_RULE, estimate, gaps, reference_days
from metering.vee.expected import QUARTER_HOUR_MIN, due_points
from metering.vee.findings import FINDINGS, MeterDay
from metering.vee.validation import findings_of_day, repeated

VALIDATED, EDITED, RAW, ESTIMATED, MISSING = "validated", "edited", "raw", "estimated", "missing"
WINDOW_VALUES = (
    "n", "n_expected", "covered_min", "p_mean_kw", "q_mean_kvar", "energy_kwh", "energy_basis", "reason",
    "import_kvarh", "export_kvarh", "q_import_kvarh", "q_export_kvarh", "u_max_v", *REGISTER_ENDS, CHAIN,
    "estimates",
)  # fmt: skip
"""Values of a window (BATCH_WINDOWS) that a meter's curve is made of."""
START = pl.Schema(
    {
        "meter_id": pl.String(),
        "window_end": TIMESTAMP,
        "chain": pl.Int64(),
        **dict.fromkeys((*REGISTER_ENDS, "p_mean_kw", "q_mean_kvar"), pl.Float64()),
    }
)
"""What a meter read for the slot that ends where a day starts: registers (of which chain: `chain_of`), and power."""
_OF_VERSION = (
    "nominal_v", "register_modulus", "chain", "step_most_kw", "step_tolerance", "step_count_kwh", "multiplier",
)  # fmt: skip
_SAME_KW = 1e-6
"""Powers as close as that are one: what sums of decimals are off by."""
GIVEN = "given_estimate"
"""Rule of what came as an estimate of whoever exported it."""
_TOLERANCE_MIN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What is known beside a day's own windows.

    `start`: what meters read at the moment when the day starts (START); `windows` (BATCH_WINDOWS) of days around it, of
    those meters at least that `reaching` names; `earlier` (START): what these read when the first of those days
    started; `history` (METER_DAILY) of the days before it; `edits` (EDITS); `until`, the newest watermark (None: the
    day is over); `told` (FINDINGS): what other checks say of the day.
    """

    start: pl.DataFrame
    windows: pl.DataFrame
    earlier: pl.DataFrame
    history: pl.DataFrame
    edits: pl.DataFrame
    until: datetime | None = None
    told: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=FINDINGS))

    @classmethod
    def nothing(cls, until: datetime | None = None) -> Beside:
        """For a day that stands alone."""
        empty = no_rows(START)
        return cls(
            start=empty,
            windows=BATCH_WINDOWS.empty(),
            earlier=empty,
            history=METER_DAILY.empty(),
            edits=edits.EDITS.empty(),
            until=until,
        )


def reaching(
    windows: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, until: datetime | None
) -> list[str]:
    """Meters whose gaps on the local `day` need days beside it: at its edges, or too long for a straight line."""
    points = _points(windows, due_points(meter_versions, day, settings, until), meter_versions)
    theirs = points.filter((~pl.col("known")).any().over("meter_id"))
    edge = (pl.col("quarter") == pl.col("quarter").min().over("meter_id")) | (
        pl.col("quarter") == pl.col("quarter").max().over("meter_id")
    )
    short = (pl.col("gap_min") <= settings.vee.linear_gap_min).fill_null(False)
    lacking = ~pl.col("known") & (edge | (pl.col("p_kw").is_null() & ~short))
    found = gaps(theirs.with_columns(meter="meter_id", dark=pl.lit(False))).filter(lacking)
    return found["meter_id"].unique().sort().to_list()


def meter_curve(
    windows: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, beside: Beside
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """METER_CURVE of the local `day`, and the FINDINGS of its validations.

    `windows`: BATCH_WINDOWS of the day, WINDOW_VALUES of them at least. A quarter-hour is `validated` where all of its
    readings are there and every check passed; `raw` where a check failed and the value is what came; `estimated` where
    it is wholly or partly filled or spread; `edited`; else `missing`, with nulls.
    """
    due = due_points(meter_versions, day, settings, beside.until)
    if due.is_empty():
        return METER_CURVE.empty(), pl.DataFrame(schema=FINDINGS)
    points = _points(windows, due, meter_versions, beside.start)
    unread = [pl.col(n).is_null() & pl.col(end_of(n)).is_not_null() for n in ("import_kvarh", "export_kvarh")]
    open_meters = points.filter(~pl.col("known") | pl.any_horizontal(unread))["meter_id"].unique()
    whole = points.filter(~pl.col("meter_id").is_in(open_meters.implode()))
    parts = [whole.with_columns(rule=pl.lit(None, pl.String), reason=pl.lit(None, pl.String))]
    if len(open_meters):
        theirs = points.filter(pl.col("meter_id").is_in(open_meters.implode()))
        parts.append(_estimated(theirs, meter_versions, day, settings, beside))
    points = pl.concat([part.select(parts[0].columns) for part in parts]).sort("meter_id", "quarter")
    first = points.unique("meter_id", keep="first").select("meter_id", "chain")
    found = MeterDay(
        day=day,
        points=points,
        start=beside.start.join(first, on=["meter_id", "chain"], how="semi"),
        meters=points.group_by("meter_id").agg(pl.col("multiplier", "register_modulus").last()),
        history=beside.history,
        min_history_days=settings.vee.min_history_days,
        alike=_alike(beside.history["date"].unique().to_list(), day, settings),
    )
    findings = pl.concat([findings_of_day(found, settings.vee).select(FINDINGS.names()), beside.told])
    curve = METER_CURVE.conform(finite(edits.applied(_judged(points, findings), beside.edits)), date=day)
    return METER_CURVE.ordered(curve), findings


def meter_daily(curve: pl.DataFrame, before: pl.DataFrame, day: date) -> pl.DataFrame:
    """METER_DAILY of the local `day`: sums of each meter's METER_CURVE. `before`: METER_DAILY of the day before it."""
    yesterday = before.filter(pl.col("date") == day - timedelta(days=1))
    runs = repeated(curve, yesterday.select("meter_id", run="repeated_points", run_kw="repeated_kw"))
    energies = ("energy_kwh", "export_kwh", "import_kvarh", "export_kvarh")
    sums = curve.group_by("meter_id").agg(
        pl.col("customer_no").last(),
        *(pl.when(pl.col(e).count() > 0).then(pl.col(e).sum()).alias(e) for e in energies),
        pl.col("p_kw").max().alias("p_max_kw"),
        pl.len().cast(pl.Int32).alias("points"),
        pl.col("energy_kwh").count().cast(pl.Int32).alias("known_points"),
        *(
            (pl.col("status") == status).sum().cast(pl.Int32).alias(f"{status}_points")
            for status in (VALIDATED, RAW, ESTIMATED, EDITED)
        ),
    )
    used = pl.col("energy_kwh") + pl.col("export_kwh").fill_null(0)
    rows = sums.join(runs, on="meter_id", how="left").join(
        yesterday.select("meter_id", zero_before="zero_days"), on="meter_id", how="left"
    )
    return METER_DAILY.ordered(
        METER_DAILY.conform(
            rows.with_columns(
                pl.when(used == 0).then(pl.col("zero_before").fill_null(0) + 1).otherwise(0).alias("zero_days"),
                pl.col("repeated_points").fill_null(0),
            ),
            date=day,
        )
    )


def _points(
    windows: pl.DataFrame, due: pl.DataFrame, meter_versions: pl.DataFrame, start: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The quarter-hours due with what their windows say of them; sorted by meter_id and quarter.

    `start`: windows that end where the day starts, for the registers there.
    """
    values = finite(windows.select("meter_id", "window_end", *WINDOW_VALUES))
    rows = due.join(values, on=["meter_id", "window_end"], how="left", maintain_order="left").with_columns(
        meter_versions[name].gather(due["version"]) for name in _OF_VERSION
    )
    rows = rows.with_columns(chain_of()).drop(CHAIN)
    before = _ends_before(rows, start)
    whole = (pl.col("covered_min") >= pl.col("due_min") - _TOLERANCE_MIN).fill_null(False)
    registered = (pl.col("energy_basis") == "registers").fill_null(False)
    powered = (pl.col("energy_basis") == "power").fill_null(False)
    # energy without a basis is no number of any meter's, though its power may be
    net = pl.coalesce("energy_kwh", pl.when(whole).then(pl.col("p_mean_kw") * pl.col("due_min") / 60))
    most = pl.col("step_most_kw") * pl.col("due_min") / 60
    exported = step(pl.col("export_kwh_before"), pl.col("export_kwh_end"), pl.col("register_modulus"), most)
    negative = (-net).clip(lower_bound=0)
    export = pl.when(registered).then(pl.coalesce(exported, negative)).otherwise(negative)
    # what power was integrated over stands for all that was due
    stretched = pl.when(pl.col("covered_min") > 0).then(pl.col("due_min") / pl.col("covered_min")).otherwise(1.0)
    per_hour = 60 / QUARTER_HOUR_MIN
    measured_mean = whole & (pl.col("due_min") >= QUARTER_HOUR_MIN) & pl.col("p_mean_kw").is_not_null()
    # what registers counted is what was used: power agrees with it
    same = ((pl.col("p_mean_kw") - net * per_hour).abs() <= _SAME_KW).fill_null(False)
    measured_mean &= ~registered | same
    return before.with_columns(
        _quarter().alias("quarter"),
        ((registered | (powered & whole)) & net.is_not_null()).alias("known"),
        pl.when(measured_mean | ~(registered | whole))
        .then(pl.coalesce("p_mean_kw", net * per_hour))
        .otherwise(net * per_hour)
        .alias("p_kw"),
        pl.col("q_mean_kvar").alias("q_kvar"),
        (net + export).alias("import_kwh"),
        export.alias("export_kwh"),
        pl.coalesce("import_kvarh", pl.col("q_import_kvarh") * stretched).alias("import_kvarh"),
        pl.coalesce("export_kvarh", pl.col("q_export_kvarh") * stretched).alias("export_kvarh"),
        pl.col("reason").alias("window_reason"),
        (pl.col("energy_basis") == "spread").fill_null(False).alias("spread"),
        (registered | (pl.col("energy_basis") == "spread").fill_null(False)).alias("registered"),
        pl.lit(False).alias("edge"),
    ).drop("reason", "export_kwh_before")


def _ends_before(rows: pl.DataFrame, start: pl.DataFrame | None) -> pl.DataFrame:
    """With `export_kwh_before`: the export register at the start of each quarter-hour, of the same chain."""
    before = [pl.col(name).shift(1).over("meter_id").alias(f"{name}_before") for name in ("export_kwh_end", "chain")]
    rows = rows.with_columns(before)
    if start is not None:
        first = pl.int_range(pl.len()).over("meter_id") == 0
        at_start = start.select("meter_id", at_start="export_kwh_end", chain_at_start="chain")
        rows = rows.join(at_start, on="meter_id", how="left", maintain_order="left").with_columns(
            pl.when(first).then("at_start").otherwise("export_kwh_end_before").alias("export_kwh_end_before"),
            pl.when(first).then("chain_at_start").otherwise("chain_before").alias("chain_before"),
        )
    same = pl.col("chain_before") == pl.col("chain")
    found = rows.with_columns(pl.when(same).then("export_kwh_end_before").alias("export_kwh_before"))
    return found.drop("export_kwh_end_before", "chain_before", "at_start", "chain_at_start", strict=False)


def _estimated(
    points: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: MeteringSettings, beside: Beside
) -> pl.DataFrame:
    """`points` of meters with unknown quarter-hours, filled in with the help of the days beside theirs."""
    meters = points.select("meter_id").unique().sort("meter_id").with_row_index("meter")
    versions = meter_versions.with_row_index("version").join(meters, on="meter_id", how="semi")
    near = beside.windows.join(meters, on="meter_id", how="semi")
    reach = timedelta(days=settings.vee.register_gap_days)
    dates = near.select(local_date(pl.col("window_end"), settings.timezone).unique().alias("date"))["date"].sort()
    around = [d for d in dates if d != day and day - reach <= d <= day + reach]
    stretch = [points]
    for other in around:
        due = due_points(versions.drop("version"), other, settings, beside.until)
        due = due.with_columns(versions["version"].gather(due["version"]))
        stretch.append(_points(near, due, meter_versions).select(points.columns))
    if around and around[0] < day:
        stretch.append(_edge(stretch[1], beside.earlier))
    if day - timedelta(days=1) not in around:
        stretch.append(_edge(points, beside.start))
    rows = pl.concat(stretch).join(meters, on="meter_id").sort("meter", "quarter")
    nominal = settings.vee.power_failure_below * pl.col("nominal_v")
    rows = rows.with_columns(dark=(pl.col("u_max_v") < nominal).fill_null(False))
    unknown = rows.filter(~pl.col("known") & pl.col("p_kw").is_null())
    reference = reference_days(
        unknown.select("meter", "quarter", *placed(settings)), _measured(near, meters, points, settings),
        settings.vee.reference_days,
    )  # fmt: skip
    filled = estimate(rows, reference, settings.vee)
    first, last = points["quarter"].min(), points["quarter"].max()
    return filled.filter(pl.col("quarter").is_between(first, last)).drop("meter", "dark")


def _edge(points: pl.DataFrame, start: pl.DataFrame) -> pl.DataFrame:
    """The quarter-hour before the first of each meter, as far as what was read at its end tells of it."""
    read = start.rename({"p_mean_kw": "p_kw", "q_mean_kvar": "q_kvar"}).with_columns(quarter=_quarter())
    first = points.unique("meter_id", keep="first", maintain_order=True)
    theirs = [name for name in read.columns if name != "meter_id"]
    plain = first.with_columns(quarter_after="quarter").drop(theirs)
    rows = plain.join(read, on="meter_id", maintain_order="left")
    rows = rows.filter(pl.col("quarter") == pl.col("quarter_after") - 1)
    return rows.with_columns(known=pl.lit(True), edge=pl.lit(True)).select(points.columns)


def _quarter() -> pl.Expr:
    return pl.col("window_end").dt.epoch("s") // (QUARTER_HOUR_MIN * 60)


def _alike(dates: list[date], day: date, settings: MeteringSettings) -> frozenset[date]:
    """Those of `dates` that are workdays, or days off, as the `day` is."""

    def off(at: date) -> bool:
        return at in settings.holidays or (at.weekday() > 4 and at not in settings.workdays)

    return frozenset(at for at in dates if off(at) == off(day))


def placed(settings: MeteringSettings) -> list[pl.Expr]:
    """date, slot (quarter-hour of the local clock) and kind (whether it is a day off) of `window_end`."""
    at = local_date(pl.col("window_end"), settings.timezone)
    start = pl.col("window_end").dt.offset_by(f"-{QUARTER_HOUR_MIN}m").dt.convert_time_zone(settings.timezone)
    off = at.is_in(list(settings.holidays)) | ((at.dt.weekday() > 5) & ~at.is_in(list(settings.workdays)))
    slot = (
        start.dt.hour().cast(pl.Int32) * (60 // QUARTER_HOUR_MIN) + start.dt.minute().cast(pl.Int32) // QUARTER_HOUR_MIN
    )
    return [at.alias("date"), slot.alias("slot"), off.alias("kind")]


def _measured(
    near: pl.DataFrame, meters: pl.DataFrame, points: pl.DataFrame, settings: MeteringSettings
) -> pl.DataFrame:
    """What reference days are made of: quarter-hours with power, all of whose readings are there."""
    near_columns = ("meter_id", "window_end", "p_mean_kw", "q_mean_kvar", "covered_min", "energy_kwh", "energy_basis")
    rows = pl.concat([near.select(near_columns), points.select(near_columns)])
    rows = rows.unique(["meter_id", "window_end"], keep="last")
    registered = pl.when(pl.col("energy_basis") == "registers").then(pl.col("energy_kwh") * 60 / QUARTER_HOUR_MIN)
    power = pl.coalesce("p_mean_kw", registered)  # of a meter with registers alone these tell its power
    whole = (pl.col("covered_min") >= QUARTER_HOUR_MIN - _TOLERANCE_MIN) & power.is_not_null()
    return (
        rows.filter(whole)
        .join(meters, on="meter_id")
        .select("meter", *placed(settings), power.alias("p_kw"), pl.col("q_mean_kvar").alias("q_kvar"))
    )


def _judged(points: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """With `status`, and the rule and reason of the first warning where the value is what came."""
    said = findings.filter(pl.col("severity") == "warning").with_columns(
        said=pl.concat_str(pl.col("rule"), pl.lit(": "), pl.col("detail"))
    )
    of_point = _first(said.filter(pl.col("window_end").is_not_null()), ["meter_id", "window_end"])
    of_day = _first(said.filter(pl.col("window_end").is_null()), ["meter_id"])
    rows = (
        points.join(of_point, on=["meter_id", "window_end"], how="left", maintain_order="left")
        .join(of_day, on=["meter_id"], how="left", maintain_order="left", suffix="_of_day")
        .with_columns(
            pl.coalesce("failed", "failed_of_day").alias("failed"), pl.coalesce("said", "said_of_day").alias("said")
        )
    )
    measured = pl.col("rule").is_null()
    given = measured & (pl.col("estimates") > 0).fill_null(False)
    said_so = filled("its readings say that they are estimates: {} (status bit 65,536)", "estimates")
    return rows.with_columns(
        pl.when(pl.col("rule") == MISSING_RULE)
        .then(pl.lit(MISSING))
        .when(~measured | given)
        .then(pl.lit(ESTIMATED))
        .when(pl.col("failed").is_not_null())
        .then(pl.lit(RAW))
        .otherwise(pl.lit(VALIDATED))
        .alias("status"),
        pl.when(given).then(pl.lit(GIVEN)).when(measured).then("failed").otherwise("rule").alias("rule"),
        pl.when(given)
        .then(pl.concat_str(said_so, "said", separator="; ", ignore_nulls=True))
        .when(measured)
        .then("said")
        .otherwise("reason")
        .alias("reason"),
        pl.col("import_kwh").alias("energy_kwh"),
    )


def _first(said: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    return said.group_by(by, maintain_order=True).agg(
        pl.col("rule").first().alias("failed"), pl.col("said").unique(maintain_order=True).str.join("; ")
    )
