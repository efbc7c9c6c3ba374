"""`kilowatch notify` killed again and again while people are told: whoever is told is told once.

`python -m tests.faults.notices --kills 50` runs it on a Kafka of its own. Here: a home with contacts, the log of
violations, the kills, and what should come of it, counted by a web hook. Not here: who is told what
(`tests/metering/notices`).

A kill (SIGKILL) of `kilowatch notify` comes at a moment by chance, or from the receiver itself when it has counted a
message and has not answered: between the hand-over and its record, where nobody but the receiver knows that the message
came. The process that sends outlives that. Where it is killed too, as when the machine fails, the message comes twice,
with the same id.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psutil
from confluent_kafka import Producer

from metering.notices.dispatch import notice_id
from orchestration.kafka import broker
from sinks.kafka.topics import ensure_topics
from tests.faults.topics import read_topic
from tests.receivers import Post, Webhook, webhook
from tests.signals import terminate

KILOWATCH = Path(sys.executable).with_name("kilowatch")
TOPICS = ("violations", "load_control_plans", "outages", "load_control", "feedback", "notices")
OTHERS = ("readings", "windows", "compliance", "rejected")
CUSTOMERS = [f"3701810000{number:02}" for number in range(20)]
_HEAD = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\n"
)
_METERS = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
)
_CONTACTS = """contact,role,scope,event_class,severity,language,channels
dispatch,调度值班台,*,*,info,zh,json://{hook}/dispatch
office,供电所,feeder:10kV-01,*,info,en,json://{hook}/office
"""


class NotifyHome:
    """A home whose contacts are a web hook's, and the process that tells them."""

    def __init__(
        self, path: Path, address: str, prefix: str, hook: str, contacts: str = _CONTACTS, toml: str = ""
    ) -> None:
        self.path, self.address, self.prefix = path, address, prefix
        self.write_registry(hook, contacts)
        names = "".join(f'{name} = "{prefix}.{name}"\n' for name in (*TOPICS, *OTHERS))
        (path / "kilowatch.toml").write_text(
            f'bootstrap_servers = "{address}"\n[topics]\npartitions = 3\n{names}{toml}', "utf-8"
        )
        topics = {f"{prefix}.{name}": {"cleanup.policy": "compact"} for name in (*TOPICS, *OTHERS)}
        ensure_topics({"bootstrap.servers": address}, topics, 3, 1)
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 0, "log_level": 2})
        self.process: subprocess.Popen[bytes] | None = None

    def write_registry(self, hook: str, contacts: str) -> None:
        """Customers, on four feeders in turn, and contacts."""
        folder = self.path / "registry"
        folder.mkdir(parents=True)
        rows = (
            f"{number},用户 {number[-2:]},large,machinery,10,1600,,0.90,large_industry,false,10kV-0{n % 4},东所,true\n"
            for n, number in enumerate(CUSTOMERS)
        )
        (folder / "customers.csv").write_text(_HEAD + "".join(rows), "utf-8")
        (folder / "meters.csv").write_text(_METERS, "utf-8")
        (folder / "contacts.csv").write_text(contacts.format(hook=hook), "utf-8")

    def produce(self, name: str, key: str, value: dict[str, Any]) -> None:
        self._producer.produce(f"{self.prefix}.{name}", json.dumps(value), key)
        self._producer.flush(30)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        with (self.path / "notify.log").open("ab") as log:
            self.process = subprocess.Popen(
                [KILOWATCH, "notify", "--home", self.path, *options], stdout=log, stderr=log, env=dict(os.environ)
            )
        return self.process

    def once(self, *options: str, code: int = 0) -> str:
        """Run it to its end; what it printed."""
        done = subprocess.run(
            [KILOWATCH, "notify", "--once", "--home", self.path, *options],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def kill(self, courier: bool = False) -> None:
        """SIGKILL to `kilowatch notify`, and to the process that sends for it."""
        if self.process is None:
            return
        sending = psutil.Process(self.process.pid).children() if courier and self.process.poll() is None else []
        self.process.kill()
        for process in sending:
            process.kill()
        self.process.wait()

    def under_way(self) -> list[str]:
        """Messages that were being handed over when all was killed: nobody knows of them whether they came."""
        with closing(sqlite3.connect(self.path / "notify" / "ledger.sqlite")) as ledger:
            return [row[0] for row in ledger.execute("SELECT notice_id FROM notices WHERE status = 'sending'")]

    def stop(self) -> float:
        """SIGTERM; the seconds until it ended with exit code 0."""
        assert self.process is not None
        begin = time.monotonic()
        terminate(self.process)
        assert self.process.wait(20) == 0, self.said()
        return time.monotonic() - begin

    def said(self) -> str:
        return (self.path / "notify.log").read_text("utf-8", "replace")

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """The topic of outcomes: the last value of each key."""
        found = read_topic(self.address, f"{self.prefix}.notices")
        return {(message.key() or b"").decode(): json.loads(message.value() or b"{}") for message in found}

    def in_lake(self) -> Counter[str]:
        """How often each message stands in the lake."""
        if not list(self.path.glob("lake/notices/*/*.parquet")):
            return Counter()
        rows = duckdb.sql(f"SELECT notice_id FROM read_parquet('{self.path}/lake/notices/*/*.parquet')").fetchall()
        return Counter(row[0] for row in rows)


def violation(number: int, state: str = "raised", revision: int = 0, **values: Any) -> dict[str, Any]:
    """A violation that has just begun."""
    now = datetime.now(UTC)
    return {
        "violation_id": f"M-00000{number:07}/over_voltage/a/{number}", "state": state, "revision": revision,
        "rule": "over_voltage", "phase": "a", "severity": "warning", "at": now.isoformat(),
        "started_at": (now - timedelta(minutes=2)).isoformat(),
        "ended_at": now.isoformat() if state == "cleared" else None,
        "customer_no": CUSTOMERS[number % len(CUSTOMERS)], "event_class": "limit_warning",
        "message_zh": f"第 {number} 条", "message_en": f"number {number}", **values,
    }  # fmt: skip


@dataclass
class Result:
    """What a run came to. `twice`: messages that a receiver got again, but for those at which all was killed."""

    kills: int
    in_between: int
    all_killed: int
    expected: set[str]
    taken: Counter[str]
    lost: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    twice: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    unmarked: set[str] = field(default_factory=set)
    not_told: set[str] = field(default_factory=set)
    stopped_s: float = 0.0


def run(
    path: Path,
    address: str,
    prefix: str,
    *,
    kills: int,
    in_between: int,
    all_killed: int,
    violations: int,
    seed: int = 1,
) -> Result:
    """Tell of `violations`, each raised and cleared; gives what came of it.

    Over `kills` kills at moments by chance, `in_between` between hand-over and record, and `all_killed` there of the
    process that sends too.
    """
    toml = "[notify]\nretry_after_s = 0.5\nlake_interval_s = 2\n"
    with webhook() as hook:
        home = NotifyHome(path, address, prefix, hook.address, toml=toml)
        count = kills + in_between + all_killed
        feed = threading.Thread(target=_feed, args=(home, violations, count, random.Random(seed + 1)))
        feed.start()
        moments = ["by chance"] * kills + ["in between"] * in_between + ["all"] * all_killed
        random.Random(seed).shuffle(moments)
        killed_at = _killing(home, hook, moments, random.Random(seed))
        feed.join()
        hook.answer = lambda _: 200
        expected = expected_ids(violations, hook.address)
        home.start()
        deadline = time.monotonic() + 120
        while set(hook.taken) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.5)  # should more come than is expected
        return judged(home, hook, expected, (kills, in_between, all_killed), killed_at, home.stop())


