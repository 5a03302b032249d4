# SPDX-License-Identifier: Apache-2.0
"""Two gateways behind nginx, as docs/mattermost.md configures it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.helpers.daemon import ROOT, Daemon
from tests.helpers.job_service import Http, identifier, recording, transcribing
from tests.helpers.ports import free_port
from tests.proxy.nginx import Nginx


PAGE = ROOT / "docs" / "mattermost.md"
JOBS = 3
"""Of one call: recording, capture, transcription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    """Two daemons, each with room for one recording, and the plugin's way to them."""

    daemons: tuple[Daemon, Daemon]
    http: Http

    def record(self, letter: str) -> list[tuple[int, str]]:
        """Ask for a recording and its transcription, as the plugin does; statuses and texts."""
        call = {"call_id": identifier(letter), "post_id": identifier(letter)}
        answers = [
            self.http("POST", "/jobs", recording(recording_id=identifier(letter), **call)),
            self.http("POST", "/jobs", transcribing(transcription_id=identifier(letter), **call)),
        ]
        return [(one.status, one.json.get("error", "")) for one in answers]

    def jobs(self) -> list[list[str]]:
        """Of each daemon: the calls of its jobs."""
        found = []
        for daemon in self.daemons:
            with daemon.client() as client:
                jobs = list(client.list_jobs())
            found.append(sorted(job.labels["mattermost.call"][0] for job in jobs))
        return found


@pytest.fixture
def gateways(daemon: StartDaemon, tmp_path: Path) -> Iterator[Gateways]:
    """The plugin's address of both is that of nginx."""
    ports = [free_port(), free_port()]
    started: list[Daemon] = []
    for port in ports:
        one = daemon(
            is_started=False,
            config={
                "gateway": {"listen": f"127.0.0.1:{port}", "self_registration": True},
                "jobs": {"max_recording_jobs": 1},
            },
        )
        (one.root / "tmp" / "recorder").write_text("film 0.1")
        started.append(one.start())
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    config = found[1].replace("listen 4545 ssl", "listen 443")
    for number, port in enumerate(ports, 1):
        config = config.replace(f"192.0.2.{number}:4545", f"127.0.0.1:{port}")
    with Nginx(tmp_path, config, started[0]) as nginx:
        http = Http(port=int(nginx.address("localhost").rpartition(":")[2]))
        yield Gateways(daemons=(started[0], started[1]), http=http)


def test_pairs_stay_together(gateways: Gateways) -> None:
    """What one machine has no room for goes to the other, all jobs of a call to the same one.

    When neither has room, the host is told so, in the words of the daemon.
    """
    assert [status for status, _ in gateways.record("a")] == [200, 200]
    assert [status for status, _ in gateways.record("b")] == [200, 200]
    assert sorted(gateways.jobs()) == [["a"] * JOBS, ["b"] * JOBS]

    for letter in "cd":
        status, text = gateways.record(letter)[0]
        assert status == 503
        assert "jobs.max_recording_jobs allows 1" in text


def test_one_is_down(gateways: Gateways) -> None:
    """A call is recorded whichever of the two is down."""
    down, up = gateways.daemons
    down.kill()
    assert [status for status, _ in gateways.record("a")] == [200, 200]
    down.start()
    up.kill()
    assert [status for status, _ in gateways.record("b")] == [200, 200]
    up.start()
    assert gateways.jobs() == [["b"] * JOBS, ["a"] * JOBS]
