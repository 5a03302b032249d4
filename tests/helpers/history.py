# SPDX-License-Identifier: Apache-2.0
"""Writing down what a daemon tells and how fast it answers, while something happens to it."""

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1 import health_pb2

from callsd.v1.job_pb2 import JobEvent, JobState, WatchJobsRequest, WatchJobsResponse
from tests.helpers.api import Api, health
from tests.helpers.daemon import Daemon
from tests.helpers.waiting import eventually


if TYPE_CHECKING:
    from grpc import _CallIterator  # there is no such name at run time

REDIAL_SECONDS = 0.1
CATCH_UP_SECONDS = 20.0
PULSE_SECONDS = 0.05
HEALTHY_SECONDS = 0.25


class Recorder:
    """Watches all jobs from now on, in a thread; resumes after each cut where it was."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._token = daemon.token
        self._call: _CallIterator[WatchJobsResponse] | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name="recorder", daemon=True)
        self.first = 0
        """Revision with which the watch began."""
        self.revision = -1
        """Revision up to which everything was told."""
        self.events: list[JobEvent] = []
        self.cuts: list[grpc.StatusCode] = []
        """How the streams ended, of which this history is made."""

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.revision >= 0, "the recorder watches")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        if self._call is not None:
            self._call.cancel()
        self._thread.join()

    def _serve(self) -> None:
        while not self._is_over:
            with self._daemon.channel() as channel:
                try:
                    self._follow(Api(channel, self._token))
                except grpc.RpcError as error:
                    self.cuts.append(error.code())
            time.sleep(REDIAL_SECONDS)

    def _follow(self, api: Api) -> None:
        request = WatchJobsRequest()
        if self.revision >= 0:
            request.resume_revision = self.revision
        call = api.stream(api.jobs.WatchJobs, request, seconds=600)
        self._call = call
        if self._is_over:
            return
        for message in call:
            # What is true already is no change: the first messages of a fresh watch.
            if self.revision < 0:
                if message.initial_state_sent:
                    self.first = self.revision = message.revision
                continue
            self.events += message.events
            self.revision = message.revision

    def catch_up(self, revision: int) -> None:
        """Wait until everything up to a revision was told."""
        eventually(
            lambda: self.revision >= revision,
            f"the recorder has heard of revision {revision}",
            seconds=CATCH_UP_SECONDS,
        )

    def order(self, state: "JobState.ValueType") -> list[str]:
        """Names of the jobs in the order in which they first came into a state."""
        names = [
            event.job_changed.name for event in self.events if event.job_changed.state == state
        ]
        return list(dict.fromkeys(names))

    def states(self, name: str) -> list[str]:
        """The states that a job went through, without repetition."""
        states = [
            JobState.Name(event.job_changed.state).removeprefix("JOB_STATE_")
            for event in self.events
            if event.job_changed.name == name
        ]
        return [now for before, now in zip(["", *states], states, strict=False) if now != before]


class Pulse:
    """Asks again and again whether the daemon is well, on a connection of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="pulse", daemon=True)
        self.seconds: list[float] = []
        """How long each answer took."""
        self.failures: list[grpc.StatusCode] = []

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.seconds, "the daemon answers")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        with self._daemon.channel() as channel:
            while not self._is_over.wait(PULSE_SECONDS):
                began = time.monotonic()
                try:
                    health(channel).Check(health_pb2.HealthCheckRequest(), timeout=5.0)
                except grpc.RpcError as error:
                    self.failures.append(error.code())
                else:
                    self.seconds.append(time.monotonic() - began)

    def assert_regular(self) -> float:
        """I9: every question is answered, 99 of 100 within 250 ms; returns those seconds."""
        assert self.failures == []
        late = sorted(self.seconds)[int(len(self.seconds) * 0.99)]
        assert late < HEALTHY_SECONDS
        return late
