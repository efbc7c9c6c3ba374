"""Metrics and health over HTTP, on loopback and a thread of their own: `/metrics` and `/healthz`.

Not here: what they say (`pipelines.flow.metrics`, `pipelines.flow.health`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from pipelines.flow.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)


@contextmanager
def served(port: int, registry: CollectorRegistry, health: Health) -> Iterator[int | None]:
    """Serve on `port` (0: any free one; negative: not at all), and give the port it is.

    When the wanted one is taken, another is used and said so. `/healthz` answers 200 while all is well, else 503.
    """
    if port < 0:
        yield None
        return
    server = _bound(port, _application(registry, health))
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


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False  # a client that dawdles must not hold up the stream's end


class _Handler(WSGIRequestHandler):
    timeout = 10.0

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


def _bound(port: int, application: WSGIApplication) -> WSGIServer:
    try:
        return make_server("127.0.0.1", port, application, _Server, _Handler)
    except OSError:
        log.warning("metrics port is taken", wanted=port)
        return make_server("127.0.0.1", 0, application, _Server, _Handler)


def _application(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    """`/metrics` is Prometheus's own application."""
    metrics = make_wsgi_app(registry)

    def healthz(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        report = health.report()
        ok = report["status"] == "ok"
        return _answer(start_response, HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, report)

    routes: dict[str, WSGIApplication] = {"/metrics": metrics, "/healthz": healthz}

    def route(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application = routes.get(environ.get("PATH_INFO", ""))
        if application is None:
            return _answer(start_response, HTTPStatus.NOT_FOUND, {"paths": [*routes]})
        if environ["REQUEST_METHOD"] != "GET":
            return _answer(start_response, HTTPStatus.METHOD_NOT_ALLOWED, {"methods": ["GET"]})
        return application(environ, start_response)

    return route


def _answer(start_response: StartResponse, status: HTTPStatus, content: dict[str, Any]) -> list[bytes]:
    body = json.dumps(content).encode() + b"\n"
    heads = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", heads)
    return [body]
