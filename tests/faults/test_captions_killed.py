# SPDX-License-Identifier: Apache-2.0
"""Somebody is killed while somebody else speaks: no word is lost, none comes twice."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from callsd.v1.caption_pb2 import CAPTION_EVENT_TYPE_DEGRADED, Caption
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job
from callsd_daemon.workers.captions.journal import read_finals
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.captions import (
    CAPTIONER,
    MODEL,
    READY_SECONDS,
    Sender,
    Viewer,
    artifact,
    begin_call,
    end_call,
)
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.speech import (
    Pcm,
    chunks,
    errors,
    seconds,
    speech,
)
from tests.helpers.waiting import eventually


log = logging.getLogger(__name__)

CLIENT = Path(__file__).parent / "caption_client.py"
RESTART_SECONDS = 10.0
"""Two seconds are the promise, on a machine that has nothing else to do."""

KENJI = "kenji"
TEXT = (
    "Two numbers. The age of the oldest job in the queue, and the share of jobs that needed more "
    "than one try. If either of them goes above the normal range for five minutes, somebody should "
    "get a message."
)
MAX_ERRORS = 4
"""Undisturbed there is one at most. A cut may cost the words next to it; a sentence that is lost or
comes twice costs eight and more."""


@pytest.fixture
def one(daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real captioner."""
    return daemon(
        is_real=True,
        machine=replace(CALM, cores_total=16.0),
        config={"captions": {"model": MODEL, "workers": 2}},
    )


@pytest.fixture(scope="module")
def said() -> Pcm:
    """What Kenji says, 13.8 s."""
    return speech(KENJI, 42.5, 56.3)


def kill_captioner(one: Daemon) -> int:
    """Kill -9; returns the process that it was."""
    pid = one.worker(CAPTIONER)
    os.kill(pid, signal.SIGKILL)
    return pid


def finish(one: Daemon, api: Api, name: str) -> tuple[Job, list[Caption]]:
    """End the call; what it has come to, which is the same in all places where it can be seen."""
    job = end_call(one, api, name)
    viewer = Viewer(api, name, resume_sequence=0)
    viewer.join()
    kept = list(read_finals(one.state / "jobs" / name.removeprefix("jobs/"), 0))
    written = " ".join(artifact(one, name, "captions.txt").read_text().split())

    assert job.state == JOB_STATE_SUCCEEDED
    assert viewer.sequences == list(range(1, len(viewer.finals) + 1))
    assert [final.sequence for final in kept] == viewer.sequences
    assert [final.words.text for final in kept] == [final.text for final in viewer.finals]
    assert all(final.text in written for final in viewer.finals)
    assert job.captions_result.caption_count == len(viewer.finals)
    assert_invariants(one)
    return job, viewer.finals


def assert_said_once(finals: list[Caption], text: str = TEXT) -> None:
    """The words are those that were said, and each stretch of sound became words once."""
    heard = " ".join(final.text for final in finals)
    assert errors(text, heard) <= MAX_ERRORS, heard
    for before, after in itertools.pairwise(finals):
        assert seconds(before.end_offset) <= seconds(after.start_offset) + 1e-6
    texts = [final.text for final in finals]
    assert len(set(texts)) == len(texts)


def assert_withdrawn(viewer: Viewer) -> None:
    """When the captioner was lost, what was shown of an open utterance was taken back."""
    messages = [message for _, message in viewer.messages]
    lost = next(
        index
        for index, message in enumerate(messages)
        if message.event.type == CAPTION_EVENT_TYPE_DEGRADED and "lost" in message.event.detail
    )
    before = [message.caption for message in messages[:lost] if message.HasField("caption")]
    after = [message.caption for message in messages[lost:] if message.HasField("caption")]
    assert before[-1].text
    assert not before[-1].is_final
    assert (after[0].segment_id, after[0].text) == (before[-1].segment_id, "")
    assert after[0].revision > before[-1].revision


def assert_seen(viewer: Viewer, finals: list[Caption]) -> None:
    """What a viewer was told before and after a cut never changed, and left nothing out."""
    assert viewer.sequences == list(range(1, len(viewer.finals) + 1))
    assert viewer.finals == finals[: len(viewer.finals)]


