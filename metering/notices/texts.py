"""The words of a message: title and text, in Chinese and English, by what it is about.

Here: what a person reads. A violation's own message says who, where, since when, how bad and what to do
(`metering.events.texts`); it is not said twice. Not here: who reads it (`dispatch`), the reference at its end, which
goes with the sending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from metering.notices.contacts import Contact, Customer
from metering.notices.events import CONTROL, OUTAGE, PLAN, Event
from metering.tables.lake import WINDOW_S

CLASS_NAMES: Mapping[str, Mapping[str, str]] = {
    "zh": {
        "power_notice": "供电通知", "outage": "停复电通知", "orderly_usage": "有序用电", "limit_warning": "越限告警",
    },
    "en": {
        "power_notice": "Power notice", "outage": "Outage", "orderly_usage": "Orderly usage",
        "limit_warning": "Limit warning",
    },
}  # fmt: skip
_MARKS = {
    "zh": {"raised": "", "updated": "变更", "cleared": "已解除", "withdrawn": "已撤销"},
    "en": {"raised": "", "updated": "changed", "cleared": "cleared", "withdrawn": "withdrawn"},
}
_OWN_MARKS = {
    ("zh", OUTAGE, "cleared"): "已恢复供电", ("en", OUTAGE, "cleared"): "restored",
    ("zh", OUTAGE, "withdrawn"): "已取消", ("en", OUTAGE, "withdrawn"): "called off",
    ("zh", CONTROL, "raised"): "未达标", ("en", CONTROL, "raised"): "missed",
    ("zh", CONTROL, "cleared"): "已达标", ("en", CONTROL, "cleared"): "met again",
    ("zh", "violation", "updated"): "加重", ("en", "violation", "updated"): "worse",
}  # fmt: skip
_LEVELS = {
    "zh": {"red": "红色", "orange": "橙色", "yellow": "黄色", "blue": "蓝色"},
    "en": {"red": "red", "orange": "orange", "yellow": "yellow", "blue": "blue"},
}
_CAUSES = {
    "zh": {
        "planned": "计划停电", "fault": "故障停电", "supply_shortage": "供电不足停电", "external": "外部原因停电",
    },
    "en": {
        "planned": "Planned outage", "fault": "Outage by a fault", "supply_shortage": "Outage for shortage of supply",
        "external": "Outage by an external cause",
    },
}  # fmt: skip
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ADVICE = ("建议：", "Advice:", "What to do:")


@dataclass(frozen=True, slots=True)
class Words:
    """What a message is made of: the event, what is told of it, its class, the reader's customers, the reader."""

    event: Event
    state: str
    event_class: str
    customers: Sequence[Customer]
    contact: Contact
    zone: str
    named: int

    @property
    def zh(self) -> bool:
        return self.contact.language == "zh"

    def say(self, chinese: str, english: str) -> str:
        """One of the two."""
        return chinese if self.zh else english


def title(words: Words) -> str:
    """The title: class, what is told, whom it is about."""
    event, language = words.event, words.contact.language
    mark = _OWN_MARKS.get((language, event.kind, words.state), _MARKS[language][words.state])
    return _titled(words.contact, words.event_class, mark, _whom(words), words.state)


def storm_title(contact: Contact, event_class: str, state: str, where: str) -> str:
    """The title of several violations told in one message."""
    return _titled(contact, event_class, _MARKS[contact.language][state], where, state)


def _titled(contact: Contact, event_class: str, mark: str, whom: str, state: str) -> str:
    zh = contact.language == "zh"
    name = CLASS_NAMES[contact.language].get(event_class, event_class)
    up = ("升级" if zh else "escalated") if contact.level and state == "raised" else ""
    head = ("·" if zh else ", ").join(part for part in (name, mark, up) if part)
    return f"【{head}】{whom}" if zh else f"[{head}] {whom}"


def body(words: Words) -> str:
    """The text."""
    said = _BODIES.get(words.event.kind, _violation)(words)
    return escalated(words.contact, said) if words.state == "raised" else said


def escalated(contact: Contact, said: str) -> str:
    """The text for one who is told because nobody has acknowledged it."""
    if not contact.level:
        return said
    minutes = f"{contact.after_min:g}"
    zh = contact.language == "zh"
    return f"{minutes} 分钟无人确认，现升级通知。\n{said}" if zh else f"Not acknowledged for {minutes} min.\n{said}"


