"""What a registry may hold besides, and how files are told that a spreadsheet has been at."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.errors import RegistryError
from metering.registry.index import MeterIndex
from metering.registry.parse import Registry, parse_registry
from metering.settings import MeteringSettings
from tests.metering.registry.test_parse import CUSTOMER, METER, csv

CASES = Path(__file__).parents[4] / "shared" / "cases"
FULL_CUSTOMER = {
    **CUSTOMER, "suspended_kva": "", "valid_from": "", "valid_to": "", "supply_mode": "", "basic_charge": "",
}  # fmt: skip
FULL_METER = {**METER, "role": "", "sampling": ""}


def refused(customers: bytes | str, meters: bytes | str, settings: MeteringSettings) -> RegistryError:
    with pytest.raises(RegistryError) as raised:
        parse_registry(customers, meters, settings)
    return raised.value


def test_optional_columns_may_be_absent_empty_or_given(metering_settings: MeteringSettings) -> None:
    absent = parse_registry(csv(CUSTOMER), csv(METER), metering_settings)
    empty = parse_registry(csv(FULL_CUSTOMER), csv(FULL_METER), metering_settings)
    assert absent.customers.equals(empty.customers)
    assert absent.meters.equals(empty.meters)
    assert absent.meters.select("role", "sampling").rows() == [("main", "mean")]
    assert absent.customers.select("suspended_kva", "valid_from", "valid_to").rows() == [(None, None, None)]
    given_ones = parse_registry(
        csv({**FULL_CUSTOMER, "suspended_kva": "400", "valid_from": "2025-01-01", "valid_to": "2027-12-31"}),
        csv({**FULL_METER, "role": "check", "sampling": "snapshot"}),
        metering_settings,
    )
    assert given_ones.meters.select("role", "sampling").rows() == [("check", "snapshot")]
    assert given_ones.customers.select("suspended_kva", "valid_from", "valid_to").rows() == [
        (400.0, date(2025, 1, 1), date(2027, 12, 31))
    ]


def test_supply_mode_and_basis_of_a_customer(metering_settings: MeteringSettings) -> None:
    plain = parse_registry(csv(CUSTOMER), csv(METER), metering_settings).customers
    assert plain.select("supply_mode", "basic_charge").rows() == [("proxy", None)]
    told = {**FULL_CUSTOMER, "supply_mode": "retail", "basic_charge": "actual_demand"}
    given_ones = parse_registry(csv(told), csv(METER), metering_settings).customers
    assert given_ones.select("supply_mode", "basic_charge").rows() == [("retail", "actual_demand")]
    bare = csv({**FULL_CUSTOMER, "basic_charge": "contract_demand", "contract_demand_kw": ""})
    error = refused(bare, csv(METER), metering_settings)
    assert "contract_demand needs a contract_demand_kw" in str(error)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("suspended_kva", "some", "not a number"),
        ("suspended_kva", "-1", "below 0"),
        ("suspended_kva", "1601", "more than the contract capacity, 1600"),
        ("valid_from", "2026-13-01", "not a date"),
        ("valid_to", "1999-01-01", "before valid_from"),
        ("supply_mode", "barter", "proxy, retail, wholesale"),
        ("basic_charge", "by_eye", "capacity, contract_demand, actual_demand"),
        ("customer_no", "8.0E+05", "as spreadsheets shorten it"),
    ],
)
def test_a_wrong_customer_is_named(metering_settings: MeteringSettings, column: str, value: str, problem: str) -> None:
    wrong = csv(FULL_CUSTOMER, {"customer_no": "C2", "valid_from": "2020-01-01", column: value})
    error = refused(wrong, csv(METER), metering_settings)
    assert problem in error.problem
    assert (error.line, error.column) == (3, column)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("role", "spare", "'spare' is not one of main, check, sub"),
        ("sampling", "max", "'max' is not one of mean, snapshot"),
        ("meter_id", "3.7E+11", "'3.7E+11' is a number as spreadsheets shorten it, its digits are lost"),
        ("meter_id", "3,70000000001E+11", "as spreadsheets shorten it"),
        ("customer_no", "8E+05", "format the column as text"),
        ("valid_from", "2020/1/1", "write it as 2020-01-01"),
        ("valid_from", "2020.12.31", "write it as 2020-12-31"),
        ("valid_from", "43831", "a date as spreadsheets count days: write it as 2020-01-01"),
        ("valid_to", "46082.0104166667", "write it as 2026-03-01"),
        ("valid_to", "1/1/2020", "is not a date such as"),
    ],
)
def test_a_wrong_meter_is_named(metering_settings: MeteringSettings, column: str, value: str, problem: str) -> None:
    wrong = csv(FULL_METER, {"meter_id": "M2", column: f'"{value}"'})
    error = refused(csv(CUSTOMER), wrong, metering_settings)
    assert problem in error.problem
    assert (error.line, error.column) == (3, column)


@pytest.mark.parametrize("number", ["370000000001", "1e3", "E5", "12E", "3.7", "007"])
def test_numbers_that_no_spreadsheet_shortened_are_ids(metering_settings: MeteringSettings, number: str) -> None:
    assert parse_registry(csv(CUSTOMER), csv({**METER, "meter_id": number}), metering_settings).meters.height == 1


@pytest.mark.parametrize(
    ("separator", "said"), [(";", "separated by ';'"), ("\t", "separated by tabs"), ("|", "separated by '|'")]
)
def test_other_separators_are_told(metering_settings: MeteringSettings, separator: str, said: str) -> None:
    error = refused(csv(CUSTOMER), csv(METER).replace(",", separator), metering_settings)
    assert said in error.problem
    assert "separate them by commas" in error.problem
    assert (error.line, error.column) == (1, "meter_id")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (csv(CUSTOMER).encode("utf-16"), "UTF-16"),
        (csv(CUSTOMER).encode("utf-16-be"), "UTF-16"),
        (b"PK\x03\x04\x14\x00", "an Excel workbook or another zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
        (b"\x1f\x8b\x08\x00", "compressed (gzip)"),
        (csv(CUSTOMER).encode("gb18030"), "seems to be GB18030"),
        (csv({**CUSTOMER, "name": "Mühle"}).encode("latin-1"), "is not UTF-8; save"),
    ],
)
def test_what_is_no_utf8_is_told_as_what_it_is(metering_settings: MeteringSettings, content: bytes, said: str) -> None:
    error = refused(content, csv(METER), metering_settings)
    assert said in error.problem
    assert "UTF-8" in error.problem


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "column", "said"),
    [
        ("42-meters-scientific.csv", "meter_id", "format the column as text"),
        ("42-meters-semicolon.csv", "meter_id", "separated by ';'"),
        ("42-meters-excel-date.csv", "valid_from", "write it as 2020-01-01"),
    ],
)
def test_cases_from_the_field(metering_settings: MeteringSettings, name: str, column: str, said: str) -> None:
    error = refused((CASES / "00-customers.csv").read_bytes(), (CASES / name).read_bytes(), metering_settings)
    assert error.column == column
    assert said in error.problem


# --- customers with periods ------------------------------------------------------------------------------------------

OLD = {"valid_from": "2024-01-01", "valid_to": "2025-12-31", "contract_capacity_kva": "1000"}
NEW = {"valid_from": "2026-01-01", "valid_to": "", "contract_capacity_kva": "1600"}


def _registry(settings: MeteringSettings, *periods: dict[str, str], meter: dict[str, str] | None = None) -> Registry:
    first, *more = ({**FULL_CUSTOMER, **period} for period in periods)
    return parse_registry(csv(first, *more), csv({**METER, **(meter or {})}), settings)


def test_each_period_of_a_customer_judges_its_own_time(metering_settings: MeteringSettings) -> None:
    registry = _registry(metering_settings, NEW, OLD)
    versions = registry.meter_versions
    new_year = datetime(2025, 12, 31, 16, tzinfo=UTC)  # midnight in Shanghai
    assert versions["contract_capacity_kva"].to_list() == [1000.0, 1600.0]
    assert versions["valid_to"].to_list() == [new_year, None]
    assert versions["valid_from"].to_list() == [datetime(2024, 12, 31, 16, tzinfo=UTC), new_year]
    for day, capacity in [(date(2025, 12, 31), 1000.0), (date(2026, 1, 1), 1600.0)]:
        assert registry.customers_on(day)["contract_capacity_kva"].to_list() == [capacity]
    assert registry.customers_on(date(2023, 12, 31)).is_empty()
    assert registry.customers_on(date(2026, 1, 31), date(2025, 12, 1))["contract_capacity_kva"].to_list() == [1600.0]


def test_a_customer_that_left_still_counts_for_its_month(metering_settings: MeteringSettings) -> None:
    registry = _registry(metering_settings, {"valid_to": "2026-01-10"})
    assert registry.customers_on(date(2026, 1, 31)).is_empty()
    assert registry.customers_on(date(2026, 1, 31), date(2026, 1, 1)).height == 1
    assert registry.customers_on(date(2026, 2, 28), date(2026, 2, 1)).is_empty()


@pytest.mark.parametrize(
    ("periods", "column", "said"),
    [
        ([{}, {}], "customer_no", "C1 stands in the file twice, as on line 2"),
        ([OLD, {**NEW, "valid_from": "2025-12-31"}], "valid_from", "overlaps the validity of C1 on line 2"),
        ([{}, NEW], "valid_from", "overlaps the validity of C1 on line 2"),
    ],
)
def test_periods_of_a_customer_do_not_overlap(
    metering_settings: MeteringSettings, periods: list[dict[str, str]], column: str, said: str
) -> None:
    with pytest.raises(RegistryError, match=said) as raised:
        _registry(metering_settings, *periods)
    assert (raised.value.line, raised.value.column) == (3, column)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=4, unique=True).map(sorted),
    meter=st.tuples(st.integers(0, 600), st.integers(0, 300)),
    asked=st.integers(-10, 710),
    gap=st.booleans(),
)
def test_a_reading_is_judged_by_its_customers_row_of_that_day(
    metering_settings: MeteringSettings, cuts: list[int], meter: tuple[int, int], asked: int, gap: bool
) -> None:
    origin = date(2024, 1, 1)

    def day(number: int) -> date:
        return origin + timedelta(days=number)

    bounds = list(zip([0, *cuts], [*cuts, 700 + 1], strict=True))
    spans = [(first, last - 1) for n, (first, last) in enumerate(bounds) if not (gap and n == 0) and first < last]
    rows = [
        {"valid_from": str(day(first)), "valid_to": str(day(last)), "contract_capacity_kva": str(n + 1)}
        for n, (first, last) in enumerate(spans)
    ]
    first, last = meter[0], meter[0] + meter[1]
    registry = _registry(
        metering_settings, *reversed(rows), meter={"valid_from": str(day(first)), "valid_to": str(day(last))}
    )
    noon = datetime(*day(asked).timetuple()[:3], 4, tzinfo=UTC)  # in Shanghai
    wanted = [float(n + 1) for n, (start, end) in enumerate(spans) if start <= asked <= end and first <= asked <= last]
    versions = registry.meter_versions
    found = versions.filter(pl.col("valid_from") < noon, pl.col("valid_to") >= noon)["contract_capacity_kva"].to_list()
    assert found == wanted
    if versions.height:
        index = MeterIndex.of(versions)
        code = index.code(versions["meter_id"][:1])
        version = index.version(code, versions["valid_from"][:1].dt.offset_by("1s"))
        assert version.to_list() == [0]


def test_registers_go_on_where_a_customers_row_changes(metering_settings: MeteringSettings) -> None:
    versions = _registry(metering_settings, OLD, NEW).meter_versions
    assert versions.height == 2
    assert versions["chain"].n_unique() == 1
    assert versions["stamps_from"][1] == versions["stamps_to"][0]


def test_a_customers_period_is_whole_days(metering_settings: MeteringSettings) -> None:
    with pytest.raises(RegistryError, match="whole days") as raised:
        _registry(metering_settings, OLD, {**NEW, "valid_from": "2026-01-01T12:00"})
    assert (raised.value.line, raised.value.column) == (3, "valid_from")
