"""Parts of the settings that the home itself uses: topics, lake, retention, calendar.

Here: their shape and what is refused. Not here: the whole (`settings`), figures of the core (`metering.settings`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from metering.events.lifecycle import LOOK_BACK, RUN_UP
from metering.tables.records import KINDS
from orchestration.home.calendar import SpecialDays, known_country, special_days

LATE_DAYS = 30
LEAST_LAKE_DAYS = LATE_DAYS + (LOOK_BACK + RUN_UP).days + 2  # days are local, and the first is not whole


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Topics(_Part):
    """Names of the topics, and how missing ones are created."""

    readings: str = Field(min_length=1)
    windows: str = Field(min_length=1)
    violations: str = Field(min_length=1)
    compliance: str = Field(min_length=1)
    load_control: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    notices: str = Field(min_length=1)
    feedback: str = Field(min_length=1)
    load_control_plans: str = Field(min_length=1)
    outages: str = Field(min_length=1)
    meter_events: str = Field(min_length=1)
    frozen_registers: str = Field(min_length=1)
    service_events: str = Field(min_length=1)
    partitions: int = Field(ge=1)
    replication_factor: int = Field(ge=1)

    @property
    def of_records(self) -> dict[str, str]:
        """The topic of each kind of record, by the kind's table."""
        return {name: getattr(self, name) for name in KINDS}


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
    """Holidays and make-up workdays: a country's, and own ones in their place."""

    country: str
    holidays: tuple[date, ...]
    workdays: tuple[date, ...]

    @field_validator("country")
    @classmethod
    def _known(cls, value: str) -> str:
        if value and not known_country(value):
            raise ValueError(f"there is no calendar of '{value}': give a code such as CN or DE-BY, or '' for none")
        return value

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if both := sorted({*self.holidays} & {*self.workdays}):
            raise ValueError(f"{both[0]} is in holidays and in workdays")
        return self

    @property
    def days(self) -> SpecialDays:
        """Days off and make-up workdays up to the end of next year, by this machine's clock."""
        return special_days(self.country, self.holidays, self.workdays, datetime.now(UTC).year + 1)
