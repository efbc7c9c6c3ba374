"""The four meters that windows are tested with."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

Frame = pl.DataFrame


@pytest.fixture(scope="module")
def four_meters(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    """Four meters: 1-min 3p4w, 1-min 3p3w, 5-min 1p and 15-min 3p4w; Un 220 V, registers of 6 digits."""
    kinds = {"A": ("3p4w", 60), "B": ("3p3w", 60), "C": ("1p", 300), "D": ("3p4w", 900)}
    meters = {m: {"customer_no": "C1", "wiring": wiring, "interval_s": s} for m, (wiring, s) in kinds.items()}
    return make_meter_versions(make_customers({"C1": {}}), meters)