def _feed(home: NotifyHome, violations: int, kills: int, chance: random.Random) -> None:
    """Violations one after the other, over the time that the kills take; some messages come twice."""
    pause = 1.6 * kills / violations / 2
    for number in range(violations):
        for revision, state in enumerate(("raised", "cleared")):
            message = violation(number, state, revision)
            for _ in range(1 + (chance.random() < 0.1)):
                home.produce("violations", message["violation_id"], message)
            time.sleep(pause * chance.uniform(0.2, 1.8))


def _killing(home: NotifyHome, hook: Webhook, moments: list[str], chance: random.Random) -> list[str]:
    """Kill the process at these moments; the messages at which all was killed."""
    armed, done = threading.Event(), threading.Event()
    killed_at: list[str] = []
    moment = ""

    def answer(post: Post) -> int:
        if post.attempt == 1 and armed.is_set():
            armed.clear()
            home.kill(courier=moment == "all")
            if moment == "all":
                killed_at.extend(home.under_way())
            done.set()
        return 200

    hook.answer = answer
    for moment in moments:
        done.clear()
        home.start()
        if moment == "by chance":
            time.sleep(chance.uniform(0.05, 3.0))
        else:
            armed.set()
            assert done.wait(60), f"nothing more was sent: {home.said()}"
        home.kill()
    return killed_at


