"""What tests of KPI rows share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

import polars as pl
import pytest

from metering.kpi.catalogue import sources
from metering.kpi.count import daily_kpis, meter_days
from metering.settings import MeteringSettings
from metering.tables import warehouse

Builder = Callable[..., pl.DataFrame]


def nothing(settings: MeteringSettings) -> dict[str, pl.DataFrame]:
    """The tables that KPIs are counted from, without rows."""
    return {name: table.empty() for name, table in sources(warehouse(settings.periods)).items()}


@pytest.fixture(scope="module")
def kpis_of(days_of: Builder) -> Builder:
    """KPI rows of a day from what they are made of."""

    def make(
        windows: pl.DataFrame,
        volts: pl.DataFrame,
        scores: pl.DataFrame,
        meter_versions: pl.DataFrame,
        customers: pl.DataFrame,
        day: date,
        settings: MeteringSettings,
        until: datetime | None = None,
    ) -> pl.DataFrame:
        meters = meter_days(windows, volts, days_of(windows), meter_versions, customers, day, settings, until)
        rows = {**nothing(settings), "meter_days": meters, "forecast_accuracy": scores}
        return daily_kpis(rows, customers, day, settings, until)

    return make
