# SPDX-License-Identifier: Apache-2.0
"""The event loop stands still: something that blocks was called on it."""

import signal
import socket
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd_daemon.rpc.endpoints import MAX_WAITING_REQUESTS
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.faults.odd_serve import the_call_that_blocks
from tests.helpers.api import health
from tests.helpers.daemon import ROOT, Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import status
from tests.helpers.waiting import eventually


PROGRAM = Path(__file__).with_name("odd_serve.py")
WATCHDOG_SECONDS = 1.5
CONNECTIONS = 3
SURPLUS = 300
"""Requests to a daemon that stands still, above those that it keeps waiting."""

TAKEN = 10
"""So many gRPC may have handed on already: they do not wait."""


@pytest.fixture
def stalling(daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon, not started yet, whose event loop stands still from SIGUSR2 to `go_on`."""
    one = daemon(is_started=False, env={"PYTHONPATH": str(ROOT)})
    one.env["CALLSD_TEST_GO"] = str(one.root / "go-on")
    monkeypatch.setattr(one, "command", lambda *words: [sys.executable, str(PROGRAM), *words])
    return one


@pytest.mark.alone
@pytest.mark.scenario(11, "no sign of life while it stalls; its end names the culprit; jobs go on")
def test_stalled(stalling: Daemon, record_figure: RecordFigure) -> None:
    """The service manager hears nothing any more, and what it does then costs no job anything.

    The test takes the place of systemd: it has the socket, and sends what WatchdogSignal sends.
    """
    one = stalling
    one.env["NOTIFY_SOCKET"] = str(one.root / "notify")
    one.env["WATCHDOG_USEC"] = f"{WATCHDOG_SECONDS * 1e6:.0f}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(one.env["NOTIFY_SOCKET"])
        manager.settimeout(WATCHDOG_SECONDS)
        api = one.start().api()
        job = one.create(api, "until go").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        worker = one.worker(job.name)
        for _ in range(4):
            assert b"=" in manager.recv(1000)
        one.signal(signal.SIGUSR2)
        stalled_at = time.monotonic()
        last = last_sign_of_life(manager, stalled_at)
        one.signal(signal.SIGABRT)
        assert one.wait_dead() == -signal.SIGABRT
    stacks = one.log.partition("Fatal Python error")[2]

    assert the_call_that_blocks.__name__ in stacks
    # Those lines are what was asked for, and no bug.
    one.expects_bugs = True
    del one.env["NOTIFY_SOCKET"]
    api = one.start().api()
    assert one.leaders(job.name) == [worker]
    (one.root / "tmp" / "go").touch()
    ended = one.wait(api, job.name)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert_invariants(one)
    record_figure(f"last sign {last - stalled_at:.2f} s after the stall began")


@pytest.mark.scenario(11, "thousands of requests that come meanwhile are answered afterwards")
def test_requests_that_come_meanwhile(stalling: Daemon) -> None:
    """As many as may wait for a daemon that stands still have an answer; only more are cut off."""
    one = stalling.start()
    request = health_pb2.HealthCheckRequest()
    with ExitStack() as resources:
        channels = [resources.enter_context(one.channel()) for _ in range(CONNECTIONS)]
        asks = [health(channel).Check for channel in channels]
        for ask in asks:
            ask(request, timeout=20)
        one.signal(signal.SIGUSR2)
        requests = [
            asks[number % CONNECTIONS].future(request, timeout=110)
            for number in range(MAX_WAITING_REQUESTS + SURPLUS)
        ]
        # Nothing else is seen from outside of how many have come.
        eventually(
            lambda: sum(asked.done() for asked in requests) >= SURPLUS - TAKEN,
            "the surplus is cut off",
        )
        (one.root / "go-on").touch()
        answers = Counter(status(asked.result) for asked in requests)

    assert set(answers) == {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
    assert answers[grpc.StatusCode.OK] >= MAX_WAITING_REQUESTS
    assert_invariants(one)


def last_sign_of_life(manager: socket.socket, since: float) -> float:
    """When the daemon was last heard of; fails when it goes on to say that it lives."""
    last = since
    while time.monotonic() - since < 3 * WATCHDOG_SECONDS:
        try:
            manager.recv(1000)
        except TimeoutError:
            return last
        last = time.monotonic()
    pytest.fail("a daemon whose event loop stands still says that it lives")
