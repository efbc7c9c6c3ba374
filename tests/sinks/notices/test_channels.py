"""Channels: messages through Apprise to a real web hook and a real mail server, with the ids that tell them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metering.notices.dispatch import Notice
from sinks.notices.channels import Channels, scheme
from tests.metering.notices.events import NOW
from tests.receivers import mail_server, webhook

NOTICE = Notice(
    notice_id="9f3a51c0d2e84b76", subject="v", kind="violation", contact="duty", role="值班台", level=0, channel="",
    language="zh", event_class="limit_warning", event_state="raised", severity="critical", members=("1",),
    customer_no="1", title="【越限告警】城东钢厂", body="AB 线电压过压：最高 129.7 V，<5> & \"6\"",
    event_at=NOW, taken_at=NOW, due_at=NOW, attempts=1,
)  # fmt: skip


def test_a_web_hook_gets_title_text_and_the_id_in_header_and_field() -> None:
    with webhook() as hook:
        channels = Channels({"HOOK": hook.address})
        notice = replace(NOTICE, channel="json://${HOOK}/alarms")
        assert channels.hand_over(notice) is None
        assert channels.hand_over(replace(notice, notice_id="another", attempts=3, language="en")) is None
    first, second = hook.posts
    assert (first.path, first.notice_id, first.attempt) == ("/alarms", NOTICE.notice_id, 1)
    assert first.value["notice_id"] == NOTICE.notice_id
    assert first.value["title"] == NOTICE.title
    assert first.value["message"] == f"{NOTICE.body}\n编号 {NOTICE.notice_id}"
    assert first.value["type"] == "failure"
    assert (second.notice_id, second.attempt, second.value["message"].splitlines()[-1]) == (
        "another", 3, "Reference another",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["form", "xml"])
def test_other_web_hooks_get_the_id_too(kind: str) -> None:
    import http.server
    import threading

    seen: list[tuple[str | None, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.headers["Idempotency-Key"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 5
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        notice = replace(NOTICE, channel=f"{kind}://127.0.0.1:{server.server_address[1]}")
        assert Channels({}).hand_over(notice) is None
        thread.join()
    assert seen[0][0] == NOTICE.notice_id
    assert NOTICE.notice_id.encode() in seen[0][1]


def test_mails_have_the_id_as_their_message_id_and_leave_without_a_pause() -> None:
    with mail_server() as server:
        channels = Channels({})
        host, _, port = server.address.partition(":")
        url = f"mailto://{host}:{port}/?from=kilowatch@example.com&to=duty@example.com&format=text"
        for number in range(3):
            assert channels.hand_over(replace(NOTICE, channel=url, notice_id=f"id{number}")) is None
    assert [mail.get_all("Message-ID") for mail in server.mails] == [[f"<id{n}@kilowatch>"] for n in range(3)]
    mail = server.mails[0]
    assert mail["Subject"] == NOTICE.title
    assert mail["To"] == "duty@example.com"
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content().split("\r\n")[:2] == [NOTICE.body, "编号 id0"]


def test_what_is_not_taken_says_why_without_secrets() -> None:
    with webhook() as hook:
        hook.answer = lambda _: 503
        url = f"json://user:hunter2@{hook.address}/x"
        said = Channels({}).hand_over(replace(NOTICE, channel=url))
    assert said is not None
    assert "503" in said
    assert "hunter2" not in said
    gone = Channels({}).hand_over(replace(NOTICE, channel=url))
    assert gone is not None
    assert "hunter2" not in gone
    with mail_server() as server:
        server.refusing = True
        refused = Channels({}).hand_over(replace(NOTICE, channel=f"mailto://{server.address}/?from=a@b.cn&to=c@d.cn"))
    assert refused is not None
    assert not server.mails


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://hunter2@host", "does not know"),
        ("json://${UNSET}/hunter2", "UNSET is not set"),
        ("mailto://user:hunter2@mail.example.com/a@example.com/b@example.com", "2 receivers"),
    ],
)
def test_what_is_no_channel_says_so_and_no_secret(url: str, said: str) -> None:
    channels = Channels({})
    problem = channels.problem(url)
    assert problem is not None
    assert said in problem
    assert "hunter2" not in problem
    assert channels.hand_over(replace(NOTICE, channel=url)) == problem
    assert channels.unset(url) == (["UNSET"] if "UNSET" in url else [])


def test_the_kind_of_a_channel() -> None:
    assert [scheme(url) for url in ("JSON://x", "mailtos://a:b@c", "${ALL}", "nothing")] == [
        "json", "mailtos", "${ALL}", "?",
    ]  # fmt: skip
