# SPDX-License-Identifier: Apache-2.0
"""The files of a call: who dies at its very end costs nothing of them."""

import json
import os
import signal
from pathlib import Path

import pytest

from callsd.v1.caption_pb2 import Caption
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job, StopJobRequest
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.captions import (
    CAPTIONER,
    MODEL,
    WORK_SECONDS,
    Sender,
    Viewer,
    artifact,
    begin_call,
    end_call,
)
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.speech import chunks, speech


FILES = ("captions.vtt", "captions.txt", "captions.json")
KENJI = "kenji"


@pytest.fixture(scope="module")
def one(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real captioner."""
    return shared_daemon(is_real=True, config={"captions": {"model": MODEL, "workers": 1}})


def spoken_call(one: Daemon, api: Api) -> str:
    """A call of which all that was said is final."""
    name = begin_call(one, api)
    with Viewer(api, name) as viewer, Sender(api, name) as sender:
        sender.push(chunks(KENJI, speech(KENJI, 42.5, 48.0)))
        viewer.wait_event("SPEECH_END")
        viewer.wait_final()
        sender.wait_worked_off()
    return name


def assert_whole(one: Daemon, job: Job, finals: list[Caption]) -> None:
    """The job is done, and its files and its result have all that viewers saw."""
    written = " ".join(artifact(one, job.name, "captions.txt").read_text().split())
    document = json.loads(artifact(one, job.name, "captions.json").read_text())

    assert job.state == JOB_STATE_SUCCEEDED
    assert tuple(made.name.rsplit("/", 1)[1] for made in job.artifacts) == FILES
    assert finals
    assert all(final.text in written for final in finals)
    assert [segment["text"] for segment in document["segments"]] == [f.text for f in finals]
    assert document["engine"] == "ctranslate2"
    assert job.captions_result.caption_count == len(finals)
    assert job.captions_result.word_count == sum(len(final.text.split()) for final in finals)
    assert_invariants(one)


def watched(api: Api, name: str) -> list[Caption]:
    """All final captions of a call that is over."""
    viewer = Viewer(api, name, resume_sequence=0)
    viewer.join()
    return viewer.finals


@pytest.mark.scenario(3, "captioner killed or stopped at a call's very end: the files are whole")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_captioner_at_the_end(one: Daemon, number: signal.Signals) -> None:
    """The end of a call wants nothing of its captioner: not its life, nor what it may see."""
    api = one.api()
    name = spoken_call(one, api)
    os.kill(one.worker(CAPTIONER), number)
    job = end_call(one, api, name)

    assert job.usage.peak_memory_bytes > 0
    assert_whole(one, job, watched(api, name))


@pytest.mark.scenario(38, "daemon killed before or after a call's files: the next writes the same")
@pytest.mark.parametrize("step", ["before", "after"])
def test_daemon_killed_at_the_end(daemon: StartDaemon, models_directory: Path, step: str) -> None:
    """Between the last caption and the job's end nothing is lost, and each byte stays the same."""
    one = daemon(
        is_real=True,
        env={"CALLSD_FAILPOINTS": f"captions.{step}_files"},
        config={"captions": {"model": MODEL, "workers": 1}},
    )
    api = one.api()
    name = spoken_call(one, api)
    api(api.jobs.StopJob, StopJobRequest(name=name))
    assert one.wait_dead(seconds=WORK_SECONDS) == -signal.SIGKILL
    before = {file: _content(one, name, file) for file in FILES}
    one.env.pop("CALLSD_FAILPOINTS")
    api = one.start().api()
    job = one.wait(api, name, seconds=WORK_SECONDS)
    after = {file: _content(one, name, file) for file in FILES}

    assert before == (after if step == "after" else dict.fromkeys(FILES))
    assert_whole(one, job, watched(api, name))


def _content(one: Daemon, name: str, file_name: str) -> bytes | None:
    path = artifact(one, name, file_name)
    return path.read_bytes() if path.exists() else None
