"""A local single-node Apache Kafka (KRaft) under the home, and where the brokers of a home are.

Here: starting, stopping and finding that broker, and the client configuration every part connects with. Not here: Java
and jars (`orchestration.kafka.jars`), topics and clients (`sinks.kafka.topics`, `pipelines.sources.kafka`).

Everything is in <home>/broker/: broker.json (address, pid, start time), server.properties, broker.log, data/.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from metering.errors import OperationError, UserError
from orchestration.home.settings import Settings
from orchestration.kafka import jars
from sinks.kafka import topics
from sinks.locking import locked

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
HEAP = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC")
LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)


@dataclass(frozen=True, slots=True)
class LocalBroker:
    """A local broker: where it listens, and which process it is (a pid may be used again; pid and start time not)."""

    address: str
    pid: int
    started: float


def start(
    home: Path,
    port: int | None = None,
    extra_properties: Mapping[str, str | int] | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> str:
    """Start the home's broker, unless it runs, and return its address once it answers.

    `port`: None takes the one it had before if that is free, else any free one. `extra_properties` override
    Kafka's server properties. `notify` is told about slow steps.
    Raises UserError without Java 17 or (for the first start) Maven, OperationError when Kafka does not come up.
    """
    folder = home / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        running = status(home)
        if running is not None:
            return running.address
        java = jars.require_java()
        classpath = f"{jars.fetch(notify)}/*"
        notify("Starting Apache Kafka ...")
        port = _port_to_use(folder, port)
        _write_properties(folder, port, extra_properties or {})
        _format(java, classpath, folder)
        broker = _launch(java, classpath, folder, f"127.0.0.1:{port}")
        _write_record(folder, broker)
        try:
            _wait(broker, folder)
        except BaseException:
            _end(broker)
            raise
        return broker.address


def stop(home: Path) -> bool:
    """Stop the home's broker; False when none was running. Its data and address stay for the next start."""
    broker = status(home)
    if broker is None:
        return False
    _end(broker)
    return True


def status(home: Path) -> LocalBroker | None:
    """The home's broker if its process runs, else None."""
    folder = home / "broker"
    record = _read_record(folder)
    return record if record is not None and _is_ours(record, folder) else None


def bootstrap(home: Path, settings: Settings) -> str:
    """Address of the brokers to use: the settings', else the local broker's. Raises UserError when there is none."""
    if settings.bootstrap_servers:
        return settings.bootstrap_servers
    broker = status(home)
    if broker is None:
        raise UserError("no Kafka to talk to: set bootstrap_servers, or run `kilowatch broker start`")
    return broker.address


def client_config(home: Path, settings: Settings) -> dict[str, str]:
    """librdkafka configuration of every client: the settings' [kafka] section and bootstrap.servers."""
    own = {key: _text(value) for key, value in settings.kafka.items()}
    return {**own, "bootstrap.servers": bootstrap(home, settings)}


def answers(home: Path, settings: Settings) -> bool:
    """Whether the brokers to use answer. Raises UserError when there are none."""
    return topics.answers(client_config(home, settings))


