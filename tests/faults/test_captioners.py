# SPDX-License-Identifier: Apache-2.0
"""Captioners: how many there are, how long, and what becomes of calls that have none."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from callsd import FINAL_STATES
from callsd.v1.job_pb2 import JOB_STATE_STARTING, JOB_STATE_SUCCEEDED, StopJobRequest
from tests.conftest import StartDaemon
from tests.helpers.captions import (
    CAPTIONER,
    MODEL,
    WORK_SECONDS,
    Sender,
    Viewer,
    artifact,
    ask_for_call,
    begin_call,
    end_call,
)
from tests.helpers.daemon import CALM, GIB, Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.speech import (
    chunks,
    errors,
    speech,
)
from tests.helpers.waiting import eventually


DEATHS = 5
TEXT = "Two numbers. The age of the oldest job in the queue"


@pytest.fixture(scope="module")
def real(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real captioner."""
    return shared_daemon(
        is_real=True,
        machine=replace(CALM, cores_total=16.0, memory_total_bytes=64 * GIB),
        config={"captions": {"model": MODEL, "workers": 1}},
    )


@pytest.fixture
def one(real: Daemon) -> Iterator[Daemon]:
    """The daemon; whatever becomes of a test, it leaves no call and no captioner to the next."""
    yield real
    api = real.api()
    for job in all_jobs(api):
        if job.state not in FINAL_STATES:
            end_call(real, api, job.name)
    no_captioner(real)


def kill_captioner(one: Daemon) -> None:
    """Kill -9, and see it dead."""
    pid = one.worker(CAPTIONER)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in one.leaders(CAPTIONER), "the captioner is dead")


def no_captioner(one: Daemon) -> None:
    """Wait until there is none."""
    eventually(lambda: not one.worker_pids("captioner."), "no captioner is left")


class TestSharing:
    """One process for each model."""

    def test_one_for_each_model(self, one: Daemon) -> None:
        """Calls with one model share a captioner, another model has its own; each ends unneeded."""
        api = one.api()
        first, second = begin_call(one, api), begin_call(one, api)
        tiny = one.leaders("captioner.")
        third = begin_call(one, api, model="base")
        both = one.leaders("captioner.")
        end_call(one, api, first)
        assert one.leaders(CAPTIONER) == tiny
        end_call(one, api, second)
        eventually(lambda: not one.worker_pids(CAPTIONER), "the captioner has ended")
        base = one.leaders("captioner.base")
        end_call(one, api, third)
        no_captioner(one)

        assert len(tiny) == 1
        assert len(both) == 2
        assert set(both) == {*tiny, *base}
        assert_invariants(one)

    def test_one_call_after_the_other(self, one: Daemon) -> None:
        """A call that begins while the last one's captioner is ending has one that stays."""
        api, lost = one.api(), len(one.events("captioner_lost"))
        for _ in range(4):
            name = begin_call(one, api)
            with Sender(api, name) as sender:
                pieces = chunks("kenji", speech("kenji", 42.5, 46.0))
                sender.push(pieces)
                sender.wait_received("kenji", len(pieces))
                result = end_call(one, api, name).captions_result
            assert result.caption_count >= 1
            assert result.restart_count == 0
        no_captioner(one)
        assert len(one.events("captioner_lost")) == lost
        assert_invariants(one)


class TestStop:
    """StopJob, at the worst of times."""

    def test_while_starting(self, one: Daemon) -> None:
        """A call that is stopped before it has begun has empty files."""
        api = one.api()
        name = ask_for_call(one, api)
        assert one.job(api, name).state == JOB_STATE_STARTING
        job = end_call(one, api, name)

        assert job.state == JOB_STATE_SUCCEEDED
        assert job.captions_result.caption_count == 0
        assert artifact(one, name, "captions.vtt").read_text().startswith("WEBVTT")
        assert_invariants(one)

    def test_while_the_captioner_is_down(self, one: Daemon) -> None:
        """What has been said is captioned by the next one, and the files are written."""
        api = one.api()
        name = begin_call(one, api)
        with Viewer(api, name) as viewer, Sender(api, name) as sender:
            pieces = chunks("kenji", speech("kenji", 42.5, 46.0))
            sender.push(pieces)
            sender.wait_received("kenji", len(pieces))
            kill_captioner(one)
            job = end_call(one, api, name)
            viewer.join()

        assert job.state == JOB_STATE_SUCCEEDED
        assert job.captions_result.restart_count == 1
        assert "RECOVERED" in viewer.event_types()
        assert errors(TEXT, viewer.text("kenji")) <= 2
        assert_invariants(one)

    def test_while_the_daemon_is_down(self, one: Daemon) -> None:
        """A stop that was asked for before the daemon was killed is carried out by the next one."""
        api = one.api()
        name = begin_call(one, api)
        with Viewer(api, name) as viewer, Sender(api, name) as sender:
            sender.push(chunks("kenji", speech("kenji", 42.5, 48.0)))
            viewer.wait_final()
        api(api.jobs.StopJob, StopJobRequest(name=name))
        one.kill()
        api = one.start().api()
        job = one.wait(api, name, seconds=WORK_SECONDS)

        assert job.state == JOB_STATE_SUCCEEDED
        assert job.captions_result.caption_count >= len(viewer.finals)
        assert_invariants(one)


@pytest.mark.scenario(6, "a captioner that dies five times: the call fails, its captions stay")
@pytest.mark.reason("CRASH_LOOP")
def test_dies_again_and_again(one: Daemon) -> None:
    """After five deaths in a row the call fails and says why; its captions can still be read."""
    api = one.api()
    name = begin_call(one, api)
    with Viewer(api, name) as viewer, Sender(api, name) as sender:
        pieces = chunks("nina", speech("nina", 0.7, 7.5))
        sender.push(pieces)
        viewer.wait_event("SPEECH_END")
        viewer.wait_final()
        for _ in range(DEATHS):
            kill_captioner(one)
        job = one.wait(api, name, seconds=WORK_SECONDS)
        viewer.join()

    assert failure(job) == "CRASH_LOOP"
    assert "log.txt" in job.failure.message
    late = Viewer(api, name, resume_sequence=0)
    late.join()
    assert late.finals == viewer.finals
    assert late.finals
    no_captioner(one)
    # Another call gets another try.
    end_call(one, api, begin_call(one, api))
    assert_invariants(one)