def expected_ids(violations: int, hook: str) -> set[str]:
    """By a plain account: who is told of what, once."""
    ids = set()
    for number in range(violations):
        subject = violation(number)["violation_id"]
        contacts = ["dispatch", *(["office"] if number % len(CUSTOMERS) % 4 == 1 else [])]
        for contact in contacts:
            for state in ("raised", "cleared"):
                ids.add(notice_id(subject, state, contact, f"json://{hook}/{contact}", 0))
    return ids


def judged(
    home: NotifyHome,
    hook: Webhook,
    expected: set[str],
    kills: tuple[int, int, int],
    killed_at: list[str],
    stopped_s: float,
) -> Result:
    """Deliveries, outcomes on the topic and rows in the lake against what is expected."""
    taken, attempts = hook.taken, Counter((post.notice_id, post.attempt) for post in hook.posts)
    outcomes, lake = home.outcomes(), home.in_lake()
    sent = {name for name, value in outcomes.items() if value["state"] == "sent"}
    return Result(
        *kills, expected, taken, lost=expected - set(taken), unexpected=set(taken) - expected,
        twice={name: count for name, count in taken.items() if count > 1 + killed_at.count(name)},
        repeated=sum(count > 1 for count in taken.values()),
        unmarked={name for (name, _), count in attempts.items() if count > 1},
        not_told=expected ^ (sent & {name for name, count in lake.items() if count == 1}), stopped_s=stopped_s,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of notify, at moments by chance")
    parser.add_argument("--in-between", type=int, default=10, help="of notify, between hand-over and record")
    parser.add_argument("--all-killed", type=int, default=5, help="there, of the process that sends too")
    parser.add_argument("--violations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kafka = Path(folder) / "kafka"
        kafka.mkdir()
        address = broker.start(kafka)
        try:
            result = run(Path(folder) / "home", address, "n", **vars(options))
        finally:
            broker.stop(kafka)
    sys.stdout.write(
        f"{result.kills} kills at moments by chance, {result.in_between} between hand-over and record, "
        f"{result.all_killed} there of all\n"
        f"{len(result.expected)} messages: {len(result.lost)} lost, {len(result.unexpected)} not expected, "
        f"{len(result.twice)} twice; {result.repeated} repeated with the same id where all was killed "
        f"({len(result.unmarked)} not marked as repeated)\n"
        f"{len(result.not_told)} outcomes missing or doubled on the topic or in the lake; "
        f"SIGTERM to exit {result.stopped_s:.1f} s\n"
    )
    sys.exit(1 if result.lost or result.unexpected or result.twice or result.unmarked or result.not_told else 0)


if __name__ == "__main__":
    main()
