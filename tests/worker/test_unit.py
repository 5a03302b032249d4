# SPDX-License-Identifier: Apache-2.0
"""How a worker begins as a unit; tests/boot has systemd start real ones."""

import stat
import subprocess
import sys
from pathlib import Path


BEGIN = """
import os, sys
from pathlib import Path
from callsd_worker import unit
unit.BOOTSTRAPS = Path(sys.argv.pop(1))
os.umask(0o007)
sys.exit(unit.main())
"""


def begin(told: bytes, tmp_path: Path) -> "subprocess.CompletedProcess[bytes]":
    """Have a worker begin in `tmp_path`/worker."""
    bootstrap = tmp_path / "bootstrap" / "name"
    bootstrap.mkdir(parents=True, exist_ok=True)
    (bootstrap / "bootstrap").write_bytes(told)
    (tmp_path / "worker").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", BEGIN, str(tmp_path / "bootstrap"), "name"],
        cwd=tmp_path / "worker",
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_it_becomes_the_worker(tmp_path: Path) -> None:
    """The bootstrap is read and gone, what the worker says is in its log, which its group reads."""
    done = begin(b"", tmp_path)
    log = tmp_path / "worker" / "log.txt"
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")
    assert "started without a bootstrap" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o660
    assert list((tmp_path / "bootstrap" / "name").iterdir()) == []


def test_the_log_goes_on(tmp_path: Path) -> None:
    """A second attempt adds to the log of the first."""
    begin(b"", tmp_path)
    begin(b"", tmp_path)
    assert (tmp_path / "worker" / "log.txt").read_text().count("started without a bootstrap") == 2
