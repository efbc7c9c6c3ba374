"""Declared tables: one declaration each, from which every schema, comment, suite and page of docs is made."""

from metering.tables.lake import LAKE as LAKE
from metering.tables.schema import TIMESTAMP as TIMESTAMP
from metering.tables.schema import Column as Column
from metering.tables.schema import Table as Table
from metering.tables.warehouse import warehouse as warehouse
