# SPDX-License-Identifier: Apache-2.0
"""From the last release to this one, with work going on. On a machine of its own."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from callsd import CaptionSender
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd_bench.recording.measure import measure
from tests.boot.conftest import REPOSITORY, build
from tests.boot.machine import Machine
from tests.boot.service import CAPTIONER, PROGRAMS, Service, recorder, transcriber
from tests.helpers.speech import speech
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(400)

LAST_RELEASE = "e4f17e4"
"""The commit of the last release. With each release this moves on to it."""

OLD_UNIT = "callsd-worker@jobs-{}.service"
"""How the last release named the unit of a job."""

ROUNDS = 6
"""So often each speaker's sound is transcribed: it takes longer than the upgrade."""

SPEAKER = "maya"
BEFORE, AFTER = (15.0, 40.0), (40.0, 72.0)
"""Stretches of the sample call, in seconds, that are said before and after the upgrade."""

SAID = ("action", "measure", "Thursday")
STEP_SECONDS = 0.5
CAPTIONS_SECONDS = 90.0

RECORDED_SECONDS = 5
"""So much is recorded before the upgrade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """What ran when the upgrade was made, and goes on."""

    service: Service
    transcription: str
    recording: str
    other_recording: str
    call: str
    sender: CaptionSender
    workers: dict[str, int]
    """The processes of the old workers, by job."""


@pytest.fixture(scope="module")
def old_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution of the last release."""
    directory = tmp_path_factory.mktemp("old")
    (directory / "source").mkdir()
    archive = subprocess.run(
        ["/usr/bin/git", "-C", str(REPOSITORY), "archive", LAST_RELEASE],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if archive.returncode:
        pytest.skip(f"the history of this tree does not reach back to {LAST_RELEASE}")
    subprocess.run(
        ["/usr/bin/tar", "-x", "-C", str(directory / "source")],
        input=archive.stdout,
        timeout=60,
        check=True,
    )
    return build(directory / "source", directory)


@pytest.fixture(scope="module")
def upgraded(old_wheel: Path, wheel: Path, installed: Path) -> Iterator[Upgraded]:
    """The last release was installed and at work; then this one was installed over it."""
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(Machine(installed))
        # What both depend on is there.
        _pip(machine, old_wheel)
        machine.chroot(
            f"{PROGRAMS}/pip", "install", "--quiet", f"/opt/other/{old_wheel.name}[daemon]"
        )
        machine.boot()
        machine.run(f"{PROGRAMS}/callsd", "install", "--no-start")
        service = Service(machine)
        service.begin()
        page = stack.enter_context(service.page())
        client = stack.enter_context(service.client())
        recordings = [service.record(page, "--profile=low") for _ in range(2)]
        call = service.caption()
        sender = stack.enter_context(client.stream_captions(call))
        _say(sender, BEFORE)
        transcription = service.transcribe(rounds=ROUNDS)
        for job in recordings:
            _wait_for_length(service, job, RECORDED_SECONDS)
        jobs = (transcription, *recordings)
        workers = {job: service.process(OLD_UNIT.format(job)) for job in jobs}
        assert all(workers.values())
        _upgrade(machine, wheel)
        yield Upgraded(
            service=service,
            transcription=transcription,
            recording=recordings[0],
            other_recording=recordings[1],
            call=call,
            sender=sender,
            workers=workers,
        )


def _upgrade(machine: Machine, wheel: Path) -> None:
    """What docs/install.md has an administrator do."""
    _pip(machine, wheel)
    machine.run(f"{PROGRAMS}/callsd", "install")


def _pip(machine: Machine, wheel: Path) -> None:
    """Put a distribution in another's place."""
    folder = machine.root / "opt/other"
    folder.mkdir(exist_ok=True)
    shutil.copy(wheel, folder)
    # Both are of one version as long as this one is not released.
    pip = (f"{PROGRAMS}/pip", "install", "--quiet", "--no-deps", "--force-reinstall")
    machine.chroot(*pip, f"/opt/other/{wheel.name}")


def _say(sender: CaptionSender, turn: tuple[float, float]) -> None:
    """Send a stretch of the sample call as fast as it is taken."""
    begin, end = turn
    at = begin
    while at < end:
        sender.send(SPEAKER, speech(SPEAKER, at, at + STEP_SECONDS).tobytes(), at - BEFORE[0])
        at += STEP_SECONDS


def _wait_for_length(service: Service, job: str, seconds: float) -> None:
    least = timedelta(seconds=seconds)
    eventually(
        lambda: service.job(job).progress.processed.ToTimedelta() > least,
        f"{seconds} s are recorded",
        seconds=60,
    )


class TestUpgrade:
    """The tests follow each other: what is quickest to end comes first."""

    def test_all_workers_go_on(self, upgraded: Upgraded) -> None:
        """The service is up, with units of this release; each worker is the one that it was."""
        service = upgraded.service
        for job, worker in upgraded.workers.items():
            assert service.process(OLD_UNIT.format(job)) == worker
            assert service.job(job).state == JOB_STATE_RUNNING
        eventually(lambda: service.process(CAPTIONER), "there is another captioner", seconds=30)
        service.machine.run("test", "-e", "/etc/systemd/system/callsd-transcriber@.service")
        service.machine.run("test", "!", "-e", "/etc/systemd/system/callsd-worker@.service")
        assert "✗" not in service.callsd("doctor")

    def test_a_recording_goes_on(self, upgraded: Upgraded) -> None:
        """A recording that is stopped after the upgrade has no gap, and one worker has made it."""
        service, job = upgraded.service, upgraded.recording
        found = service.stop(job)
        assert found.state == JOB_STATE_SUCCEEDED, found
        assert found.attempt == 1
        assert [notice.code for notice in found.notices] == []
        assert found.recording_result.segment_count == 1
        assert found.recording_result.gap_duration.ToTimedelta() == timedelta()
        measured = measure(
            service.artifact(job, "recording.mp4"), fps=found.recording_result.frame_rate
        )
        assert measured.duration_seconds > RECORDED_SECONDS

    def test_what_an_old_recorder_had_is_kept(self, upgraded: Upgraded) -> None:
        """A recorder of the last release that is killed after the upgrade is taken over from.

        What it had recorded is in the file.
        """
        service, job = upgraded.service, upgraded.other_recording
        had = service.job(job).progress.processed.ToTimedelta()
        service.machine.run("kill", "-KILL", str(upgraded.workers[job]))
        eventually(lambda: service.job(job).attempt == 2, "another one takes over", seconds=30)
        service.wait(job, JOB_STATE_RUNNING)
        assert service.process(recorder(job))
        _wait_for_length(service, job, 1)
        found = service.stop(job)
        assert found.state == JOB_STATE_SUCCEEDED, found
        codes = {notice.code for notice in found.notices}
        assert codes & {"RECORDING_JOINED", "RECORDING_RECOVERED"}, found
        assert found.recording_result.segment_count == 2
        assert found.recording_result.duration.ToTimedelta() > had + timedelta(seconds=1)

    def test_a_call_goes_on(self, upgraded: Upgraded) -> None:
        """A call that is captioned during the upgrade has the words of before and after."""
        service, call = upgraded.service, upgraded.call
        _say(upgraded.sender, AFTER)
        upgraded.sender.close(timeout_seconds=CAPTIONS_SECONDS)
        found = service.stop(call)
        assert found.state == JOB_STATE_SUCCEEDED, found
        for name in ("captions.vtt", "captions.txt", "captions.json"):
            text = service.artifact(call, name).read_text()
            assert all(word in text for word in SAID), text

    def test_a_transcription_goes_on(self, upgraded: Upgraded) -> None:
        """A transcription is ended by the worker that has begun it, without a notice."""
        service, job = upgraded.service, upgraded.transcription
        found = service.wait(job)
        assert found.attempt == 1
        assert not found.notices
        assert "WEBVTT" in service.artifact(job, "transcript.vtt").read_text()

    def test_the_next_one_is_of_this_release(self, upgraded: Upgraded) -> None:
        """What is begun after the upgrade has a worker of this release."""
        service = upgraded.service
        job = service.transcribe()
        assert service.process(transcriber(job))
        service.stop(job)
