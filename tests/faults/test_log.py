# SPDX-License-Identifier: Apache-2.0
"""What the daemon's own log says when something goes wrong that nobody foresaw."""

import subprocess
import sys

import pytest


PROGRAM = """
import sys
import structlog
from callsd_daemon import logs

def start_worker(token):
    words = "nobody said" + " that"
    raise OSError("no more processes")

logs.configure("info", sys.argv[1])
try:
    start_worker("secret" + "-of-a-worker")
except OSError:
    structlog.get_logger().exception("attempt_failed", job_id="job")
"""


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_values_of_variables(style: str) -> None:
    """A traceback says where and why, and shows neither a token nor a word of a call."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, style],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert "no more processes" in done.stderr
    assert "start_worker" in done.stderr
    assert "secret-of-a-worker" not in done.stderr
    assert "nobody said that" not in done.stderr