class TestCaptioner:
    """The process that recognises."""

    @pytest.mark.scenario(3, "captioner killed in mid sentence: no word lost or doubled")
    @pytest.mark.parametrize("chunk_samples", [1600, 16_000])
    def test_killed_in_mid_sentence(self, one: Daemon, said: Pcm, chunk_samples: int) -> None:
        """Viewers are told, another one goes on within seconds, and no word is lost or doubled."""
        api = one.api()
        name = begin_call(one, api)
        with Viewer(api, name) as viewer, Sender(api, name) as sender:
            pieces = chunks(KENJI, said, chunk_samples=chunk_samples)
            with sender.playing(pieces):
                viewer.wait_mid_sentence()
                killed = kill_captioner(one)
                began = time.monotonic()
                viewer.wait_event("DEGRADED")
                viewer.wait_event("RECOVERED")
                away_seconds = time.monotonic() - began
                log.info("captions are back after %.2f s", away_seconds)
                assert away_seconds < RESTART_SECONDS
                assert one.worker(CAPTIONER) != killed
                shown = len(viewer.captions)
                eventually(lambda: len(viewer.captions) > shown, "captions go on", seconds=10)
            sender.wait_received(KENJI, len(pieces))
            job, finals = finish(one, api, name)
            viewer.join()

        assert viewer.finals == finals
        assert_said_once(finals)
        assert_withdrawn(viewer)
        assert job.captions_result.restart_count == 1
        assert seconds(job.captions_result.skipped_duration) == 0
        assert "SIGKILL" in next(event.detail for event in viewer.events if event.detail)

    def test_what_is_missing_counts_once(self, one: Daemon) -> None:
        """Sound that never came is no longer for being missed by two captioners."""
        api = one.api()
        name = begin_call(one, api)
        pieces = chunks("nina", speech("nina", 0.7, 4.0))
        with Viewer(api, name) as viewer, Sender(api, name) as sender:
            sender.push(pieces[:12] + pieces[15:])
            viewer.wait_event("AUDIO_SKIPPED")
            kill_captioner(one)
            sender.wait_received("nina", len(pieces))
            result = end_call(one, api, name).captions_result

        assert result.restart_count == 1
        assert seconds(result.skipped_duration) == pytest.approx(0.3)

    def test_undisturbed(self, one: Daemon, said: Pcm) -> None:
        """What the others are compared with: the same sound while nobody dies."""
        api = one.api()
        name = begin_call(one, api)
        with Sender(api, name) as sender:
            pieces = chunks(KENJI, said)
            sender.play(pieces, speed=2.0)
            sender.wait_received(KENJI, len(pieces))
            job, finals = finish(one, api, name)

        assert_said_once(finals)
        assert errors(TEXT, " ".join(final.text for final in finals)) <= 2
        assert job.captions_result.restart_count == 0

    @pytest.mark.scenario(5, "one that says nothing, or is stopped, is killed")
    def test_hangs(self, daemon: StartDaemon, models_directory: Path) -> None:
        """One that is alive and says nothing is ended and replaced."""
        one = daemon(
            is_real=True,
            config={"captions": {"model": MODEL, "workers": 1}},
            constants={"callsd_daemon.workers.captions.captioner.SILENCE_TIMEOUT_SECONDS": 3.0},
        )
        api = one.api()
        name = begin_call(one, api)
        with Viewer(api, name) as viewer, Sender(api, name) as sender:
            stuck = one.worker(CAPTIONER)
            os.kill(stuck, signal.SIGSTOP)
            pieces = chunks(KENJI, speech(KENJI, 42.5, 46.0))
            sender.push(pieces)
            viewer.wait_event("RECOVERED")
            viewer.wait_final()

            assert one.leaders(CAPTIONER) != [stuck]
            job, finals = finish(one, api, name)
        assert_said_once(finals, "Two numbers. The age of the oldest job in the queue")
        assert job.captions_result.restart_count == 1


