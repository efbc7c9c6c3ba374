"""Settings: the product's defaults, `<home>/kilowatch.toml`, and `KILOWATCH_*`, each overriding the one before.

Here: reading and checking them, and handing each part its frozen piece. Not here: any figure.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache, cached_property
from math import inf
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

import metering.events
import metering.kpi
from metering.charges.checks import charge_problems
from metering.control.alarms import PLACEHOLDERS
from metering.errors import SettingsError
from metering.events.catalogue import rulebook
from metering.kpi.catalogue import problems
from metering.registry import lists as customer_lists
from metering.settings import (
    AlarmSettings,
    BasicCharge,
    ControlSettings,
    ForecastSettings,
    ListSettings,
    LoadRateBands,
    MeterEventSettings,
    MeteringFaultSettings,
    MeteringSettings,
    NoticeSettings,
    PlausibilitySettings,
    PowerFactorAdjustment,
    Price,
    Rulebook,
    Settlement,
    SlotSettings,
    Tariff,
    VeeSettings,
    VoltageLimits,
    VoltageQuality,
    periods_of,
)
from metering.settings.kpis import Kpi
from metering.tables import warehouse
from metering.tables.control import ALARM_RULES
from metering.tables.notices import SEVERITIES
from metering.vee.validation import CHECKS, READING_CHECKS
from orchestration.home.settings_parts import Calendar, LakePart, Retention, Topics
from pipelines.flow.settings import StreamOptions

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SECTION = re.compile(r"\[+([a-z_.]+)\]+")
_BOUNDS = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
OTHER_VARIABLES = frozenset({"KILOWATCH_HOME", "KILOWATCH_LOG_LEVEL", "KILOWATCH_REQUIRE_KAFKA"})
"""Environment variables of the product, and of its tests, that are no settings."""
DEFAULTS = Path(__file__).with_name("defaults.toml")
_KPI_MUST = [field.name for field in fields(Kpi) if field.default is MISSING]
CODES = Path(metering.events.__file__).with_name("meter_events.toml")
KPIS = Path(metering.kpi.__file__).with_name("kpis.toml")


class Settings(BaseSettings):
    """All settings of one home. Made by `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="KILOWATCH_", env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    timezone: str
    bootstrap_servers: str = ""
    kafka: dict[str, str | int | float | bool] = {}
    topics: Topics
    stream: StreamOptions
    lake: LakePart
    retention: Retention
    notify: NoticeSettings
    forecast: ForecastSettings
    load_rate: LoadRateBands
    lists: ListSettings
    control: ControlSettings
    vee: VeeSettings
    slots: SlotSettings
    plausibility: PlausibilitySettings
    meter_events: MeterEventSettings
    metering_faults: MeteringFaultSettings
    alarms: AlarmSettings
    rules: tuple[dict[str, Any], ...] = ()
    rulesets: tuple[dict[str, Any], ...] = ()
    voltage: tuple[VoltageLimits, ...]
    voltage_quality: tuple[VoltageQuality, ...]
    power_factor: tuple[PowerFactorAdjustment, ...]
    calendar: Calendar
    tariffs: tuple[Tariff, ...]
    prices: tuple[Price, ...]
    basic_charge: tuple[BasicCharge, ...]
    settlement: tuple[Settlement, ...]
    kpi: dict[str, Kpi]

    @field_validator("kpi", mode="before")
    @classmethod
    def _whole_rows(cls, value: Any) -> Any:
        rows = value if isinstance(value, Mapping) else {}
        for kpi_id, row in rows.items():
            if not _NAME.fullmatch(kpi_id):
                raise ValueError(f"'{kpi_id}' must be a name such as power_factor")
            if isinstance(row, Mapping) and (missing := [name for name in _KPI_MUST if name not in row]):
                known = ", ".join(sorted(set(rows) - {kpi_id}))
                raise ValueError(
                    f"there is no KPI '{kpi_id}', and a new one lacks {', '.join(missing)}; there are {known}"
                )
        return value

    @field_validator("kpi")
    @classmethod
    def _countable(cls, value: dict[str, Kpi], info: ValidationInfo) -> dict[str, Kpi]:
        for problem in problems(value, warehouse(periods_of(info.data.get("tariffs", ())))):
            raise ValueError(problem)
        return value

    @field_validator("lists")
    @classmethod
    def _usable_profiles(cls, value: ListSettings) -> ListSettings:
        for problem in customer_lists.problems(value):
            raise ValueError(problem)
        return value

    @field_validator("tariffs", "prices", "basic_charge", "settlement")
    @classmethod
    def _usable_charges(cls, value: Any, info: ValidationInfo) -> Any:
        for problem in charge_problems(value, info.data.get("tariffs", ())):
            raise ValueError(problem)
        if not value and info.field_name in ("basic_charge", "settlement"):
            raise ValueError("there must be at least one row")
        return value

    @field_validator("forecast")
    @classmethod
    def _enough_history(cls, value: ForecastSettings) -> ForecastSettings:
        if value.history_days < 7 or value.min_train_days < 1 or value.max_iter < 1:
            raise ValueError("history_days must be at least 7, min_train_days and max_iter at least 1")
        return value

    @field_validator("vee")
    @classmethod
    def _known_checks(cls, value: VeeSettings) -> VeeSettings:
        checks = {*CHECKS, *READING_CHECKS}
        for name, row in value.validation.items():
            if (row.check or name) not in checks:
                raise ValueError(
                    f"validation.{name}: there is no check '{row.check or name}'; there are {', '.join(sorted(checks))}"
                )
            if not 0 <= row.threshold < inf:
                raise ValueError(f"validation.{name}: threshold must be a number from 0")
        if value.reference_days < 1 or value.history_days < 1 or min(value.register_gap_days, value.linear_gap_min) < 0:
            raise ValueError("reference_days and history_days must be at least 1, gaps at least 0")
        return value

    @field_validator("control")
    @classmethod
    def _usable_control(cls, value: ControlSettings) -> ControlSettings:
        if value.default_baseline not in value.baseline:
            raise ValueError(
                f"default_baseline: there is no baseline '{value.default_baseline}'; there are "
                f"{', '.join(sorted(value.baseline))}"
            )
        for name, row in value.baseline.items():
            if not 1 <= row.min_days <= row.days <= row.of <= row.horizon_days:
                raise ValueError(f"baseline.{name}: it must be 1 <= min_days <= days <= of <= horizon_days")
        for name, alarm in value.alarms.items():
            if not (0 <= alarm.start < inf and 0 <= alarm.clear_margin < 1 and 0 <= alarm.after_s < 900):
                raise ValueError(
                    f"alarms.{name}: start must be at least 0, clear_margin from 0 to below 1, after_s from 0 to 899"
                )
            if name not in ALARM_RULES:
                raise ValueError(f"alarms: there is no '{name}'; there are {', '.join(ALARM_RULES)}")
            if unknown := {*re.findall(r"{(.*?)}", alarm.text_zh + alarm.text_en)} - {*PLACEHOLDERS}:
                raise ValueError(f"alarms.{name}: a text cannot name {sorted(unknown)[0]}: {', '.join(PLACEHOLDERS)}")
        return value

    @field_validator("slots", "plausibility", "alarms", "load_rate")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        for name, figure in asdict(value).items():
            if not 0 <= figure < inf:
                raise ValueError(f"{name} must be a number from 0")
        return value

    @field_validator("notify")
    @classmethod
    def _tries_and_ends(cls, value: NoticeSettings) -> NoticeSettings:
        counts = (value.attempts, value.parallel, value.members_named)
        spans = (value.expire_after_min, value.retry_after_s, value.retry_at_most_s, value.lake_interval_s)
        if min(counts) < 1 or not all(0 < span < inf for span in spans) or not 0 <= value.storm_wait_s < inf:
            raise ValueError("attempts, parallel, members_named must be at least 1, times above 0, storm_wait_s from 0")
        for name, severity in (*value.plan_severity.items(), *value.outage_severity.items()):
            if severity not in SEVERITIES:
                raise ValueError(f"{name}: '{severity}' is no severity; there are {', '.join(SEVERITIES)}")
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
        """The figures, as the core takes them: each is the setting of its name, wherever that stands."""
        places = (self, self.stream, self.calendar.days)
        return MeteringSettings(
            rules=self.rulebook,
            **{
                name: next(getattr(place, name) for place in places if hasattr(place, name))
                for name in (field.name for field in fields(MeteringSettings))
                if name != "rules"
            },
        )


def explained_defaults() -> str:
    """The text of defaults.toml, with every value that is explained where it is declared explained in a comment."""
    lines, section = [], ""
    for line in DEFAULTS.read_text("utf-8").splitlines():
        if heading := _SECTION.fullmatch(line.partition("#")[0].strip()):
            section = heading[1]
        key = line.partition("=")[0].strip()
        meaning = "" if "#" in line else _meanings(section).get(key, "")
        lines.append(f"{line:<28} # {meaning}" if meaning else line)
    return "\n".join(lines) + "\n"


@cache
def _meanings(section: str) -> dict[str, str]:
    """Meaning and bounds of a section's values, as they are declared."""
    field = Settings.model_fields.get(section)
    if field is None or field.annotation is None:
        return {}
    declared = TypeAdapter(field.annotation).json_schema().get("properties", {})
    return {name: _meaning(value) for name, value in declared.items() if "description" in value}


def _meaning(declared: Mapping[str, Any]) -> str:
    bounds = ", ".join(f"{said} {declared[key]:g}" for key, said in _BOUNDS if key in declared)
    return f"{declared['description']} ({bounds})" if bounds else str(declared["description"])


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


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """What is within a setting (KILOWATCH_STREAM__...) is checked with the setting."""
    known = {f"KILOWATCH_{name}".upper() for name in Settings.model_fields} | OTHER_VARIABLES
    for variable in sorted(environment):
        name, _, within = variable.upper().partition("__")
        if not name.startswith("KILOWATCH_") or (name in known and not (within and name in OTHER_VARIABLES)):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise SettingsError(f"{variable} is no setting: did you mean {near}{'__' + within if within else ''}?")


def load_settings(home: Path) -> Settings:
    """Settings of `home`. Raises SettingsError naming the file and the key, or the variable."""
    _refuse_unknown_variables(os.environ)
    own = home / "kilowatch.toml"
    product = _merged(_read(DEFAULTS), {"kpi": _read(KPIS), "meter_events": {"codes": _read(CODES)}})
    values = _merged(product, _read(own) if own.exists() else {})
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
