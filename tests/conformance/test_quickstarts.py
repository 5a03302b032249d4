# SPDX-License-Identifier: Apache-2.0
"""The quick starts of docs/clients.md, as they stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.helpers.daemon import ROOT, SAMPLE_CALL, Daemon
from tests.helpers.speech import speech


PAGE = ROOT / "docs" / "clients.md"
SECTION = re.compile(r"^## (Python[^\n]*)\n\n```python\n(.*?)```", re.MULTILINE | re.DOTALL)
LINES = 30
TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real engine."""
    return shared_daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})


def run(daemon: Daemon, title: str, directory: Path) -> str:
    """What a quick start prints, run in a directory."""
    example = dict(SECTION.findall(PAGE.read_text(encoding="utf-8")))[title]
    assert len(example.splitlines()) <= LINES
    done = subprocess.run(
        [sys.executable, "-c", example],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        env={"CALLSD_ADDRESS": daemon.address},
        timeout=TIMEOUT_SECONDS,
    )
    assert done.stderr == ""
    return done.stdout


def test_python(running: Daemon, tmp_path: Path) -> None:
    """A track goes up, its transcript comes down."""
    shutil.copy(SAMPLE_CALL / "nina.ogg", tmp_path)
    run(running, "Python", tmp_path)

    assert "One question for the notes" in (tmp_path / "nina.txt").read_text(encoding="utf-8")


def test_python_asyncio(running: Daemon, tmp_path: Path) -> None:
    """A call's sound goes in, its captions come out, and the program ends with the call."""
    (tmp_path / "call.pcm").write_bytes(speech("kenji", 26.0, 37.5).tobytes())
    said = run(running, "Python, asyncio", tmp_path)

    assert re.search("^u1 .*one more thing that worries me", said, re.MULTILINE)
