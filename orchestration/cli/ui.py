"""`kilowatch ui`: Dagster's web server and daemon for a home, on loopback, until stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import click

from metering.errors import OperationError
from orchestration.cli import home_option

HOST = "127.0.0.1"
PATIENCE_S = 20


@click.command("ui")
@home_option
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port on loopback.")
def command(home: Path, port: int) -> None:
    """Open the Dagster UI with its daemon, on loopback, until Ctrl-C or SIGTERM.

    The daemon notices new parts in the lake and runs the assets for the days that they are of.
    """
    from orchestration.batch.instance import prepare_instance
    from orchestration.home.settings import load_settings

    load_settings(home)
    _check_free(port)
    prepare_instance(home)
    command_line = [sys.executable, "-m", "dagster", "dev", "-m", "orchestration.definitions", "-h", HOST]
    dagster = subprocess.Popen(
        [*command_line, "-p", str(port), "--log-level", "warning"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    stopping = [signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)]
    click.echo(f"Dagster UI for {home}: http://{HOST}:{port}  (Ctrl-C stops it)")
    try:
        code = dagster.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        _stop(dagster)
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), stopping, strict=True):
            signal.signal(number, handler)
    if code:
        raise OperationError(f"the Dagster UI stopped by itself with exit code {code}; its last lines say why")


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
