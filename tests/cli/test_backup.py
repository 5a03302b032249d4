# SPDX-License-Identifier: Apache-2.0

import subprocess
from pathlib import Path

from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon


def run(daemon: Daemon, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `callsd`, with the daemon's configuration."""
    command = daemon.command(*map(str, arguments), "--config", str(daemon.config_file))
    return subprocess.run(
        command, env=daemon.env, capture_output=True, text=True, timeout=60, check=False
    )


def test_there_and_back(daemon: StartDaemon, tmp_path: Path) -> None:
    """A copy made while the daemon runs is put back once it is stopped, not before."""
    one, copy = daemon(), tmp_path / "copy.db"
    api = one.api()
    kept = one.create(api).job.name
    one.wait(api, kept)
    assert run(one, "backup", copy).returncode == 0
    later = one.create(api).job.name
    one.wait(api, later)
    refused = run(one, "restore", copy)
    assert refused.returncode == 1
    assert "another callsd is running" in refused.stderr
    one.stop()
    done = run(one, "restore", copy)
    assert done.returncode == 0, done.stderr
    assert "the old one is" in done.stdout
    one.acknowledged.discard(later)
    one.start()
    assert [job.name for job in one.client().list_jobs()] == [kept]