def ensure_topics(home: Path, settings: Settings) -> dict[str, str]:
    """Create those topics of the settings that are missing, and return `client_config`."""
    config = client_config(home, settings)
    names = settings.topics
    wanted = {
        names.readings: topics.KEPT,
        names.rejected: topics.REJECTS,
        names.windows: topics.COMPACTED,
        names.violations: topics.COMPACTED,
        names.compliance: topics.COMPACTED,
        names.load_control: topics.COMPACTED,
        names.notices: topics.COMPACTED,
        **dict.fromkeys(names.of_records.values(), topics.COMPACTED),
    }
    topics.ensure_topics(config, wanted, names.partitions, names.replication_factor)
    return config


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_record(folder: Path) -> LocalBroker | None:
    try:
        return LocalBroker(**json.loads((folder / "broker.json").read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_record(folder: Path, broker: LocalBroker) -> None:
    aside = folder / "broker.json.new"
    aside.write_text(json.dumps(asdict(broker)) + "\n", "utf-8")
    aside.replace(folder / "broker.json")


def _is_ours(record: LocalBroker, folder: Path) -> bool:
    """Whether the recorded process still runs and is this folder's broker, not another that took its pid."""
    try:
        process = psutil.Process(record.pid)
        command = process.cmdline()  # empty for the moment that a process is becoming another program
        started_then = abs(process.create_time() - record.started) < 2.0
        return started_then and (not command or str(_properties_path(folder)) in command)
    except psutil.Error:  # a zombie's command line included
        return False


def _properties_path(folder: Path) -> Path:
    return folder.resolve() / "server.properties"


def _port_to_use(folder: Path, wanted: int | None) -> int:
    if wanted is not None:
        try:
            return _free_port(wanted)
        except OSError as error:
            raise UserError(f"port {wanted} is in use: choose another with --port, or none") from error
    record = _read_record(folder)
    if record is not None:
        before = int(record.address.rpartition(":")[2])
        with contextlib.suppress(OSError):
            return _free_port(before)
    return _free_port()


def _free_port(port: int = 0) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def _write_properties(folder: Path, port: int, extra: Mapping[str, str | int]) -> None:
    controller = next(other for other in iter(_free_port, None) if other != port)
    properties = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "log.dirs": folder.resolve() / "data",
        "auto.create.topics.enable": "false",
        "log.retention.ms": -1,  # nothing vanishes from a local log by itself
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "num.io.threads": 4,
        "num.network.threads": 2,
        "log.cleaner.dedupe.buffer.size": 16_777_216,
        **extra,
    }
    text = "".join(f"{key}={_escaped(value)}\n" for key, value in properties.items())
    _properties_path(folder).write_text(text, "utf-8")


def _escaped(value: object) -> str:
    """`value` as Java's properties format reads it back, whatever the folder is called."""
    units = str(value).replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)


def _format(java: Path, classpath: str, folder: Path) -> None:
    """Give a new data folder its cluster id; one that has it already is left alone."""
    if (folder / "data" / "meta.properties").exists():
        return
    cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").replace("-", "A", 1)
    arguments = ["format", "-t", cluster_id, "-c", str(_properties_path(folder))]
    command = [str(java), "-Xmx128m", "-XX:TieredStopAtLevel=1", *LOGGING, "-cp", classpath, "kafka.tools.StorageTool"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = _telling_line(done.stdout + done.stderr)
        raise OperationError(f"Apache Kafka cannot format {folder / 'data'}: {said}")


def _launch(java: Path, classpath: str, folder: Path, address: str) -> LocalBroker:
    log = folder / "broker.log"
    if log.exists():
        log.replace(folder / "broker.log.1")
    command = [*HEAP, *LOGGING, "-cp", classpath, "kafka.Kafka", str(_properties_path(folder))]
    pid = os.posix_spawn(  # not Popen: the broker is meant to outlive this process
        java,
        [str(java), *command],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return LocalBroker(address, pid, psutil.Process(pid).create_time())


def _wait(broker: LocalBroker, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    host, _, port = broker.address.rpartition(":")
    while time.monotonic() < deadline:
        if not _is_ours(broker, folder):
            raise OperationError(f"Apache Kafka did not start: {_last_error(folder)}; see {folder / 'broker.log'}")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            if topics.answers({"bootstrap.servers": broker.address}, timeout_s=2):
                return
        time.sleep(0.05)
    raise OperationError(f"Apache Kafka does not answer after {START_TIMEOUT_S:.0f} s; see {folder / 'broker.log'}")


def _end(broker: LocalBroker) -> None:
    """End the process and wait until it has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(broker.pid)
        process.terminate()
        if not _ended(process):
            process.kill()
            _ended(process)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(broker.pid, os.WNOHANG)


def _ended(process: psutil.Process) -> bool:
    """Whether it ends in time. A zombie has ended, though it stays until whoever started it looks after it."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def _last_error(folder: Path) -> str:
    try:
        return _telling_line((folder / "broker.log").read_text("utf-8", errors="replace"))
    except OSError as error:
        return str(error)


def _telling_line(output: str) -> str:
    """The line that most likely says what went wrong: a root cause, else the first error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    errors = [line for line in lines if "Exception" in line or "ERROR" in line or line.startswith("Error")]
    return (causes[:1] or errors[:1] or lines[-1:] or ["it says nothing"])[0][:300]