def storm_body(
    contact: Contact,
    state: str,
    messages: Sequence[str],
    kinds: str,
    over: int,
    span: tuple[datetime, datetime | None],
    zone: str,
    named: int,
) -> str:
    """The text of several violations told in one message. `kinds`: how many there are of each, where they differ;
    `over`: how many of them have ended.
    """
    zh = contact.language == "zh"
    begin, end = span
    count = len(messages)
    when = span_text(begin, end, zone, contact.language)
    if state == "withdrawn":
        head = f"{when} 起的 {count} 条告警均已撤销。" if zh else f"All {count} alarms since {when} are withdrawn."
    elif end is not None:
        head = f"{when}，{count} 条告警均已解除。" if zh else f"{when}: all {count} alarms have ended."
    else:
        head = f"{when} 起 {count} 条告警" if zh else f"{count} alarms since {when}"
        head += (f"（{kinds}）" if zh else f" ({kinds})") if kinds else ""
        done = (f"，其中 {over} 条已解除" if zh else f", of which {over} have ended") if over else ""
        head += f"{done}：" if zh else f"{done}:"
    lines = [f"{number}. {_short(message)}" for number, message in enumerate(messages[:named], 1)]
    if count > named:
        lines.append(f"……另有 {count - named} 条。" if zh else f"... and {count - named} more.")
    said = "\n".join([head, *lines])
    return escalated(contact, said) if state == "raised" else said


def message_of(event: Event, language: str) -> str:
    """What a violation's own message says."""
    return str(event.value.get(f"message_{language}") or event.value.get("message_en") or event.subject)


def span_text(begin: datetime, end: datetime | None, zone: str, language: str) -> str:
    """Local times: 3月2日 14:00–18:00."""
    local = begin.astimezone(ZoneInfo(zone))
    first = _moment(local, language)
    if end is None:
        return first
    last = end.astimezone(ZoneInfo(zone))
    return f"{first}–{f'{last:%H:%M}' if last.date() == local.date() else _moment(last, language)}"


def _moment(local: datetime, language: str) -> str:
    if language == "zh":
        return f"{local.month}月{local.day}日 {local:%H:%M}"
    return f"{local.day} {_MONTHS[local.month - 1]} {local:%H:%M}"


def _whom(words: Words) -> str:
    """One customer with its feeder, a feeder, or how many customers."""
    customers, event = words.customers, words.event
    if event.kind == PLAN:
        return event.subject
    if len(customers) == 1:
        one = customers[0]
        return words.say(f"{one.name}（{one.feeder}）", f"{one.name} ({one.feeder})") if one.feeder else one.name
    if event.feeders:
        return _feeders(words)
    return words.say(f"{len(customers)} 户", f"{len(customers)} customers") if customers else event.subject


def _violation(words: Words) -> str:
    language = words.contact.language
    said = message_of(words.event, language)
    advice = str(words.event.value.get(f"advice_{language}") or "")
    if not advice or advice in said or words.state not in ("raised", "updated"):
        return said
    return f"{said}\n{words.say(f'建议：{advice}', f'Advice: {advice}')}"


def _plan(words: Words) -> str:
    event, language = words.event, words.contact.language
    level = _LEVELS[language].get(str(event.value.get("level")), "")
    response = event.value.get("kind") == "demand_response"
    kind = words.say(
        "需求响应方案" if response else "有序用电方案", "Demand response plan" if response else "Orderly-usage plan"
    )
    shade = words.say(f"（{level}）", f" ({level})") if level else ""
    name = f"{kind} {event.subject}{shade}"
    when = "" if event.started_at is None else span_text(event.started_at, event.ended_at, words.zone, language)
    if words.state == "withdrawn" and event.is_open:
        return words.say(
            f"{name}有变更，不再涉及贵方用户，请恢复正常用电。",
            f"{name} has changed and does not concern your customers any more; use power as usual.",
        )
    if words.state == "withdrawn":
        return words.say(
            f"{name}已撤销{f'（原定 {when}）' if when else ''}，请恢复正常用电。",
            f"{name}{f', {when},' if when else ''} is withdrawn; use power as usual.",
        )
    changed = words.say("有变更，以本通知为准", " has changed, this holds now") if words.state == "updated" else ""
    return "\n".join(
        [
            words.say(f"{name}{changed}：{when}。", f"{name}{changed}: {when}."),
            *_tasks(words),
            words.say(
                "请据此安排生产，按时压减负荷；保安负荷不在压减之列。",
                "Please plan production accordingly and reduce load in time; protected load is exempt.",
            ),
        ]
    )


def _tasks(words: Words) -> list[str]:
    """What each of the reader's customers is to do."""
    event, lines = words.event, []
    for one in words.customers[: words.named]:
        cap = event.caps.get(one.customer_no, event.caps.get("*"))
        less = event.reductions.get(one.customer_no, event.reductions.get("*"))
        parts = []
        if cap is not None:
            parts.append(words.say(f"负荷不超过 {cap:,.0f} kW", f"at most {cap:,.0f} kW"))
        if less is not None:
            parts.append(words.say(f"压减 {less:,.0f} kW", f"{less:,.0f} kW less"))
        said = words.say("，", ", ").join(parts)
        lines.append(words.say(f"{one.name}{f'：{said}' if said else ''}", f"{one.name}{f': {said}' if said else ''}"))
    more = len(words.customers) - words.named
    if more > 0:
        lines.append(words.say(f"……另有 {more} 户。", f"... and {more} more customers."))
    return lines


