"""The registry that tests of decoding share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl
import pytest

from metering.registry.index import MeterIndex
from tests.metering.readings.decoding import (
    NUMBER_LIKE,
    Row,
)


@pytest.fixture(scope="module")
def index(make_customers: Callable[..., pl.DataFrame], make_meter_versions: Callable[..., pl.DataFrame]) -> MeterIndex:
    """Plain meters, ids that look like JSON scalars, one with an end, and one exchanged on 2026-03-01."""
    meters: dict[str, Row] = {name: {"customer_no": "C1"} for name in ("M0", "电表", *NUMBER_LIKE)}
    meters["ended"] = {"customer_no": "C1", "valid_from": date(2025, 1, 1), "valid_to": date(2026, 1, 31)}
    plain = make_meter_versions(make_customers({"C1": {}}), meters)
    older, newer = (
        make_meter_versions(make_customers({"C1": {}}), {"exchanged": {"customer_no": "C1", **span}})
        for span in (
            {"valid_from": date(2025, 1, 1), "valid_to": date(2026, 2, 28), "interval_s": 900},
            {"valid_from": date(2026, 3, 1), "interval_s": 60},
        )
    )
    newer = newer.with_columns(stamps_from=older["stamps_to"])  # as one registry has it, where versions follow at once
    return MeterIndex.of(pl.concat([plain, older, newer]).sort("meter_id", "valid_from"))
