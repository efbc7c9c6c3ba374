"""`kilowatch ui`: serves on loopback, and leaves nothing running behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.error import URLError

import psutil

CODE = "from orchestration.cli import main; main()"


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int, process: subprocess.Popen[bytes], patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            time.sleep(0.3)
    return False


def _said(log: Path, text: str, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while time.monotonic() < until and text not in log.read_text():
        time.sleep(0.2)
    return text in log.read_text()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_it_serves_until_told_to_stop_and_then_nothing_is_left(tmp_path: Path) -> None:
    port = _free_port()
    command = [sys.executable, "-c", CODE, "ui", "--home", str(tmp_path), "--port", str(port)]
    with (tmp_path / "ui.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            assert _answers(port, process, 120), (tmp_path / "ui.log").read_text()
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
            assert _said(tmp_path / "ui.log", f"http://127.0.0.1:{port}", 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert [child for child in children if _lives(child)] == []
        finally:
            process.kill()
    said = (tmp_path / "ui.log").read_text().splitlines()
    assert f"http://127.0.0.1:{port}" in said[-1], said
    assert "WARNING" not in "".join(said)
    assert (tmp_path / "dagster" / "dagster.yaml").exists()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", CODE, "ui", "--home", str(tmp_path), "--port", port]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == f"kilowatch: port {port} on 127.0.0.1 is in use; give another with --port\n"
