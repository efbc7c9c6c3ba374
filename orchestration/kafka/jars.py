"""Java, Maven, and the jars of Apache Kafka, fetched once for each user.

Here: what must be on the machine before a local broker can run. Not here: running it (`orchestration.kafka.broker`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from metering.errors import OperationError, UserError
from sinks.locking import locked

POM = Path(__file__).with_name("pom.xml")
JAVA_AT_LEAST = 17
JAVA_HINT = "install Java 17 or later (Debian: apt install openjdk-17-jre-headless), or set bootstrap_servers"
MAVEN_HINT = "install Maven (Debian: apt install maven), or set bootstrap_servers"
FETCH_TIMEOUT_S = 1200


def kafka_version() -> str:
    """Version of Apache Kafka that the POM names."""
    version = ElementTree.parse(POM).getroot().findtext(".//{*}properties/{*}kafka.version")
    if not version:
        raise OperationError(f"{POM} names no kafka.version: reinstall Kilowatch")
    return version


def jars_folder() -> Path:
    """Where this POM's jars are kept: below XDG_CACHE_HOME, else ~/.cache. Need not exist yet."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]  # another POM, another folder
    return root / "kilowatch" / f"kafka-{kafka_version()}-{digest}"


def java() -> Path | None:
    """The `java` to use: JAVA_HOME's, else the one on the PATH."""
    home = os.environ.get("JAVA_HOME")
    own = Path(home) / "bin" / "java" if home else None
    if own is not None and own.is_file():
        return own
    found = shutil.which("java")
    return Path(found) if found else None


def java_version(executable: Path) -> int | None:
    """Major version of a `java`; None when it does not say."""
    try:
        said = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(\d+)(?:\.(\d+))?', said.stderr + said.stdout)
    if match is None:
        return None
    major = int(match[1])
    return int(match[2]) if major == 1 and match[2] else major  # 1.8 is Java 8


def maven() -> Path | None:
    """The `mvn` on the PATH."""
    found = shutil.which("mvn")
    return Path(found) if found else None


def require_java() -> Path:
    """A Java that can run the broker. Raises UserError saying how to get one."""
    executable = java()
    if executable is None:
        raise UserError(f"a local Apache Kafka needs Java, and there is none: {JAVA_HINT}")
    version = java_version(executable)
    if version is None or version < JAVA_AT_LEAST:
        raise UserError(f"{executable} is Java {version or 'of an unknown version'}, too old: {JAVA_HINT}")
    return executable


def fetch(notify: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with all jars, fetched through Maven when it is not there yet.

    The folder appears whole or not at all, and of two that fetch at once the second waits for the first.
    `notify` is told before a download. Raises UserError without Maven, OperationError when Maven fails.
    """
    folder = jars_folder()
    if folder.is_dir():
        return folder
    executable = maven()
    if executable is None:
        raise UserError(f"the jars of Apache Kafka are fetched through Maven, and there is none: {MAVEN_HINT}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f"{folder.name}.lock"):
        if not folder.is_dir():
            notify(f"Fetching Apache Kafka {kafka_version()} through Maven, once (about 45 MB) ...")
            _fetch_into(executable, folder)
    return folder


def _fetch_into(maven_executable: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as aside:
        jars = Path(aside) / "jars"
        goal = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
        command = [str(maven_executable), "-q", "-B", "-C", "-f", str(POM), goal]
        try:
            done = subprocess.run(
                [*command, f"-DoutputDirectory={jars}"],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=FETCH_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OperationError(f"Maven took over {FETCH_TIMEOUT_S} s to fetch Apache Kafka: try again") from error
        if done.returncode != 0 or not any(jars.glob("kafka_*.jar")):
            raise OperationError(f"Maven could not fetch Apache Kafka: {_reason(done.stdout + done.stderr)}")
        jars.rename(folder)


def _reason(output: str) -> str:
    errors = [line for line in output.splitlines() if "ERROR" in line]
    first = re.sub(r"\x1b\[[0-9;]*m", "", errors[0]) if errors else "it says nothing"
    return first.replace("[ERROR]", "").strip()[:500]
