"""Settings: the product's defaults, `<home>/kilowatch.toml`, and `KILOWATCH_*`, each overriding the one before.

Here: reading and checking them, and handing each part its frozen piece. Not here: any figure.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from metering.errors import SettingsError
from metering.events.catalogue import rulebook
from metering.kpi.count import DEFINITIONS
from metering.settings import (
    ForecastSettings,
    KpiTarget,
    MeteringSettings,
    PowerFactorAdjustment,
    Rulebook,
    Tariff,
    VeeSettings,
    VoltageLimits,
)
from pipelines.shard.past import LOOK_BACK, RUN_UP

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
LATE_DAYS = 30
LEAST_LAKE_DAYS = LATE_DAYS + (LOOK_BACK + RUN_UP).days + 2  # days are local, and the first is not whole
DEFAULTS = Path(__file__).with_name("defaults.toml")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Topics(_Part):
    """Names of the topics, and how missing ones are created."""

    readings: str = Field(min_length=1)
    windows: str = Field(min_length=1)
    violations: str = Field(min_length=1)
    compliance: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    partitions: int = Field(ge=1)
    replication_factor: int = Field(ge=1)


class StreamPart(_Part):
    """How the stream runs; each figure is explained in defaults.toml."""

    lateness_s: int = Field(ge=0)
    future_tolerance_s: int = Field(ge=0)
    gap_intervals: float = Field(gt=0)
    windows_kept: int = Field(ge=1)
    silent_days: float = Field(ge=1)
    batch_rows: int = Field(ge=1)
    poll_ms: int = Field(ge=1)
    commit_interval_s: float = Field(gt=0)
    commit_rows: int = Field(ge=1)
    stalled_after_s: float = Field(ge=3)
    metrics_port: int = Field(ge=-1, le=65535)
    registry_check_s: float = Field(gt=0)


class LakePart(_Part):
    """When the lake's parts are merged, and into what."""

    compact_parts: int = Field(ge=2)
    part_mb: int = Field(ge=1)


class Retention(_Part):
    """How long things are kept."""

    lake_days: int = Field(ge=0)

    @field_validator("lake_days")
    @classmethod
    def _late_readings_find_their_past(cls, value: int) -> int:
        if 0 < value < LEAST_LAKE_DAYS:
            raise ValueError(
                f"{value} days are too few: readings may come {LATE_DAYS} days late and are judged with what was "
                f"before them; keep at least {LEAST_LAKE_DAYS} days, or 0 for ever"
            )
        return value


class Calendar(_Part):
    holidays: tuple[date, ...] = ()


class Settings(BaseSettings):
    """All settings of one home. Made by `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="KILOWATCH_", env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    timezone: str
    bootstrap_servers: str = ""
    kafka: dict[str, str | int | float | bool] = {}
    topics: Topics
    stream: StreamPart
    lake: LakePart
    retention: Retention
    forecast: ForecastSettings
    vee: VeeSettings
    rules: tuple[dict[str, Any], ...] = ()
    rulesets: tuple[dict[str, Any], ...] = ()
    voltage: tuple[VoltageLimits, ...]
    power_factor: tuple[PowerFactorAdjustment, ...]
    calendar: Calendar = Calendar()
    tariffs: tuple[Tariff, ...]
    kpi: dict[str, KpiTarget]

    @field_validator("kpi")
    @classmethod
    def _known_kpis(cls, value: dict[str, KpiTarget]) -> dict[str, KpiTarget]:
        known = {definition.kpi_id for definition in DEFINITIONS}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"there is no KPI '{unknown[0]}'; there are {', '.join(sorted(known))}")
        return value

    @field_validator("tariffs")
    @classmethod
    def _usable_hours(cls, value: tuple[Tariff, ...]) -> tuple[Tariff, ...]:
        for tariff in value:
            for hours in tariff.hours:
                if not (_CLOCK.fullmatch(hours.start) and _CLOCK.fullmatch(hours.end)):
                    raise ValueError(f"{tariff.name}: '{hours.start}' to '{hours.end}' is no span from 00:00 to 24:00")
            for period in (*(hours.period for hours in tariff.hours), tariff.default_period):
                if not _NAME.fullmatch(period):
                    raise ValueError(f"{tariff.name}: period '{period}' must be a name such as deep_valley")
        return value

    @field_validator("forecast")
    @classmethod
    def _enough_history(cls, value: ForecastSettings) -> ForecastSettings:
        if value.history_days < 7 or value.min_train_days < 1 or value.max_iter < 1:
            raise ValueError("history_days must be at least 7, min_train_days and max_iter at least 1")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"'{value}' is not a time zone name such as Asia/Shanghai") from error
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)

    @cached_property
    def rulebook(self) -> Rulebook:
        """Kilowatch's limit rules with the home's own rows. Raises SettingsError naming the row and the key."""
        return rulebook(self.rules, self.rulesets)

    @property
    def metering(self) -> MeteringSettings:
        """The figures, as the core takes them."""
        return MeteringSettings(
            timezone=self.timezone,
            lateness_s=self.stream.lateness_s,
            future_tolerance_s=self.stream.future_tolerance_s,
            gap_intervals=self.stream.gap_intervals,
            rules=self.rulebook,
            voltage=self.voltage,
            power_factor=self.power_factor,
            tariffs=self.tariffs,
            holidays=self.calendar.holidays,
            kpi=self.kpi,
            forecast=self.forecast,
            vee=self.vee,
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def load_settings(home: Path) -> Settings:
    """Settings of `home`. Raises SettingsError naming the file and the key."""
    own = home / "kilowatch.toml"
    values = _merged(_read(DEFAULTS), _read(own) if own.exists() else {})
    try:
        settings = Settings(**values)
        _ = settings.rulebook  # a row that cannot be used is said now
        return settings
    except SettingsError as error:
        raise SettingsError(f"{own.name} or KILOWATCH_* settings: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{own.name} or KILOWATCH_* settings: {key}: {first['msg']}") from error
