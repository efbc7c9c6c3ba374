"""`kilowatch notify` as a process, on a real Apache Kafka and on files; a web hook and a mail server count."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest

from metering.tables.lake import VIOLATIONS
from tests.faults.notices import CUSTOMERS, NotifyHome, expected_ids, run, violation
from tests.receivers import MailServer, Webhook, mail_server, webhook

SCHEMA = Path(__file__).parents[2] / "sinks" / "schemas" / "notices.sent.v1.schema.json"
FIRST, SECOND, FEEDER_OF_FIRST = CUSTOMERS[0], CUSTOMERS[1], "10kV-00"
CONTACTS = f"""contact,role,scope,event_class,severity,quiet,language,channels,level,after_min
dispatch,调度值班台,*,*,info,,zh,json://{{hook}}/dispatch,,
office,供电所,{FIRST},*,warning,,en,${{{{MAIL}}}},,
chief,部门主任,*,limit_warning,info,,zh,json://{{hook}}/chief,1,0.1
"""


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as hook:
        yield hook


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with mail_server() as server:
        url = f"mailto://{server.address}/?from=kilowatch@example.com&to=office@example.com&format=text"
        monkeypatch.setenv("MAIL", url)
        yield server


def _wait(what: Callable[[], bool], home: NotifyHome, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, home.said()
        time.sleep(0.05)


def _titles(hook: Webhook, path: str) -> list[str]:
    return [post.value["title"] for post in list(hook.posts) if post.path == path]


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_alarms_plans_and_outages_reach_people_once_and_feedback_stops_escalation(
    tmp_path: Path, kafka: str, hook: Webhook, mails: MailServer
) -> None:
    toml = "[notify]\nretry_after_s = 0.2\nlake_interval_s = 1\nstorm_wait_s = 1\ntell_execution = true\n"
    home = NotifyHome(tmp_path / "home", kafka, "told", hook.address, CONTACTS, toml)
    now = datetime.now(UTC)
    old = (now - timedelta(hours=3)).isoformat()
    home.produce("violations", "old", violation(100, at=old, started_at=old))
    home.start()
    try:
        _wait(lambda: "notify" in home.said(), home)
        failures = iter([503, 503])
        hook.answer = lambda _: next(failures, 200)
        seen = violation(0, message_zh="城东钢厂过压")
        home.produce("feedback", "f", {"violation_id": seen["violation_id"], "action": "acknowledged", "at": old})
        home.produce("violations", "v0", seen)
        home.produce("violations", "v0", seen)
        home.produce("violations", "junk", {"violation_id": 7})
        for number in (2, 3, 4):
            home.produce("violations", f"v{number}", violation(number, storm_id="S-1"))
        plan = {
            "plan_id": "P-1", "revision": 0, "level": "red", "from": now.isoformat(), "customers": [FIRST, SECOND],
            "to": (now + timedelta(hours=2)).isoformat(), "cap_kw": 300, "issued_at": now.isoformat(),
        }  # fmt: skip
        home.produce("load_control_plans", "P-1", plan)
        home.produce(
            "outages", "O-1", {"outage_id": "O-1", "kind": "fault", "feeder": "10kV-00", "from": now.isoformat()}
        )
        window = {"plan_id": "P-1", "customer_no": FIRST, "cap_kw": 300.0, "actual_kw": 420.0, "compliant": False}
        home.produce("load_control", "w", {**window, "window_end": now.isoformat(), "revision": 0})
        _wait(lambda: len(_titles(hook, "/dispatch")) >= 5 and len(mails.mails) >= 4, home)
        home.produce("violations", "v0", violation(0, "cleared", 1))
        home.produce("load_control_plans", "P-1", {**plan, "revision": 1, "state": "withdrawn"})
        back = {"outage_id": "O-1", "kind": "fault", "feeder": FEEDER_OF_FIRST, "from": now.isoformat()}
        home.produce("outages", "O-1", {**back, "to": (now + timedelta(minutes=9)).isoformat()})
        _wait(lambda: len(mails.mails) >= 7 and bool(_titles(hook, "/chief")), home)
        assert home.stop() < 10
    finally:
        home.kill()

    dispatched = [title.partition("】")[0][1:] for title in _titles(hook, "/dispatch")]
    retried = [post for post in hook.posts if post.attempt > 1]
    assert len(retried) >= 1
    distinct = {
        post.notice_id: post.value["title"].partition("】")[0][1:] for post in hook.posts if post.path == "/dispatch"
    }
    assert sorted(distinct.values()) == sorted(
        ["越限告警", "越限告警", "有序用电", "停复电通知", "有序用电·未达标", "越限告警·已解除", "有序用电·已撤销",
         "停复电通知·已恢复供电"],
    ), dispatched  # fmt: skip
    storm = next(post for post in hook.posts if "3 条告警" in post.value["message"])
    assert storm.value["title"].endswith("3 户")
    # v0 was acknowledged before it was known; the storm was not
    assert {post.value["title"] for post in hook.posts if post.path == "/chief"} == {
        storm.value["title"].replace("越限告警", "越限告警·升级")
    }
    assert len({mail["Message-ID"] for mail in mails.mails}) == len(mails.mails) == 7
    assert all("Traceback" not in line for line in home.said().splitlines())
    assert "message left out" in home.said()

    outcomes = home.outcomes()
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    for value in outcomes.values():
        validator.validate(value)
    ids = {post.notice_id for post in hook.posts} | {mail["Message-ID"][1:].partition("@")[0] for mail in mails.mails}
    assert {name for name, value in outcomes.items() if value["state"] == "sent"} == ids
    assert dict.fromkeys(outcomes, 1) == dict(home.in_lake())
    expired = [value for value in outcomes.values() if value["state"] == "expired"]
    assert {value["violation_id"] for value in expired} == {violation(100)["violation_id"]}
    told = next(value for value in outcomes.values() if value["plan_id"] == "P-1" and value["contact"] == "office")
    assert (told["role"], told["channel"], told["customer_no"]) == ("供电所", "${MAIL}", FIRST)


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_over_kills_everything_arrives_once(tmp_path: Path, kafka: str) -> None:
    """A few kills; `python -m tests.faults.notices` makes many."""
    result = run(tmp_path / "home", kafka, "killed", kills=2, in_between=1, all_killed=1, violations=16)
    assert len(result.expected) == len(result.taken) == 40
    assert not result.lost
    assert not result.unexpected
    assert not result.twice
    assert not result.unmarked
    assert not result.not_told
    assert result.repeated >= 1  # where all was killed, with the same id


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_once_works_off_what_is_there_and_a_second_one_is_refused(tmp_path: Path, kafka: str, hook: Webhook) -> None:
    home = NotifyHome(tmp_path / "home", kafka, "once", hook.address)
    for number in range(8):
        home.produce("violations", str(number), violation(number))
        home.produce("violations", str(number), violation(number, "cleared", 1))
    printed = home.once("--dry-run")
    assert printed.splitlines()[-1] == "20 messages would be sent; nothing was."
    assert "【越限告警】用户 00" in printed
    assert not hook.posts
    assert home.once() == "sent 20\n"
    assert hook.taken == dict.fromkeys(expected_ids(8, hook.address), 1)
    assert home.once() == "sent 20\n"
    assert len(hook.posts) == 20
    with_another = home.start()
    _wait(lambda: '"notify"' in home.said(), home)
    home.once(code=2)
    assert with_another.poll() is None
    home.stop()


def _home_of_files(path: Path, hook: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A home without Kafka; gives what runs `kilowatch notify` on it."""
    from tests.faults.notices import KILOWATCH

    home = NotifyHome.__new__(NotifyHome)
    home.path = path
    home.write_registry(hook, CONTACTS.replace(",0.1", ",600"))
    (path / "kilowatch.toml").write_text("[notify]\nstorm_wait_s = 600\n", "utf-8")

    def notify(*options: str) -> subprocess.CompletedProcess[str]:
        command = [str(KILOWATCH), "notify", "--home", str(path), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return notify


def _part(path: Path, name: str, *messages: dict[str, Any]) -> None:
    """A part of the lake's violations."""
    names = ("at", "started_at", "ended_at")
    rows = [{**m, **{n: m[n] and datetime.fromisoformat(m[n]) for n in names}} for m in messages]
    frame = VIOLATIONS.conform(
        pl.DataFrame(rows),
        value=1.0,
        limit_value=1.0,
        unit="V",
        meter_id="M-1",
        ruleset="1",
        date=datetime.now(UTC).date(),
    )
    folder = path / "lake" / "violations" / f"date={datetime.now(UTC).date()}"
    folder.mkdir(parents=True, exist_ok=True)
    frame.drop("date").write_parquet(folder / f"{name}.parquet")


def test_on_files_it_tells_of_the_lakes_violations_once(tmp_path: Path, hook: Webhook, mails: MailServer) -> None:
    notify = _home_of_files(tmp_path, hook.address)
    _part(tmp_path, "one", violation(0), violation(1))
    done = notify("--once")
    assert (done.returncode, done.stdout) == (0, "pending 2, sent 3\n"), done.stderr
    _part(tmp_path, "merged", violation(0), violation(1), violation(0, "cleared", 1))
    (tmp_path / "lake" / "violations" / f"date={datetime.now(UTC).date()}" / "one.parquet").unlink()
    done = notify("--once")
    assert (done.returncode, done.stdout) == (0, "pending 1, sent 5, stopped 1\n"), done.stderr
    assert len(hook.posts) == 3
    assert [mail["Subject"].partition("]")[0] for mail in mails.mails] == ["[Limit warning", "[Limit warning, cleared"]


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    notify = _home_of_files(tmp_path, "127.0.0.1:9")
    (tmp_path / "registry" / "contacts.csv").unlink()
    for options, said in (((), "contacts.csv is missing"), (("--kafka",), "no Kafka to talk to")):
        done = notify("--once", *options)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert said in done.stderr
