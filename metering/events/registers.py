"""What a meter's registers did between its readings, as values that rules look at.

Here: for each reading, how far each register went back, and what it counted against power and rating since the reading,
or the block, before. Not here: which step a meter can have made (`metering.load.registers`), rules (`judge`).

A step leads from a reading to the next of its meter, or from the end of one block (`metering.readings.slots`) to the
end of the next, where a reading is there for every slot of it: only there the integral of power is known. Steps across
versions of a meter, or sums of energies, that are no one chain, or over more than `step_days`, say nothing. Neither
does a step that leads back to where a register stood before a wrong value.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from metering.load.registers import apart, chain_of, difference, step
from metering.readings.slots import is_last, placed
from metering.settings import MeteringSettings
from metering.tables.lake import CHAIN, REGISTERS, WINDOW_S

BACK, MULTIPLE, RATIO, APART, STOOD = "back", "multiple", "ratio", "apart", "stood"
OF_POWER = ("import_kwh", "export_kwh")
"""The registers that are held against power."""


def value(register: str, what: str) -> str:
    """The name of a value of a register."""
    return f"{register}_{what}"


VALUES = (
    *(value(register, what) for register in REGISTERS for what in (BACK, MULTIPLE)),
    *(value(register, what) for register in OF_POWER for what in (RATIO, APART, STOOD)),
)
"""Values of a reading; null: it says nothing."""

SEED_SCHEMA = pl.Schema(
    {
        "kwh_e6": pl.Int64(),
        "edge_us": pl.Int64(),
        **{f"edge_{register}": pl.Float64() for register in OF_POWER},
        "troubled": pl.Boolean(),
    }
)
"""Of a meter's last reading, where its block is not over: the integral of power so far [1e-6 kWh], and when the block
before was over [us], with its registers then; null where these are not known. And whether its own step was wrong, so
that the next one may be the first that is sane again."""
OF_BLOCK = tuple(name for name in SEED_SCHEMA if name != "troubled")

_OK, _DOWN, _UP = 0, -1, 1
_READINGS_BACK, _BLOCKS_BACK = 3, 2
US_PER_HOUR = 3_600_000_000
OF_VERSION = (
    "chain", "interval_s", "register_modulus", "step_most_kw", "step_tolerance", "step_count_kwh", "multiplier",
    "p_most_kw",
)  # fmt: skip
_KEY = "key"


def steps(
    rows: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, key: str = "meter"
) -> pl.DataFrame:
    """`rows` with VALUES, SEED_SCHEMA, and `wrong`: whether a step to it, or to the one before, cannot be counted.

    `rows`: one for each slot and `key`, sorted by both: `version`, `slot_us`, `end_us` (of its block), `stamp_us`,
    `p_kw` and registers. Each row is told by those of its key before it.
    """
    absent = [pl.lit(None, pl.Float64).alias(name) for name in ("p_kw", *REGISTERS) if name not in rows.columns]
    known = rows.select(
        pl.col(key).alias(_KEY), "version", "slot_us", "end_us", "stamp_us",
        *(name for name in ("p_kw", *REGISTERS, CHAIN) if name in rows.columns), *absent,
    )  # fmt: skip
    known = of_versions(known, meter_versions).with_columns(pl.lit(False).alias("troubled"))
    told = _direct(known, settings)
    blocks = _blocks(told)
    told = _with_blocks(told, blocks, settings)
    return rows.with_columns(told[(*VALUES, "wrong", *SEED_SCHEMA)])


def of_versions(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """`rows` (`version`) with OF_VERSION; `chain` is that of their registers (`metering.load.registers.chain_of`)."""
    known = rows.with_columns(meter_versions[name].gather(rows["version"]) for name in OF_VERSION)
    made = CHAIN in known.columns and known[CHAIN].null_count() < known.height
    return known.with_columns(chain_of()) if made else known


def told_by_themselves(
    readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings
) -> pl.DataFrame:
    """`readings` (`meter`, `version`, `ts`, in any order) with VALUES, where no others are known: the last of each slot
    has them.
    """
    rows = readings.with_row_index("row")
    if "slot_us" not in rows.columns:
        rows = placed(rows, meter_versions, settings.timezone)
    if "stamp_us" not in rows.columns:
        rows = rows.with_columns(rows["ts"].to_physical().alias("stamp_us"))
    ordered = rows.sort("meter", "slot_us", "stamp_us", "row")
    told = steps(ordered.filter(is_last("meter", "slot_us")), meter_versions, settings)
    joined = rows.select("row").join(told.select("row", *VALUES), on="row", how="left", maintain_order="left")
    return readings.with_columns(joined.select(VALUES).get_columns())


# --- from a reading to the next ---------------------------------------------------------------------------------------


def _direct(known: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """With what the step from the reading before says: `<register>_is` (ok, down, up), and values of it."""
    known = known.with_columns(_since(1, settings).alias("since_us"))
    known = known.with_columns(_is(name, 1, pl.col("since_us")).alias(f"{name}_is") for name in REGISTERS)
    wrong = pl.any_horizontal((pl.col(f"{name}_is") != _OK).fill_null(False) for name in REGISTERS)
    not_shown = pl.any_horizontal(
        ((pl.col(name) < 0) | (pl.col(name) >= pl.col("register_modulus"))).fill_null(False) for name in REGISTERS
    )
    known = known.with_columns(wrong.alias("wrong"), pl.lit(False).alias("after"))
    usual = [pl.lit(False).alias(f"{name}_after") for name in REGISTERS]
    if known.select((pl.col("wrong") | not_shown).any()).item():
        known = known.with_columns(_after_wrong(known)).with_columns(_starts_wrong(known, settings))
    else:
        known = known.with_columns(usual)
    return known.with_columns(value for name in REGISTERS for value in _values(name))


def _after_wrong(known: pl.DataFrame) -> list[pl.Series]:
    """`troubled`: whether a step to a reading was wrong, or began at what the register cannot show; `<register>_after`
    and `after`, whether that to the one before was.
    """
    start = {name: pl.col(name).shift(1) for name in REGISTERS}
    wrong = {
        name: (pl.col(f"{name}_is") != _OK).fill_null(False)
        | ((start[name] < 0) | (start[name] >= pl.col("register_modulus"))).fill_null(False)
        & pl.col("since_us").is_not_null()
        for name in REGISTERS
    }
    same = _same_chain(1).fill_null(False)
    found = known.select(
        pl.any_horizontal(wrong.values()).alias("troubled"),
        *((own.shift(1) & same).fill_null(False).alias(f"{name}_after") for name, own in wrong.items()),
    )
    after = found.select((pl.col("troubled").shift(1) & known.select(same).to_series()).fill_null(False))
    return [*found.get_columns(), after.to_series().alias("after")]


def _since(back: int, settings: MeteringSettings) -> pl.Expr:
    """The time since the reading so many before [us]; null where none of the same chain is."""
    passed = pl.col("stamp_us") - pl.col("stamp_us").shift(back)
    same = _same_chain(back)
    longest_us = int(settings.plausibility.step_days * 24 * US_PER_HOUR)
    return pl.when(same & passed.is_between(1, longest_us)).then(passed)


def _same_chain(back: int) -> pl.Expr:
    return (pl.col(_KEY) == pl.col(_KEY).shift(back)) & (pl.col("chain") == pl.col("chain").shift(back))


def most_of(since_us: pl.Expr) -> pl.Expr:
    """The most that a register can count in a time [kWh]; one count more where it is less than a window."""
    count = pl.min_horizontal("step_count_kwh", "multiplier")
    more = pl.when(since_us < WINDOW_S * 1_000_000).then(count).otherwise(0.0)
    return pl.col("step_most_kw") * (since_us / US_PER_HOUR) + more


def _is(name: str, back: int, since_us: pl.Expr) -> pl.Expr:
    """What the step of a register from the reading so many before is; null where it is not known, or began at what the
    register cannot show.
    """
    start, end, modulus = pl.col(name).shift(back), pl.col(name), pl.col("register_modulus")
    on = difference(start, end, modulus)
    went = (
        pl.when(end < 0).then(_DOWN)
        .when(end >= modulus).then(_UP)
        .when(on <= most_of(since_us)).then(_OK)
        .when(end < start).then(_DOWN)
        .otherwise(_UP)
    )  # fmt: skip
    there = (start >= 0) & (start < modulus) & end.is_not_null() & since_us.is_not_null()
    return pl.when(there).then(went).cast(pl.Int8)


def _starts_wrong(known: pl.DataFrame, settings: MeteringSettings) -> list[pl.Series]:
    """Of wrong steps, `<register>_is` is null where one leads back to where the register stood before others."""
    found = []
    for name in REGISTERS:
        to_here = {back: _is(name, back, _since(back, settings)) for back in range(1, _READINGS_BACK + 1)}
        back_again = pl.any_horizontal(
            (to_here[back] == _OK).fill_null(False)
            & pl.all_horizontal(_not_from(name, back, other, settings).fill_null(False) for other in range(1, back))
            for back in range(2, _READINGS_BACK + 1)
        )
        is_ = pl.col(f"{name}_is")
        told = known.select(pl.when((is_ == _OK) | ~back_again).then(is_).alias(f"{name}_is"))
        found.append(told.to_series())
    return found


def _not_from(name: str, back: int, other: int, settings: MeteringSettings) -> pl.Expr:
    """Whether the reading `other` before cannot follow the one `back` before."""
    return (_is(name, back - other, _since(back - other, settings)) != _OK).shift(other)


def _values(name: str) -> Iterator[pl.Expr]:
    is_, before = pl.col(f"{name}_is"), pl.col(name).shift(1)
    back = pl.when(is_ == _OK).then(0.0).when(is_ == _DOWN).then(before - pl.col(name))
    yield back.alias(value(name, BACK))
    # without power a step is held against a tenth of what the meter can make: ten times of that it cannot have made
    multiple = pl.when(is_ == _UP).then(10 * (pl.col(name) - before) / most_of(pl.col("since_us")))
    judged_by_block = pl.col("p_kw").is_not_null() if name in OF_POWER else pl.lit(False)
    yield (
        multiple.when((is_ == _OK) & (~judged_by_block | pl.col(f"{name}_after")))
        .then(1.0)
        .alias(value(name, MULTIPLE))
    )
    if name in OF_POWER:
        yield from (pl.lit(None, pl.Float64).alias(value(name, what)) for what in (APART, STOOD))


# --- from the end of a block to the next ------------------------------------------------------------------------------


def _blocks(told: pl.DataFrame) -> pl.DataFrame:
    """Blocks of readings, in order: what power and registers say of each as far as it has come.

    Columns: `last` (row of its last reading), `over`, `since_us`, `kwh_e6` (null: not known for all of it), `edge_us`
    and `edge_<register>`, and of the last reading what `OF_VERSION`, key, stamp and registers are.
    """
    first = (pl.col(_KEY) != pl.col(_KEY).shift(1)).fill_null(True)
    passed_us = pl.col("slot_us") - pl.col("slot_us").shift(1)
    missing = (
        first
        | (passed_us > pl.col("interval_s").cast(pl.Int64) * 1_500_000)
        | (pl.col("chain") != pl.col("chain").shift(1))
    )
    p_kw = counted_kw()
    here = (p_kw * passed_us / (US_PER_HOUR / 1_000_000)).round().cast(pl.Int64, strict=False)
    before_ends = (pl.col("slot_us") == pl.col("end_us")).shift(1) & ~missing

    def edge(name: str, own: str) -> pl.Expr:
        return pl.when(before_ends).then(pl.col(name).shift(1)).alias(own)

    rows = told.with_columns(
        pl.when(~missing).then(here).alias("kwh_e6"),
        edge("stamp_us", "edge_us"),
        *(edge(name, f"edge_{name}") for name in OF_POWER),
        (first | (pl.col("end_us") != pl.col("end_us").shift(1)).fill_null(True)).cum_sum().alias("block"),
    )
    grouped = rows.group_by("block", maintain_order=True).agg(
        pl.len().alias("n"),
        pl.when(pl.col("kwh_e6").is_not_null().all()).then(pl.col("kwh_e6").sum()).alias("kwh_e6"),
        *(pl.col(name).first() for name in OF_BLOCK if name != "kwh_e6"),
    )
    last = grouped["n"].cum_sum().cast(pl.Int64) - 1
    of_last = told.select(
        _KEY, "slot_us", "end_us", "stamp_us", *OF_POWER, *(name for name in OF_VERSION if name != "interval_s")
    )[last]
    blocks = pl.concat([grouped.drop("block", "n"), of_last], how="horizontal")
    known = pl.col("kwh_e6").is_not_null() & pl.col("edge_us").is_not_null()
    return blocks.with_columns(
        last.alias("last"),
        (pl.col("slot_us") == pl.col("end_us")).alias("over"),
        *(pl.when(known).then(name).alias(name) for name in OF_BLOCK),
    )


def _with_blocks(told: pl.DataFrame, blocks: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """`told` with the values that whole blocks give their last readings, and SEED_SCHEMA of readings that do not end
    one.
    """
    going_on = blocks.filter(~pl.col("over") & pl.col("edge_us").is_not_null())
    rows = told.with_columns(
        (pl.col("wrong") | pl.col("after")).alias("wrong"),
        *(_scattered(told.height, going_on["last"], going_on[name]) for name in OF_BLOCK),
    )
    judged = _against_power(blocks)
    whole = judged.filter(pl.col("net").is_not_null() & ~told["wrong"].gather(judged["last"]))
    if whole.is_empty():
        return rows.with_columns(pl.lit(None, pl.Float64).alias(value(name, RATIO)) for name in OF_POWER)
    at = whole["last"]
    apart_at = at.filter(whole["apart"])
    rows = rows.with_columns(rows["wrong"].scatter(apart_at, True))
    found = whole.select(_of_blocks(settings))
    told_there = {name: rows[name].gather(at) for name in found.columns if name in rows.columns}
    found = found.with_columns(found[name].zip_with(found[name].is_not_null(), own) for name, own in told_there.items())
    return rows.with_columns(
        rows[name].scatter(at, found[name]) if name in rows.columns else _scattered(rows.height, at, found[name])
        for name in found.columns
    )


def _scattered(height: int, at: pl.Series, values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [None], dtype=values.dtype).new_from_index(0, height).scatter(at, values)


def net_of(edge_us: str, edge: str, kwh: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """What registers counted since an edge (import less export) [kWh], where they can have; and whether that is apart
    from what power says.
    """
    most = pl.col("step_most_kw") * ((pl.col("stamp_us") - pl.col(edge_us)) / US_PER_HOUR)
    drawn, fed = (step(pl.col(f"{edge}_{name}"), pl.col(name), pl.col("register_modulus"), most) for name in OF_POWER)
    no_export = pl.col(f"{edge}_export_kwh").is_null() & pl.col("export_kwh").is_null()
    net = drawn - pl.when(no_export).then(0.0).otherwise(fed)
    return net, apart(net, kwh, pl.col("step_tolerance"), pl.col("step_count_kwh"))


def counted_kw() -> pl.Expr:
    """Power that registers count [kW], where it is believed: without an export register, what is drawn."""
    drawn = pl.when(pl.col("export_kwh").is_null()).then(pl.col("p_kw").clip(lower_bound=0)).otherwise("p_kw")
    return pl.when(pl.col("p_kw").abs() <= pl.col("p_most_kw")).then(drawn)


def _against_power(blocks: pl.DataFrame) -> pl.DataFrame:
    """Blocks that are over, with `kwh` [kWh], `net`, `apart`, and `back`: whether a step that is apart leads back to
    where the registers stood before blocks that were.
    """
    kwh = pl.col("kwh_e6") / 1_000_000
    net, far = net_of("edge_us", "edge", kwh)
    judged = blocks.with_columns(kwh.alias("kwh"), net.alias("net"), far.alias("apart"), pl.lit(False).alias("back"))
    if judged["apart"].any():
        failed = pl.col("apart").fill_null(pl.col("kwh").is_not_null())
        follows = pl.lit(True)
        total_e6 = pl.col("kwh_e6")
        for before in range(1, _BLOCKS_BACK + 1):
            joins = (pl.col("edge_us") == pl.col("stamp_us").shift(1)) & (pl.col(_KEY) == pl.col(_KEY).shift(1))
            follows = follows & (joins & failed.shift(1)).shift(before - 1).fill_null(False)
            total_e6 = total_e6 + pl.col("kwh_e6").shift(before)
            longer = judged.with_columns(
                pl.col("edge_us").shift(before).alias("from_us"),
                *(pl.col(f"edge_{name}").shift(before).alias(f"from_{name}") for name in OF_POWER),
            )
            net, far = net_of("from_us", "from", total_e6 / 1_000_000)
            near = longer.select(net.is_not_null() & ~far & follows).to_series().fill_null(False)
            judged = judged.with_columns(pl.col("back") | near)
    return judged.filter("over")


def _of_blocks(settings: MeteringSettings) -> Iterator[pl.Expr]:
    """Values of whole blocks: of both registers where the step is sane, else of the one that power moves."""
    expected, drawn = pl.col("kwh").abs(), pl.col("kwh") >= 0
    ratio = pl.col("net") * pl.col("kwh").sign() / expected
    stands = pl.col("net") == 0
    enough = (expected > settings.plausibility.least_expected_kwh) & ~pl.col("back")
    for name in OF_POWER:
        mine = pl.col("apart") & enough & (drawn if name == "import_kwh" else ~drawn)
        sane = pl.when(~pl.col("apart"))
        yield sane.then(1.0).when(mine & (ratio > 1)).then(ratio).alias(value(name, MULTIPLE))
        yield sane.then(1.0).when(mine).then(ratio).alias(value(name, RATIO))
        yield (sane.then(0.0).when(mine & ~stands).then((pl.col("net") - pl.col("kwh")).abs() / expected)).alias(
            value(name, APART)
        )
        yield pl.when(~pl.col("apart") & ~stands).then(0.0).when(mine & stands).then(expected).alias(value(name, STOOD))
