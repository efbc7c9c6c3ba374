"""A bill that came, line by line, against what we charge: each difference with its cause.

Here: pairing lines, and splitting a difference into quantity, price and rounding. Not here: our lines (`monthly`), how
bills come (`metering.records`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl

from metering.charges.monthly import PF_ITEM
from metering.charges.prices import half_up
from metering.settings import MeteringSettings, Settlement, in_force
from metering.tables.charges import BILL_CHECK

BILL = "bill"
TOTAL = "total"
_BASIC = "basic_"
_ZERO = Decimal(0)


@dataclass(slots=True)
class _Side:
    """A line on one side: sums of what has its name."""

    quantity: Decimal | None = None
    price: Decimal | None = None
    amount: Decimal = _ZERO

    def add(self, quantity: Decimal | None, price: Decimal | None, amount: Decimal | None) -> None:
        self.price = price if self.quantity is None or price == self.price else None
        if quantity is not None:
            self.quantity = (self.quantity or _ZERO) + quantity
        self.amount += amount or _ZERO


def bill_check(
    bills: pl.DataFrame, charges: pl.DataFrame, month: date, settings: MeteringSettings, notes: Mapping[str, str]
) -> pl.DataFrame:
    """BILL_CHECK of the bills for the month that starts on `month`.

    `bills`: current service events of type bill (of several for a customer and month the last by `at` counts);
    `charges`: CHARGES_MONTHLY of the month; `notes`: by customer_no what our quantities rest on, such as estimates.
    A difference is of quantity where (billed - ours) x our price makes it, of price where (billed price - ours) x
    billed quantity does; what is within `bill_tolerance` is rounding. Bills without lines are compared in all.
    """
    rules = in_force(settings.settlement, month)
    last = bills.filter(pl.col("month") == month).sort("at", "event_id").unique("customer_no", keep="last")
    ours: dict[str, dict[str, _Side]] = {}
    for row in charges.iter_rows(named=True):
        item = row["corrects"] or row["item"]
        delta_price = row["price"] if row["corrects"] is None else None
        side = ours.setdefault(row["customer_no"], {}).setdefault(item, _Side())
        side.add(row["quantity"], delta_price or side.price, row["amount"])
    rows: list[dict[str, Any]] = []
    for bill in last.sort("customer_no").iter_rows(named=True):
        rows += _of_bill(bill, ours.get(bill["customer_no"], {}), rules, notes.get(bill["customer_no"], ""))
    frame = pl.DataFrame(rows, schema={n: t for n, t in BILL_CHECK.schema.items() if n != "month"}, orient="row")
    return BILL_CHECK.conform(frame, month=month).sort(BILL_CHECK.key)


def _of_bill(bill: Mapping[str, Any], ours: Mapping[str, _Side], rules: Settlement, note: str) -> list[dict[str, Any]]:
    billed: dict[str, _Side] = {}
    for line in bill["lines"] or ():
        item = rules.bill_items.get(line["item"], line["item"])
        billed.setdefault(item, _Side()).add(line["quantity"], line["price"], line["amount"])
    compared = dict.fromkeys((*ours, *billed)) if billed else {}
    other_basis = _bases(billed) != _bases(ours)
    found = {item: _compare(item, billed.get(item), ours.get(item), rules, note, other_basis) for item in compared}
    own = _Side(amount=sum((side.amount for side in ours.values()), _ZERO))
    causes = [f.cause for f in found.values() if f.cause not in ("equal", "rounding")]
    found[TOTAL] = _total(bill["amount"], own.amount, billed, causes, rules)
    return [
        {
            "customer_no": bill["customer_no"], "item": item, "event_id": bill["event_id"],
            **_figures(billed.get(item), ours.get(item), bill["amount"] if item == TOTAL else None, own.amount),
            "cause": told.cause, "explanation_zh": told.zh, "explanation_en": told.en,
        }
        for item, told in found.items()
    ]  # fmt: skip


def _figures(billed: _Side | None, ours: _Side | None, whole: Decimal | None, own: Decimal) -> dict[str, Any]:
    if whole is not None:
        return {"billed_amount": half_up(whole, 2), "amount": half_up(own, 2), "difference": half_up(whole - own, 2)}
    b, o = billed or _Side(), ours or _Side()
    return {
        "billed_quantity": b.quantity, "quantity": o.quantity, "billed_price": b.price, "price": o.price,
        "billed_amount": half_up(b.amount, 2) if billed else None, "amount": half_up(o.amount, 2) if ours else None,
        "difference": half_up(b.amount - o.amount, 2),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Told:
    cause: str
    zh: str
    en: str


def _bases(side: Mapping[str, _Side]) -> set[str]:
    return {item for item in side if item.startswith(_BASIC) and not item.endswith("_excess")}


def _compare(
    item: str, billed: _Side | None, ours: _Side | None, rules: Settlement, note: str, other_basis: bool
) -> _Told:
    if billed is None or ours is None:
        return _one_sided(item, billed, ours, other_basis)
    off = billed.amount - ours.amount
    if off == 0:
        return _Told("equal", "相符", "equal")
    by_quantity, by_price = _effects(billed, ours)
    if billed.quantity is not None and billed.price is not None:
        product = billed.quantity * billed.price
        # of the adjustment the price is a rate, which bills print in per cent
        if item != PF_ITEM and abs(product - billed.amount) > max(rules.bill_tolerance, Decimal("0.01")):
            made = f"{billed.quantity:f} x {billed.price:f} = {half_up(product, 2)}"
            zh = f"账单自身不符：{made}，账单为 {billed.amount:f}"
            en = f"the bill's own line: {made}, not {billed.amount:f}"
            return _Told("arithmetic", zh, en)
    if abs(off) <= rules.bill_tolerance and by_price == 0 and abs(by_quantity) <= rules.bill_tolerance:
        return _Told("rounding", f"尾差 {half_up(off, 2)} 元", f"rounding, {half_up(off, 2)} yuan")
    if item == PF_ITEM:
        return _of_adjustment(billed, ours, by_quantity, by_price)
    return _by_effects(billed, ours, by_quantity, by_price, note)


def _effects(billed: _Side, ours: _Side) -> tuple[Decimal, Decimal]:
    """What quantity and what price make of the difference, yuan; what is not on the bill makes none."""
    quantity = billed.quantity if billed.quantity is not None else ours.quantity
    price = billed.price if billed.price is not None else ours.price
    if quantity is None or ours.quantity is None or price is None or ours.price is None:
        return billed.amount - ours.amount, _ZERO
    return (quantity - ours.quantity) * ours.price, (price - ours.price) * quantity


def _by_effects(billed: _Side, ours: _Side, by_quantity: Decimal, by_price: Decimal, note: str) -> _Told:
    cent = Decimal("0.005")
    parts_zh, parts_en = [], []
    if abs(by_quantity) >= cent or billed.quantity is None:
        parts_zh.append(
            f"数量 {_n(billed.quantity)} 对 {_n(ours.quantity)}，影响 {half_up(by_quantity, 2)} 元{_note(note)}"
        )
        parts_en.append(
            f"quantity {_n(billed.quantity)} against {_n(ours.quantity)}, {half_up(by_quantity, 2)} yuan{_note(note)}"
        )
    if abs(by_price) >= cent:
        parts_zh.append(f"单价 {_n(billed.price)} 对 {_n(ours.price)}，影响 {half_up(by_price, 2)} 元")
        parts_en.append(f"price {_n(billed.price)} against {_n(ours.price)}, {half_up(by_price, 2)} yuan")
    cause = {(True, True): "quantity_and_price", (False, True): "price"}.get(
        (abs(by_quantity) >= cent, abs(by_price) >= cent), "quantity"
    )
    return _Told(cause, "；".join(parts_zh), "; ".join(parts_en))


def _of_adjustment(billed: _Side, ours: _Side, by_quantity: Decimal, by_price: Decimal) -> _Told:
    if abs(by_price) >= Decimal("0.005"):
        rates = f"{_n(billed.price)} 对 {_n(ours.price)}"
        zh = f"力调系数不同：{rates}，影响 {half_up(by_price, 2)} 元；基数影响 {half_up(by_quantity, 2)} 元"
        en = (
            f"another adjustment rate, {_n(billed.price)} against {_n(ours.price)}: {half_up(by_price, 2)} yuan; "
            f"its base: {half_up(by_quantity, 2)} yuan"
        )
        return _Told("power_factor", zh, en)
    said = half_up(billed.amount - ours.amount, 2)
    return _Told("follows", f"随其他项目的差异而变，{said} 元", f"follows from other lines, {said} yuan")


def _one_sided(item: str, billed: _Side | None, ours: _Side | None, other_basis: bool) -> _Told:
    if item.startswith(_BASIC) and other_basis:
        return _Told("basis", "基本电费计费方式不同", "the basic charge is counted on another basis")
    if ours is None:
        assert billed is not None
        return _Told(
            "not_ours", f"我方无此项，账单 {billed.amount:f} 元", f"we have no such line; {billed.amount:f} yuan billed"
        )
    return _Told(
        "not_on_bill", f"账单无此项，我方 {ours.amount:f} 元", f"not on the bill; ours is {ours.amount:f} yuan"
    )


def _total(whole: Decimal, own: Decimal, billed: Mapping[str, _Side], causes: list[str], rules: Settlement) -> _Told:
    off = half_up(whole - own, 2)
    lines = sum((side.amount for side in billed.values()), _ZERO)
    if billed and abs(lines - whole) > rules.bill_tolerance:
        zh = f"账单各项合计 {half_up(lines, 2)}，与账单总额 {half_up(whole, 2)} 不符"
        return _Told(
            "arithmetic", zh, f"the bill's lines add up to {half_up(lines, 2)}, not to its {half_up(whole, 2)}"
        )
    if off == 0:
        return _Told("equal", "相符", "equal")
    if abs(off) <= rules.bill_tolerance and not causes:
        return _Told("rounding", f"尾差 {off} 元", f"rounding, {off} yuan")
    if not billed:
        return _Told("no_lines", f"账单无明细，差 {off} 元", f"the bill has no lines; {off} yuan differ")
    named = ", ".join(dict.fromkeys(causes))
    return _Told("follows", f"差 {off} 元，来自各项：{named}", f"{off} yuan, from its lines: {named}")


def _note(note: str) -> str:
    return f" ({note})" if note else ""


def _n(value: Decimal | None) -> str:
    """A number as people write it."""
    if value is None:
        return "?"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
