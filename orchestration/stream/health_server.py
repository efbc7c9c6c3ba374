"""Metrics and health over HTTP, on loopback and a thread of their own: `/metrics` and `/healthz`.

Not here: what they say (`pipelines.flow.metrics`, `pipelines.flow.health`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pipelines.flow.health import Health

log = structlog.get_logger(__name__)


@contextmanager
def served(port: int, registry: CollectorRegistry, health: Health) -> Iterator[int | None]:
    """Serve on `port` (0: any free one; negative: not at all), and give the port it is.

    When the wanted one is taken, another is used and said so. `/healthz` answers 200 while all is well, else 503.
    """
    if port < 0:
        yield None
        return
    server = _bound(port, _handler(registry, health))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    log.info("metrics", address=f"{address}/metrics", health=f"{address}/healthz")
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that dawdles must not hold up the stream's end


def _bound(port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    try:
        return _Server(("127.0.0.1", port), handler)
    except OSError:
        log.warning("metrics port is taken", wanted=port)
        return _Server(("127.0.0.1", 0), handler)


def _handler(registry: CollectorRegistry, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path == "/healthz":
                report = health.report()
                status = HTTPStatus.OK if report["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, "application/json", json.dumps(report).encode() + b"\n")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged."""

    return Handler
