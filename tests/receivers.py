"""Those who get messages: a web hook and a mail server on loopback, which count what comes and may misbehave."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Post:
    """One request to a web hook."""

    path: str
    headers: dict[str, str]
    value: dict[str, Any]

    @property
    def notice_id(self) -> str:
        return self.headers["Idempotency-Key"]

    @property
    def attempt(self) -> int:
        return int(self.headers["Kilowatch-Attempt"])


@dataclass
class Webhook:
    """What a web hook got. `answer` gives the HTTP status to answer a post with; it may do what it likes before."""

    address: str = ""
    posts: list[Post] = field(default_factory=list)
    answer: Callable[[Post], int] = lambda _: 200

    @property
    def taken(self) -> Counter[str]:
        """How often each message came."""
        return Counter(post.notice_id for post in list(self.posts))


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A web hook on loopback; a post counts before it is answered."""
    got = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            post = Post(self.path, dict(self.headers), value)
            got.posts.append(post)
            status = got.answer(post)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is logged."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that is killed hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        got.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield got
        finally:
            server.shutdown()
            thread.join()


@dataclass
class MailServer:
    """What a mail server got. `refusing`: it says that it cannot take mails now."""

    address: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    refusing: bool = False


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """As much of SMTP (RFC 5321) as a client needs that has no secrets."""
    got = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say(220, "loopback")
            while line := self.rfile.readline():
                verb = line.split()[0].upper() if line.split() else b""
                if verb == b"DATA":
                    self._say(354, "go on")
                    self._take()
                elif verb == b"RCPT" and got.refusing:
                    self._say(451, "try again later")
                elif verb == b"QUIT":
                    return self._say(221, "bye")
                else:
                    self._say(250, "ok")
            return None

        def _take(self) -> None:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
            message = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            got.mails.append(message)
            self._say(250, "taken")

        def _say(self, code: int, text: str) -> None:
            self.wfile.write(f"{code} {text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        got.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield got
        finally:
            server.shutdown()
            thread.join()