def _outage(words: Words) -> str:
    event, language = words.event, words.contact.language
    cause = _CAUSES[language].get(str(event.value.get("kind")), words.say("停电", "Outage"))
    begin, end = event.started_at or event.at, event.ended_at
    when = span_text(begin, end, words.zone, language)
    where = _feeders(words) if event.feeders else words.say("", "supply")
    names = _listed([c.name for c in words.customers], words)
    count = len(words.customers)
    whom = words.say(f"影响 {count} 户：{names}。", f" Customers affected, {count}: {names}.") if names else ""
    if words.state == "withdrawn" and event.is_open:
        return words.say(
            f"{cause}（{when}）范围有变更，不再影响贵方用户。", f"{cause}, {when}: it does not concern you any more."
        )
    if words.state == "withdrawn":
        return words.say(
            f"{_comma(where, when)} 的{cause}已取消，照常供电。{whom}", f"{cause}, {where}, {when}: called off.{whom}"
        )
    if words.state == "cleared":
        span = duration(end - begin, language) if end is not None else ""
        lasted = words.say(f"，历时 {span}", f", {span}") if span else ""
        return words.say(
            f"{where}已恢复供电（{cause}，{when}{lasted}）。{whom}",
            f"{_upper(where)} has power again ({cause.lower()}, {when}{lasted}).{whom}",
        )
    since = when if end is not None else words.say(f"{when} 起", f"since {when}")
    changed = ""
    if words.state == "updated":
        changed = words.say("时间或范围有变更，以本通知为准。", " Time or extent have changed, this holds now.")
    if event.value.get("kind") == "planned":
        todo = words.say(
            "请提前安排生产，检查自备电源及闭锁装置，防止反送电。",
            " Please plan production, and check your own supply and its interlock.",
        )
    else:
        todo = words.say(
            "停电期间设备视同带电；启用自备电源前请先断开进线开关，防止反送电。",
            " Treat all parts as live; open the incoming switch before you use your own supply.",
        )
    return words.say(
        f"{cause}：{_comma(where, since)}。{changed}{whom}{todo}", f"{cause}, {where}, {since}.{changed}{whom}{todo}"
    )


def _control(words: Words) -> str:
    event = words.event
    value = event.value
    name = words.customers[0].name if words.customers else str(value.get("customer_no"))
    plan, end = value.get("plan_id"), event.started_at or event.at
    when = span_text(end - timedelta(seconds=WINDOW_S), end, words.zone, words.contact.language)
    if words.state == "withdrawn":
        return words.say(
            f"{name}：方案 {plan} 在 {when} 不再执行，此前未达标的通知作废。",
            f"{name}: plan {plan} does not hold for {when} any more; disregard that it was missed.",
        )
    actual, cap = _kw(value.get("actual_kw")), _kw(value.get("cap_kw"))
    instructed, achieved = _kw(value.get("instructed_kw")), _kw(value.get("achieved_kw"))
    task = ""
    if actual and cap:
        task = words.say(f"：负荷 {actual} kW，限值 {cap} kW", f": load {actual} kW, cap {cap} kW")
    elif instructed and achieved:
        task = words.say(
            f"：已压减 {achieved} kW，应压减 {instructed} kW", f": {achieved} kW saved of {instructed} kW instructed"
        )
    head = words.say(f"{name}执行方案 {plan}，{when}{task}", f"{name}, plan {plan}, {when}{task}")
    if words.state == "raised":
        return words.say(f"{head}，未达标。请立即压减负荷。", f"{head}: missed. Please reduce load now.")
    return words.say(f"{head}，已达标。", f"{head}: met.")


_BODIES: Mapping[str, Callable[[Words], str]] = {PLAN: _plan, OUTAGE: _outage, CONTROL: _control}


def duration(delta: timedelta, language: str) -> str:
    """45 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(delta.total_seconds() / 60)
    zh = language == "zh"
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    units = ((days, " 天" if zh else " d"), (hours, " 小时" if zh else " h"), (rest, " 分钟" if zh else " min"))
    return " ".join(f"{number}{unit}" for number, unit in units if number) or (
        "不到 1 分钟" if zh else "less than 1 min"
    )


def _feeders(words: Words) -> str:
    return feeders_text(words.event.feeders, words.contact.language)


def feeders_text(names: Sequence[str], language: str) -> str:
    """Feeders as they are spoken of; one whose name says that it is a line is not called so again."""
    if language == "zh":
        joined = "、".join(names)
        return joined if joined.endswith(("线", "线路")) else f"{joined} 线路"
    return f"feeder{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _listed(names: Sequence[str], words: Words) -> str:
    shown = words.say("、", ", ").join(names[: words.named])
    return shown + words.say("等", " and others") if len(names) > words.named else shown


def _short(message: str) -> str:
    """A violation's message without its advice."""
    for mark in _ADVICE:
        message = message.partition(mark)[0]
    return message.strip()


def _kw(value: object) -> str | None:
    return f"{value:,.0f}" if isinstance(value, int | float) else None


def _comma(*parts: str) -> str:
    return "，".join(part for part in parts if part)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
