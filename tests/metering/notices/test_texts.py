"""The words: each class and state once in Chinese and in English, as it is read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.metering.notices.events import COLD, NOW, STEEL, Told, contact, outage, plan, violation, world


def _texts(language: str, kind: str, *messages: dict[str, Any]) -> tuple[str, str]:
    """Title and text that the last of the messages leads to."""
    told = Told(world(contact(language=language)))
    for message in messages:
        new = told.hear(kind, message)
        told.send_due(NOW)
    return new[-1].title, new[-1].body


PLANNED = outage(kind="planned", **{"from": "2026-03-05T08:00:00+08:00", "to": "2026-03-05T17:00:00+08:00"})
WINDOW = {
    "plan_id": "P", "customer_no": STEEL, "cap_kw": 3200.0, "actual_kw": 3450.0, "compliant": False,
    "window_end": NOW.isoformat(),
}  # fmt: skip
CASES: dict[str, tuple[str, list[dict[str, Any]], tuple[str, str], tuple[str, str]]] = {
    "raised": (
        "violation", [violation(advice_zh="检查分接头。", advice_en="check the tap.")],
        ("【越限告警】城东钢厂（10kV-01）", "城东钢厂（10 kV 东一线）AB 线电压过压：最高 129.7 V\n建议：检查分接头。"),
        ("[Limit warning] 城东钢厂 (10kV-01)", "over-voltage, 129.7 V\nAdvice: check the tap."),
    ),
    "cleared": (
        "violation",
        [violation(), violation("cleared", 1, 11, message_zh="过压已解除", message_en="over", advice_zh="看分接头")],
        ("【越限告警·已解除】城东钢厂（10kV-01）", "过压已解除"),
        ("[Limit warning, cleared] 城东钢厂 (10kV-01)", "over"),
    ),
    "plan": (
        "plan", [plan()],
        ("【有序用电】P-2026-03-02", "有序用电方案 P-2026-03-02（红色）：3月2日 18:00–21:00。\n城东钢厂：负荷不超过 3,200 kW\n"
         "冷库：负荷不超过 500 kW\n请据此安排生产，按时压减负荷；保安负荷不在压减之列。"),
        ("[Orderly usage] P-2026-03-02", "Orderly-usage plan P-2026-03-02 (red): 2 Mar 18:00–21:00.\n"
         "城东钢厂: at most 3,200 kW\n冷库: at most 500 kW\n"
         "Please plan production accordingly and reduce load in time; protected load is exempt."),
    ),
    "plan changed": (
        "plan", [plan(), plan(1, cap_kw=None, reduction_kw=400, to="2026-03-03T01:00:00+08:00", kind="demand_response")],
        ("【有序用电·变更】P-2026-03-02", "需求响应方案 P-2026-03-02（红色）有变更，以本通知为准：3月2日 18:00–3月3日 01:00。\n"
         "城东钢厂：压减 400 kW\n冷库：压减 400 kW\n请据此安排生产，按时压减负荷；保安负荷不在压减之列。"),
        ("[Orderly usage, changed] P-2026-03-02", "Demand response plan P-2026-03-02 (red) has changed, this holds now: "
         "2 Mar 18:00–3 Mar 01:00.\n城东钢厂: 400 kW less\n冷库: 400 kW less\n"
         "Please plan production accordingly and reduce load in time; protected load is exempt."),
    ),
    "plan withdrawn": (
        "plan", [plan(), plan(1, state="withdrawn")],
        ("【有序用电·已撤销】P-2026-03-02", "有序用电方案 P-2026-03-02（红色）已撤销（原定 3月2日 18:00–21:00），请恢复正常用电。"),
        ("[Orderly usage, withdrawn] P-2026-03-02",
         "Orderly-usage plan P-2026-03-02 (red), 2 Mar 18:00–21:00, is withdrawn; use power as usual."),
    ),
    "outage": (
        "outage", [outage()],
        ("【停复电通知】10kV-01 线路", "故障停电：10kV-01 线路，3月2日 14:00 起。影响 2 户：城东钢厂、市立医院。"
         "停电期间设备视同带电；启用自备电源前请先断开进线开关，防止反送电。"),
        ("[Outage] feeder 10kV-01", "Outage by a fault, feeder 10kV-01, since 2 Mar 14:00. Customers affected, 2: 城东钢厂, "
         "市立医院. Treat all parts as live; open the incoming switch before you use your own supply."),
    ),
    "restored": (
        "outage", [outage(), outage(to=(NOW + timedelta(minutes=95)).isoformat())],
        ("【停复电通知·已恢复供电】10kV-01 线路", "10kV-01 线路已恢复供电（故障停电，3月2日 14:00–15:35，历时 1 小时 35 分钟）。"
         "影响 2 户：城东钢厂、市立医院。"),
        ("[Outage, restored] feeder 10kV-01", "Feeder 10kV-01 has power again (outage by a fault, 2 Mar 14:00–15:35, "
         "1 h 35 min). Customers affected, 2: 城东钢厂, 市立医院."),
    ),
    "planned": (
        "outage", [PLANNED],
        ("【供电通知】10kV-01 线路", "计划停电：10kV-01 线路，3月5日 08:00–17:00。影响 2 户：城东钢厂、市立医院。"
         "请提前安排生产，检查自备电源及闭锁装置，防止反送电。"),
        ("[Power notice] feeder 10kV-01", "Planned outage, feeder 10kV-01, 5 Mar 08:00–17:00. Customers affected, 2: 城东钢厂, "
         "市立医院. Please plan production, and check your own supply and its interlock."),
    ),
    "called off": (
        "outage", [PLANNED, {**PLANNED, "state": "cancelled"}],
        ("【供电通知·已取消】10kV-01 线路", "10kV-01 线路，3月5日 08:00–17:00 的计划停电已取消，照常供电。影响 2 户：城东钢厂、市立医院。"),
        ("[Power notice, called off] feeder 10kV-01",
         "Planned outage, feeder 10kV-01, 5 Mar 08:00–17:00: called off. Customers affected, 2: 城东钢厂, 市立医院."),
    ),
    "missed": (
        "control", [WINDOW],
        ("【有序用电·未达标】城东钢厂（10kV-01）",
         "城东钢厂执行方案 P，3月2日 13:45–14:00：负荷 3,450 kW，限值 3,200 kW，未达标。请立即压减负荷。"),
        ("[Orderly usage, missed] 城东钢厂 (10kV-01)",
         "城东钢厂, plan P, 2 Mar 13:45–14:00: load 3,450 kW, cap 3,200 kW: missed. Please reduce load now."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_title_and_text(name: str) -> None:
    kind, messages, chinese, english = CASES[name]
    assert _texts("zh", kind, *messages) == chinese
    assert _texts("en", kind, *messages) == english


def test_advice_is_not_said_twice() -> None:
    message = violation(message_zh="过压。建议：检查分接头。", advice_zh="检查分接头。")
    assert _texts("zh", "violation", message)[1] == "过压。建议：检查分接头。"


def test_who_is_told_for_want_of_an_acknowledgement_reads_why() -> None:
    for language, title, first in (
        ("zh", "【越限告警·升级】城东钢厂（10kV-01）", "15 分钟无人确认，现升级通知。"),
        ("en", "[Limit warning, escalated] 城东钢厂 (10kV-01)", "Not acknowledged for 15 min."),
    ):
        told = Told(world(contact(level=1, after_min=15, language=language)))
        (up,) = told.hear("violation", violation())
        assert (up.title, up.body.splitlines()[0]) == (title, first)
        told.send_due(NOW + timedelta(minutes=15))
        (over,) = told.hear("violation", violation("cleared", 1, 20))
        assert "升级" not in over.title + over.body
        assert "scalated" not in over.title


def test_a_contact_reads_of_its_own_customers_only_and_of_no_more_than_the_settings_name() -> None:
    told = Told(world(contact(scope=COLD), contact("all"), members_named=1))
    own, both = told.hear("plan", plan())
    assert "城东钢厂" not in own.body
    assert "冷库：负荷不超过 500 kW" in own.body
    assert "城东钢厂：" in both.body
    assert "……另有 1 户。" in both.body


def test_a_customer_that_leaves_a_plan_reads_that_and_not_that_the_plan_is_withdrawn() -> None:
    told = Told(world(contact(scope=STEEL)))
    told.hear("plan", plan())
    told.send_due(NOW)
    (out,) = told.hear("plan", plan(1, customers=[COLD], cap_kw={COLD: 500}))
    assert out.body == "有序用电方案 P-2026-03-02（红色）有变更，不再涉及贵方用户，请恢复正常用电。"


def test_a_customer_that_the_registry_does_not_have_is_named_by_the_alarm() -> None:
    told = Told(world(contact()))
    (one,) = told.hear("violation", violation(customer_no="370181999999", customer_name="新厂", feeder="10kV-09"))
    assert one.title == "【越限告警】新厂（10kV-09）"


def test_a_feeder_whose_name_says_that_it_is_a_line_is_not_called_so_again() -> None:
    named = outage(feeder="10 kV 城东19线", customers=[STEEL])
    title, text = _texts("zh", "outage", named)
    assert title == "【停复电通知】城东钢厂（10kV-01）"
    assert text.startswith("故障停电：10 kV 城东19线，3月2日 14:00 起。影响 1 户：城东钢厂。")
