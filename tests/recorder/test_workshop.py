# SPDX-License-Identifier: Apache-2.0
"""Where the programs of a recording run, and the pipe by which one of them is told what to do."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callsd_worker.recorder.cdp import Cdp, CdpError
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.workshop import Workshop, program, remove_leftovers
from tests.helpers.waiting import eventually


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


class TestWorkshop:
    """A directory and its programs."""

    def test_names_the_package(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A program that is missing is named with the package that brings it."""
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RecordingError) as caught:
            program("Xvfb")

        assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
        assert "apt install xvfb" in caught.value.message

    def test_nothing_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At the end the programs are gone, even one that will not, and so is the directory."""
        monkeypatch.setattr("callsd_worker.recorder.workshop.STOP_SECONDS", 0.2)
        workshop = Workshop("test")
        script = workshop.directory / "stubborn.py"
        script.write_text(STUBBORN)
        with (workshop.directory / "log").open("wb") as output:
            stubborn = workshop.start([sys.executable, str(script)], log=output)
        log = workshop.directory / "log"
        eventually(lambda: log.read_text() == "ready\n", "it has begun")
        workshop.close()

        assert stubborn.returncode == -signal.SIGKILL
        assert not workshop.directory.exists()

    def test_leftovers(self) -> None:
        """What a killed worker left goes; what belongs to others stays."""
        mine, other = Workshop("one"), Workshop("two")
        remove_leftovers("one")
        try:
            assert not mine.directory.exists()
            assert other.directory.exists()
        finally:
            other.close()

    def test_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Programs get what they need of the environment, and nothing else."""
        monkeypatch.setenv("CALLSD_SECRET", "x")
        monkeypatch.setenv("CALLSD_JOB", "mark")
        workshop = Workshop("test")
        log = workshop.directory / "log"
        with log.open("wb") as output:
            workshop.start([program("env")], environment={"A": "b"}, log=output).wait(10)
        found = dict(line.split("=", 1) for line in log.read_text().splitlines())
        workshop.close()

        assert found["A"] == "b"
        assert found["CALLSD_JOB"] == "mark"
        assert "CALLSD_SECRET" not in found

    def test_browser_is_no_root(self) -> None:
        """Whoever the worker is, the browser is an ordinary user."""
        workshop = Workshop("test")
        log = workshop.directory / "log"
        with log.open("wb") as output:
            workshop.start([program("id"), "-u"], is_browser=True, log=output).wait(10)
        found = log.read_text().strip()
        workshop.close()

        assert found != "0"


class Peer:
    """The browser's end of a connection."""

    def __init__(self) -> None:
        to_us, from_us = os.pipe(), os.pipe()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._reading = os.fdopen(from_us[0], "rb", buffering=0)
        self._writing = to_us[1]
        self.cdp = Cdp(
            reading=to_us[0], writing=from_us[1], on_event=lambda *event: self.events.append(event)
        )

    def hear(self) -> dict[str, Any]:
        """The next message."""
        said = b""
        while not said.endswith(b"\0"):
            said += self._reading.read(1) or b""
        message: dict[str, Any] = json.loads(said[:-1])
        return message

    def say(self, **message: Any) -> None:
        """Send a message."""
        os.write(self._writing, json.dumps(message).encode() + b"\0")

    def hang_up(self) -> None:
        """Go away."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """End both ends."""
        self.hang_up()
        self.cdp.close()
        self._reading.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A browser that says what the test wants."""
    peer = Peer()
    yield peer
    peer.close()


class TestCdp:
    """The DevTools protocol over pipes."""

    def test_answers_find_their_calls(self, peer: Peer) -> None:
        """Answers that come in another order reach those that asked."""
        found: dict[str, Any] = {}

        def ask(method: str) -> None:
            found[method] = peer.cdp.call(method)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("A.a", "B.b")]
        for thread in threads:
            thread.start()
        asked = [peer.hear(), peer.hear()]
        for message in reversed(asked):
            peer.say(id=message["id"], result={"method": message["method"]})
        for thread in threads:
            thread.join(10)

        assert found == {"A.a": {"method": "A.a"}, "B.b": {"method": "B.b"}}

    def test_events(self, peer: Peer) -> None:
        """What the browser says by itself is handed on."""
        peer.say(method="Page.loadEventFired", params={"a": 1})

        eventually(lambda: peer.events, "the event arrives")
        assert peer.events == [("Page.loadEventFired", {"a": 1})]

    def test_errors(self, peer: Peer) -> None:
        """A refusal, no answer, and a browser that is gone are told apart."""
        thread = threading.Thread(
            target=lambda: peer.say(id=peer.hear()["id"], error={"message": "no such page"})
        )
        thread.start()
        with pytest.raises(CdpError, match="no such page"):
            peer.cdp.call("A.a")
        thread.join(10)
        with pytest.raises(CdpError, match="no answer in"):
            peer.cdp.call("A.a", timeout_seconds=0.05)
        peer.hang_up()
        with pytest.raises(CdpError, match="the browser is gone"):
            peer.cdp.call("A.a")
