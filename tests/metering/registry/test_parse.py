"""A registry is taken whole, or refused whole with file, line and column."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import RegistryError
from metering.registry.parse import METER_VERSIONS, parse_registry
from metering.settings import MeteringSettings, VoltageClass, VoltageLimits
from metering.tables.warehouse import CUSTOMERS, METERS

CUSTOMER = {
    "customer_no": "C1",
    "name": "机械厂 001",
    "segment": "large",
    "industry": "machinery",
    "voltage_level_kv": "10",
    "contract_capacity_kva": "1600",
    "contract_demand_kw": "",
    "pf_standard": "0.90",
    "tariff": "large_industry",
    "dual_supply": "false",
    "feeder": "",
    "manager": "",
    "controllable": "true",
}
METER = {
    "meter_id": "M1",
    "customer_no": "C1",
    "wiring": "3p3w",
    "nominal_v": "100",
    "pt_ratio": "100",
    "ct_ratio": "20",
    "rated_a": "1.5",
    "max_a": "6",
    "register_digits": "6",
    "interval_s": "60",
    "source_no": "1",
    "valid_from": "2025-01-01",
    "valid_to": "",
}


def csv(first: dict[str, str], *more: dict[str, str]) -> str:
    rows = [first, *({**first, **change} for change in more)]
    return "\n".join([",".join(first), *(",".join(row.values()) for row in rows)]) + "\n"


def test_a_valid_registry_has_the_declared_schemas(metering_settings: MeteringSettings) -> None:
    registry = parse_registry(csv(CUSTOMER), csv(METER), metering_settings)
    assert registry.customers.schema == CUSTOMERS.schema
    assert registry.meters.schema == METERS.schema
    assert registry.meter_versions.schema == METER_VERSIONS
    assert registry.customers.row(0, named=True)["contract_demand_kw"] is None
    assert registry.customers.row(0, named=True)["manager"] is None


def test_facts_of_a_meter(metering_settings: MeteringSettings) -> None:
    meters = csv(METER, {"meter_id": "M0", "valid_to": "2025-01-31"})
    meter_versions = parse_registry(csv(CUSTOMER), meters, metering_settings).meter_versions
    assert meter_versions["meter_id"].to_list() == ["M0", "M1"]
    first = meter_versions.row(0, named=True)
    assert first["valid_from"] == datetime(2024, 12, 31, 16, tzinfo=UTC)  # midnight in Shanghai
    assert first["valid_to"] == datetime(2025, 1, 31, 16, tzinfo=UTC)  # the midnight that ends the last day
    assert meter_versions.row(1, named=True)["valid_to"] is None
    assert first["register_modulus"] == 1e6
    limits = [first[name] for name in ("u_lower_v", "u_upper_v", "u_band_lower_v", "u_band_upper_v", "u_spread_limit")]
    assert limits == pytest.approx([93.0, 107.0, 70.0, 120.0, 0.0])


@pytest.mark.parametrize(
    ("level_kv", "wiring", "nominal_v", "expected"),
    [
        ("0.22", "1p", "220", (198.0, 235.4, 0.0)),
        ("0.38", "3p4w", "220", (204.6, 235.4, 0.0)),
        ("20", "3p3w", "100", (93.0, 107.0, 0.0)),
        ("35", "3p3w", "100", (90.0, 110.0, 0.1)),
        ("110", "3p4w", "57.7", (51.93, 63.47, 0.1)),
    ],
)
def test_voltage_limits_by_class_of_connection(
    metering_settings: MeteringSettings, level_kv: str, wiring: str, nominal_v: str, expected: tuple[float, ...]
) -> None:
    customer = csv({**CUSTOMER, "voltage_level_kv": level_kv})
    meter = csv({**METER, "wiring": wiring, "nominal_v": nominal_v})
    row = parse_registry(customer, meter, metering_settings).meter_versions.row(0, named=True)
    assert (row["u_lower_v"], row["u_upper_v"], row["u_spread_limit"]) == pytest.approx(expected)


def test_limits_that_change_cut_a_version_in_two(metering_settings: MeteringSettings) -> None:
    (old,) = metering_settings.voltage
    tighter = VoltageClass(name="all", wirings=("3p3w",), max_kv=1200, upper=0.05, lower=0.05)
    new = VoltageLimits(effective_from=date(2026, 1, 1), band_lower=0.7, band_upper=1.2, classes=(tighter,))
    settings = replace(metering_settings, voltage=(new, old))
    meter_versions = parse_registry(csv(CUSTOMER), csv(METER), settings).meter_versions
    assert meter_versions["u_upper_v"].to_list() == pytest.approx([107.0, 105.0])
    change = datetime(2025, 12, 31, 16, tzinfo=UTC)
    assert meter_versions["valid_to"].to_list() == [change, None]
    assert meter_versions["valid_from"][1] == change


def test_a_day_without_midnight_starts_with_its_first_instant(metering_settings: MeteringSettings) -> None:
    settings = replace(metering_settings, timezone="America/Sao_Paulo")
    meters = csv({**METER, "valid_from": "2018-11-04"})  # clocks went from 00:00 to 01:00
    meter_versions = parse_registry(csv(CUSTOMER), meters, settings).meter_versions
    assert meter_versions["valid_from"][0] == datetime(2018, 11, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("customer_no", "", "is empty"),
        ("customer_no", "C1", "twice"),
        ("customer_no", "*", "all customers"),
        ("customer_no", "feeder:10kV-01", "'feeder:10kV-01' stands for a group of customers"),
        ("name", "", "is empty"),
        ("segment", "huge", "not one of large, sme, important"),
        ("voltage_level_kv", "ten", "not a number"),
        ("voltage_level_kv", "0", "not above 0"),
        ("contract_capacity_kva", "inf", "not a finite number"),
        ("contract_capacity_kva", "NaN", "not a finite number"),
        ("contract_capacity_kva", "-5", "not above 0"),
        ("contract_demand_kw", "much", "not a number"),
        ("pf_standard", "0.88", "not 0.90, 0.85 or 0.80"),
        ("pf_standard", "0.95", "not between"),
        ("tariff", "free", "not in the settings"),
        ("dual_supply", "yes", "not true or false"),
        ("controllable", "1", "not true or false"),
    ],
)
def test_a_wrong_customer_is_named(metering_settings: MeteringSettings, column: str, value: str, problem: str) -> None:
    wrong = csv(CUSTOMER, {"customer_no": "C2", column: value})
    with pytest.raises(RegistryError, match=problem) as raised:
        parse_registry(wrong, csv(METER), metering_settings)
    assert (raised.value.file, raised.value.line, raised.value.column) == ("customers.csv", 3, column)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("meter_id", "", "is empty"),
        ("meter_id", "M" * 65, "longer than 64"),
        ("customer_no", "C9", "not in customers.csv"),
        ("wiring", "4p", "not one of 3p4w, 3p3w, 1p"),
        ("nominal_v", "0", "not above 0"),
        ("ct_ratio", "0", "not above 0"),
        ("register_digits", "6.5", "not a whole number"),
        ("register_digits", "0", "not between"),
        ("interval_s", "7", "does not divide"),
        ("interval_s", "1000", "does not divide a day"),
        ("interval_s", "90000", "not between"),
        ("source_no", "3", "not between 1 and 2"),
        ("valid_from", "", "is empty"),
        ("valid_from", "2025-13-01", "not a date"),
        ("valid_from", "25-01-01", "not a date"),
        ("valid_to", "2024-12-31", "before valid_from"),
    ],
)
def test_a_wrong_meter_is_named(metering_settings: MeteringSettings, column: str, value: str, problem: str) -> None:
    wrong = csv(METER, {"meter_id": "M2", column: value})
    with pytest.raises(RegistryError, match=problem) as raised:
        parse_registry(csv(CUSTOMER), wrong, metering_settings)
    assert (raised.value.file, raised.value.line, raised.value.column) == ("meters.csv", 3, column)


@pytest.mark.parametrize("interval", ["1", "60", "300", "900"])
def test_intervals_that_fit_quarter_hours_are_taken(metering_settings: MeteringSettings, interval: str) -> None:
    registry = parse_registry(csv(CUSTOMER), csv({**METER, "interval_s": interval}), metering_settings)
    assert registry.meter_versions["interval_s"].to_list() == [int(interval)]


def test_a_class_that_no_setting_covers_is_refused(metering_settings: MeteringSettings) -> None:
    limits = replace(metering_settings.voltage[0], classes=metering_settings.voltage[0].classes[:1])
    with pytest.raises(RegistryError, match=r"voltage\.classes") as raised:
        parse_registry(csv(CUSTOMER), csv(METER), replace(metering_settings, voltage=(limits,)))
    assert (raised.value.line, raised.value.column) == (2, "wiring")


@pytest.mark.parametrize(
    ("first_to", "second_from", "fits"),
    [
        ("2025-06-30", "2025-07-01", True),
        ("2025-06-30", "2025-06-30", False),
        ("", "2030-01-01", False),
        ("2026-01-01", "2025-01-01", False),
    ],
)
def test_versions_of_a_meter_do_not_overlap(
    metering_settings: MeteringSettings, first_to: str, second_from: str, fits: bool
) -> None:
    meters = csv({**METER, "valid_to": first_to}, {"valid_from": second_from, "valid_to": ""})
    if fits:
        assert parse_registry(csv(CUSTOMER), meters, metering_settings).meter_versions.height == 2
        return
    with pytest.raises(RegistryError, match="overlaps the validity of M1 on line 2") as raised:
        parse_registry(csv(CUSTOMER), meters, metering_settings)
    assert (raised.value.line, raised.value.column) == (3, "valid_from")


def test_a_missing_and_a_doubled_header_column_are_named(metering_settings: MeteringSettings) -> None:
    with pytest.raises(RegistryError, match="missing from the header") as raised:
        parse_registry(csv(CUSTOMER).replace("tariff", "price"), csv(METER), metering_settings)
    assert (raised.value.line, raised.value.column) == (1, "tariff")
    with pytest.raises(RegistryError, match="twice in the header"):
        parse_registry(csv(CUSTOMER), csv(METER).replace("source_no", "wiring", 1), metering_settings)
    with pytest.raises(RegistryError, match="missing from the header"):
        parse_registry("", csv(METER), metering_settings)


def test_further_columns_a_byte_order_mark_and_blank_lines_do_no_harm(metering_settings: MeteringSettings) -> None:
    customers = csv({"note": "x", **CUSTOMER}).replace("\n", "\r\n\r\n")
    registry = parse_registry(b"\xef\xbb\xbf" + customers.encode(), csv(METER), metering_settings)
    assert registry.customers["name"].to_list() == ["机械厂 001"]


def test_a_quoted_newline_keeps_later_lines_right(metering_settings: MeteringSettings) -> None:
    customers = csv(
        {**CUSTOMER, "name": '"east\nhall, 1"'}, {"customer_no": "C2"}, {"customer_no": "C3", "pf_standard": "1"}
    )
    with pytest.raises(RegistryError) as raised:
        parse_registry(customers, csv(METER), metering_settings)
    assert (raised.value.line, raised.value.column) == (6, "pf_standard")
    registry = parse_registry(csv({**CUSTOMER, "name": '"east\nhall, 1"'}), csv(METER), metering_settings)
    assert registry.customers["name"].to_list() == ["east\nhall, 1"]


def test_a_short_line_and_broken_quoting_are_named(metering_settings: MeteringSettings) -> None:
    with pytest.raises(RegistryError, match="2 cells") as raised:
        parse_registry(csv(CUSTOMER) + "C2,x\n", csv(METER), metering_settings)
    assert raised.value.line == 3
    with pytest.raises(RegistryError, match="quoting") as raised:
        parse_registry(csv({**CUSTOMER, "name": '"open'}), csv(METER), metering_settings)
    assert raised.value.line == 2


def test_a_file_that_is_not_utf8_is_refused_with_its_line(metering_settings: MeteringSettings) -> None:
    with pytest.raises(RegistryError, match="not UTF-8") as raised:
        parse_registry(csv(CUSTOMER).encode("gb18030"), csv(METER), metering_settings)
    assert (raised.value.line, raised.value.column) == (2, "name")


@given(line=st.integers(0, 49), text=st.text(alphabet="abc,\n\"';\r", max_size=12))
def test_the_line_of_a_wrong_cell_is_the_line_in_the_file(
    metering_settings: MeteringSettings, line: int, text: str
) -> None:
    quoted = '"' + text.replace('"', '""') + 'x"'
    rows = [{"customer_no": f"C{i}", "name": quoted} for i in range(1, 50)]
    good = csv({**CUSTOMER, "customer_no": "C0", "name": quoted}, *rows)
    bad = (
        good.replace(f"C{line},", f"C{line},", 1)
        .replace(",large,", ",huge,", line + 1)
        .replace(",huge,", ",large,", line)
    )
    expected = bad[: bad.index(",huge,")]
    starts = expected.rindex(f"C{line},") if line else expected.index("C0,")
    physical = len((expected[:starts] + "x").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    with pytest.raises(RegistryError) as raised:
        parse_registry(bad, csv(METER), metering_settings)
    assert (raised.value.line, raised.value.column) == (physical, "segment")


@pytest.mark.parametrize("meters", [0, 3])
def test_an_empty_registry_is_a_registry(metering_settings: MeteringSettings, meters: int) -> None:
    rows = [{**METER, "meter_id": f"M{i}"} for i in range(meters)]
    text = ",".join(METER) + "\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    registry = parse_registry(csv(CUSTOMER), text, metering_settings)
    assert registry.meters.height == registry.meter_versions.height == meters
    assert registry.meter_versions.schema == METER_VERSIONS
    assert isinstance(registry.meter_versions, pl.DataFrame)


# --- moments --------------------------------------------------------------------------------------------------------


def test_validity_may_be_a_moment(metering_settings: MeteringSettings) -> None:
    """Of two versions that meet at noon neither overlaps the other; a date is the whole local day."""
    first = {**METER, "valid_from": "2025-01-01", "valid_to": "2026-03-02T12:00"}
    second = {**METER, "valid_from": "2026-03-02 12:00:00", "valid_to": "2026-03-09"}
    registry = parse_registry(csv(CUSTOMER), csv(first, second), metering_settings)
    noon, start, end = datetime(2026, 3, 2, 4), datetime(2024, 12, 31, 16), datetime(2026, 3, 9, 16)
    expected = [(at.replace(tzinfo=UTC), to.replace(tzinfo=UTC)) for at, to in ((start, noon), (noon, end))]
    assert registry.meter_versions.select("valid_from", "valid_to").rows() == expected
    assert registry.meters.select("valid_from_at", "valid_to_at").rows() == expected
    assert registry.meters["valid_to"].to_list() == [date(2026, 3, 2), date(2026, 3, 9)]
    assert registry.meter_versions["chain"].n_unique() == 2


@pytest.mark.parametrize(
    ("begin", "end", "problem"),
    [
        ("2026-03-02T11:59", "", "overlaps"),
        ("2026-03-02", "", "overlaps"),
        ("2026-03-02T25:00", "", "not a date such as 2026-01-31, or a time"),
        ("2026-03-02T12:00+08:00", "", "not a date"),
        ("2026-03-03T12:00", "2026-03-03T12:00", "before valid_from"),
    ],
)
def test_moments_that_are_wrong(metering_settings: MeteringSettings, begin: str, end: str, problem: str) -> None:
    first = {**METER, "valid_from": "2025-01-01", "valid_to": "2026-03-02T12:00"}
    with pytest.raises(RegistryError, match=problem):
        parse_registry(csv(CUSTOMER), csv(first, {**METER, "valid_from": begin, "valid_to": end}), metering_settings)


@pytest.mark.parametrize("interval_s", [1, 10, 600, 1800, 3600, 43_200, 86_400])
def test_any_interval_that_divides_a_day(metering_settings: MeteringSettings, interval_s: int) -> None:
    registry = parse_registry(csv(CUSTOMER), csv({**METER, "interval_s": str(interval_s)}), metering_settings)
    assert registry.meter_versions["interval_s"].to_list() == [interval_s]