class TestDaemon:
    """The daemon itself, and its captioners with it."""

    @pytest.mark.scenario(2, "captions: daemon killed in mid sentence, no word lost or doubled")
    def test_killed_in_mid_sentence(self, one: Daemon, said: Pcm) -> None:
        """A client that sends again what it is asked for loses nothing."""
        api = one.api()
        name = begin_call(one, api)
        pieces = chunks(KENJI, said)
        with Viewer(api, name) as before, Sender(api, name) as sender:
            with sender.playing(pieces[:75]):
                before.wait_mid_sentence()
            captioner = one.worker(CAPTIONER)
            one.kill()
            with pytest.raises(grpc.RpcError):
                sender.join()
        eventually(lambda: captioner not in one.worker_pids(CAPTIONER), "the captioner has ended")
        api = one.start().api()
        one.wait(api, name, JOB_STATE_RUNNING, seconds=READY_SECONDS)

        with (
            Viewer(api, name, resume_sequence=len(before.finals)) as after,
            Sender(api, name) as sender,
        ):
            assert sender.first is not None
            received = sender.first[KENJI].received_sequence
            # Nothing that was worked off, and everything else, is asked for again.
            processed = seconds(sender.first[KENJI].processed_offset)
            assert received == int(processed * 10 + 1e-6)
            assert 0 < received < 75
            sender.play(pieces[received:75], speed=20.0)
            sender.play(pieces[75:])
            sender.wait_received(KENJI, len(pieces))
            job, finals = finish(one, api, name)
            after.join()

        assert_seen(before, finals)
        assert before.finals + after.finals == finals
        assert_said_once(finals)
        assert job.attempt == 1
        assert seconds(job.captions_result.skipped_duration) == 0
        assert seconds(job.captions_result.audio_duration) == pytest.approx(13.8)

    def test_killed_under_the_client_library(self, one: Daemon, said: Pcm) -> None:
        """The library's sender and watch go on by themselves; the caller notices nothing."""
        api, client = one.api(), one.client()
        name = begin_call(one, api)
        data = said.tobytes()
        with client.stream_captions(name) as sender:
            for number in range(138):
                if number in (40, 90):
                    eventually(lambda: sender.acks[KENJI].received_sequence >= 20, "sound arrives")
                    one.kill()
                    one.start()
                sender.send(KENJI, data[number * 3200 : (number + 1) * 3200], number / 10)
                time.sleep(0.03)
        api = one.api()
        job, finals = finish(one, api, name)
        watched = [
            message.caption
            for message in client.watch_captions(name, resume_sequence=0)
            if message.HasField("caption")
        ]

        assert watched == finals
        assert_said_once(finals)
        assert seconds(job.captions_result.audio_duration) == pytest.approx(13.8)

    @pytest.mark.reason("DRAINING")
    def test_is_asked_to_end(self, one: Daemon, said: Pcm) -> None:
        """SIGTERM sends streams away with the reason; the call goes on with the next daemon."""
        api = one.api()
        name = begin_call(one, api)
        pieces = chunks(KENJI, said)
        with Viewer(api, name) as viewer, Sender(api, name) as sender:
            sender.play(pieces[:60], speed=2.0)
            one.signal(signal.SIGTERM)
            for stream in (viewer, sender):
                with refused("DRAINING", grpc.StatusCode.UNAVAILABLE):
                    stream.join()
            assert one.wait_dead() == 0
        assert one.worker_pids(CAPTIONER) == []
        api = one.start().api()
        one.wait(api, name, JOB_STATE_RUNNING, seconds=READY_SECONDS)
        with Sender(api, name) as sender:
            assert sender.first is not None
            sender.play(pieces[sender.first[KENJI].received_sequence :], speed=2.0)
            sender.wait_received(KENJI, len(pieces))
            _, finals = finish(one, api, name)

        assert_seen(viewer, finals)
        assert_said_once(finals)


class TestClient:
    """The one who sends."""

    def test_killed_in_mid_word(self, one: Daemon, said: Pcm, tmp_path: Path) -> None:
        """Another client goes on where the server has got to; what was said is captioned once."""
        api = one.api()
        name = begin_call(one, api)
        recording = tmp_path / "kenji.pcm"
        recording.write_bytes(said.tobytes())
        with Viewer(api, name) as viewer:
            with client(one, name, recording) as first:
                assert begin(first) == 0
                viewer.wait_shown(KENJI)
                first.kill()
            with client(one, name, recording) as second:
                position = begin(second)
                assert second.wait(60) == 0
            _, finals = finish(one, api, name)
            viewer.join()

        assert 0 < position < said.nbytes
        assert viewer.finals == finals
        assert_said_once(finals)


def client(one: Daemon, name: str, recording: Path) -> "subprocess.Popen[str]":
    """A process that sends a recording."""
    arguments = [one.address, str(one.token_file), name, str(recording)]
    return subprocess.Popen(
        [sys.executable, str(CLIENT), *arguments], stdout=subprocess.PIPE, text=True
    )


def begin(process: "subprocess.Popen[str]") -> int:
    """The byte with which a client begins."""
    assert process.stdout is not None
    return int(process.stdout.readline())
