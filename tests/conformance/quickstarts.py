# SPDX-License-Identifier: Apache-2.0
"""The quick starts of Go and Java, as their pages have them; `make test-clients` names this file.

That of TypeScript is run by the client's own tests, those of Python by test_quickstarts.py.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.driver import Kind, kinds
from tests.conftest import StartDaemon
from tests.helpers.daemon import ROOT, SAMPLE_CALL, Daemon
from tests.helpers.waiting import eventually


GO = ROOT / "clients" / "go"
JAVA = ROOT / "clients" / "java"
JAR = JAVA / "target" / "conformance.jar"
PAGE = ROOT / "docs" / "clients.md"
JAVA_EXAMPLE = re.compile(r"^## Java\n\n```java\n(.*?)```", re.MULTILINE | re.DOTALL)
LINES = 30
TIMEOUT_SECONDS = 300

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)

JAVA_PROGRAM = """\
import dev.callsd.client.*;
import dev.callsd.v1.*;
import io.grpc.StatusRuntimeException;
import java.nio.file.Path;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

public class QuickStart {{
  public static void main(String[] arguments) throws Exception {{
{example}
    channel.shutdownNow();
  }}
}}
"""


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real engine."""
    return shared_daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})


def run(*command: str | Path, directory: Path, address: str = "") -> str:
    """Run a program; what it prints."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "CALLSD_ADDRESS": address},
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def test_go(running: Daemon, tmp_path: Path) -> None:
    """A track goes up, its transcript comes down. That its README has it so, Go's tests hold."""
    shutil.copy(SAMPLE_CALL / "maya.ogg", tmp_path)
    run("go", "build", "-o", tmp_path / "quickstart", "./examples/quickstart", directory=GO)
    run(tmp_path / "quickstart", directory=tmp_path, address=running.address)

    assert (tmp_path / "maya.vtt").read_text(encoding="utf-8").startswith("WEBVTT")


def test_java(running: Daemon, tmp_path: Path, build: Callable[[Kind], Kind]) -> None:
    """A track goes up, and a job is made of it that succeeds."""
    build(kinds()["java"])
    (example,) = re.findall(
        r"^## Java\n\n```java\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(example.splitlines()) <= LINES
    for name, value in (
        ("unix:/run/callsd/callsd.sock", running.address),
        ("/run/callsd/owner.token", str(running.token_file)),
    ):
        assert name in example
        example = example.replace(name, value)
    source = tmp_path / "QuickStart.java"
    source.write_text(JAVA_PROGRAM.format(example=example))
    shutil.copy(SAMPLE_CALL / "nina.ogg", tmp_path)
    job = run("java", "-cp", JAR, source, directory=tmp_path).strip()

    api = running.api()
    running.acknowledged.add(job)
    eventually(lambda: running.wait(api, job).transcription_result.word_count, "it has words")
