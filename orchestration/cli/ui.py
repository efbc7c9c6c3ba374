"""`kilowatch ui`: Dagster's web server and daemon for a home, on loopback, until stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from urllib.request import Request, urlopen

import click

from metering.errors import OperationError
from orchestration.cli import home_option

HOST = "127.0.0.1"
PATIENCE_S = 20
START_S = 120
WAIT_S = 5
LOOK_S = 30
_RELOAD = "mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"


@click.command("ui")
@home_option
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port on loopback.")
def command(home: Path, port: int) -> None:
    """Open the Dagster UI with its daemon, on loopback, until Ctrl-C or SIGTERM.

    The daemon notices new parts in the lake and runs the assets for the days that they are of.
    """
    from orchestration.batch.instance import WORKSPACE, prepare_instance
    from orchestration.home.settings import load_settings

    load_settings(home)
    _check_free(port)
    folder = prepare_instance(home)
    command_line = [sys.executable, "-m", "dagster", "dev", "-w", str(folder / WORKSPACE), "-h", HOST]
    dagster = subprocess.Popen(
        [*command_line, "-p", str(port), "--log-level", "warning"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        cwd=folder,  # where no other dagster.yaml is warned of
        start_new_session=True,
    )
    stopping = [signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)]
    address = f"http://{HOST}:{port}"
    click.echo(f"Starting the Dagster UI for {home}; its address follows when it answers")
    try:
        if _answers(dagster, address):
            click.echo(f"Dagster UI for {home}: {address}  (Ctrl-C stops it)")
        code = _watch(dagster, home, address)
    except KeyboardInterrupt:
        code = 0
    finally:
        _stop(dagster)
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), stopping, strict=True):
            signal.signal(number, handler)
    if code:
        raise OperationError(f"the Dagster UI stopped by itself with exit code {code}; its last lines say why")


def _answers(dagster: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the web server answers; false if it ends, or takes too long to be waited for."""
    for _ in range(START_S):
        try:
            with urlopen(f"{address}/server_info", timeout=WAIT_S):
                return True
        except OSError:
            try:
                dagster.wait(1)
            except subprocess.TimeoutExpired:
                continue
            return False
    return False


def _watch(dagster: subprocess.Popen[bytes], home: Path, address: str) -> int:
    """Wait for the end of Dagster; have it load the definitions anew when there is data of other days."""
    from assets.catalogue import span_of

    known = span_of(home)
    while True:
        try:
            return dagster.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            found = span_of(home)
            if found != known and _reload(address):
                known = found


def _reload(address: str) -> bool:
    """Whether Dagster could be asked to load the definitions anew."""
    from orchestration.batch.instance import LOCATION

    body = json.dumps({"query": _RELOAD, "variables": {"name": LOCATION}}).encode()
    request = Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=START_S) as answer:
            return "errors" not in json.load(answer)
    except OSError:
        return False


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _check_free(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise OperationError(f"port {port} on {HOST} is in use; give another with --port") from None


def _stop(dagster: subprocess.Popen[bytes]) -> None:
    """Ask Dagster to end its web server, daemon and code servers; then make sure that nothing of it is left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if dagster.poll() is None:
            dagster.send_signal(number)
            try:
                dagster.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
    try:
        os.killpg(dagster.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    dagster.wait()
