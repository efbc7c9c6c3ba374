"""What the load of each industry looks like: the simulator's own figures, of no standard.

Here: `INDUSTRIES` and the supplies they are given. Not here: drawing customers from them (`fleet`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """A connection. `nominal_v` is meter side, line to line for 3p3w; capacities are in kVA."""

    level_kv: float
    wiring: str
    nominal_v: float
    capacities_kva: tuple[float, ...]

    @property
    def pt_ratio(self) -> float:
        """Level over the transformer's secondary, which is 100 V line to line."""
        return 1.0 if self.level_kv < 1 else self.level_kv * 10.0


LOW_VOLTAGE = Supply(level_kv=0.38, wiring="3p4w", nominal_v=220.0, capacities_kva=(160, 200, 250, 315, 400))
SINGLE_PHASE = Supply(level_kv=0.22, wiring="1p", nominal_v=220.0, capacities_kva=(15, 20, 30))
KV_10 = Supply(level_kv=10.0, wiring="3p3w", nominal_v=100.0, capacities_kva=(1000, 1250, 1600, 2000, 2500, 4000))
KV_35 = Supply(level_kv=35.0, wiring="3p3w", nominal_v=100.0, capacities_kva=(6300, 8000, 10000, 16000))
KV_110 = Supply(level_kv=110.0, wiring="3p4w", nominal_v=57.7, capacities_kva=(31500, 40000, 50000, 63000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Industry:
    """One kind of customer.

    Work is from `start_min` to `end_min` (minutes of the local day; beyond 1440 into the next), all day when they are a
    day apart. `base` and `peak` are shares of contract capacity outside and at work; `saturday` and `sunday` how much
    work there is on those days; `lunch` the dip at noon; `motors` tan phi of the uncompensated load.
    """

    name_zh: str
    industry: str
    segment: str
    supplies: tuple[Supply, ...]
    start_min: int
    end_min: int
    base: float
    peak: float
    saturday: float
    sunday: float
    lunch: float
    motors: float
    tariff: str = "large_industry"
    pf_standard: float = 0.90
    dual_share: float = 0.0


INDUSTRIES: tuple[Industry, ...] = (
    Industry(
        name_zh="机械厂", industry="machinery", segment="large", supplies=(KV_10,), start_min=480, end_min=1050,
        base=0.12, peak=0.58, saturday=0.5, sunday=0.1, lunch=0.30, motors=0.75,
    ),
    Industry(
        name_zh="商场", industry="retail", segment="sme", supplies=(LOW_VOLTAGE,), start_min=570, end_min=1320,
        base=0.14, peak=0.62, saturday=1.0, sunday=1.0, lunch=0.0, motors=0.50, tariff="general_industry",
        pf_standard=0.85,
    ),
    Industry(
        name_zh="钢铁厂", industry="steel", segment="large", supplies=(KV_110, KV_35), start_min=0, end_min=1440,
        base=0.45, peak=0.62, saturday=1.0, sunday=0.95, lunch=0.0, motors=0.85,
    ),
    Industry(
        name_zh="医院", industry="hospital", segment="important", supplies=(KV_10,), start_min=420, end_min=1140,
        base=0.26, peak=0.52, saturday=0.7, sunday=0.6, lunch=0.05, motors=0.55, tariff="general_industry",
        pf_standard=0.85, dual_share=1.0,
    ),
    Industry(
        name_zh="纺织厂", industry="textile", segment="large", supplies=(KV_10,), start_min=0, end_min=1440,
        base=0.35, peak=0.60, saturday=1.0, sunday=0.9, lunch=0.0, motors=0.90,
    ),
    Industry(
        name_zh="化工厂", industry="chemicals", segment="large", supplies=(KV_35, KV_10), start_min=0, end_min=1440,
        base=0.45, peak=0.58, saturday=1.0, sunday=1.0, lunch=0.0, motors=0.70, dual_share=0.4,
    ),
    Industry(
        name_zh="电子厂", industry="electronics", segment="large", supplies=(KV_10,), start_min=450, end_min=1410,
        base=0.20, peak=0.60, saturday=0.8, sunday=0.3, lunch=0.10, motors=0.50,
    ),
    Industry(
        name_zh="水泥厂", industry="cement", segment="large", supplies=(KV_35,), start_min=1320, end_min=1920,
        base=0.25, peak=0.64, saturday=1.0, sunday=0.8, lunch=0.0, motors=0.85,
    ),
    Industry(
        name_zh="灌溉站", industry="irrigation", segment="sme", supplies=(LOW_VOLTAGE,), start_min=300, end_min=660,
        base=0.10, peak=0.55, saturday=1.0, sunday=1.0, lunch=0.0, motors=0.80, tariff="agriculture", pf_standard=0.80,
    ),
    Industry(
        name_zh="通信基站", industry="telecom", segment="sme", supplies=(SINGLE_PHASE,), start_min=540, end_min=1380,
        base=0.35, peak=0.55, saturday=1.0, sunday=1.0, lunch=0.0, motors=0.40, tariff="general_industry",
        pf_standard=0.85,
    ),
)  # fmt: skip

SHARES = (22, 8, 10, 8, 14, 10, 14, 6, 6, 2)
"""How many of a hundred customers are of each industry."""
