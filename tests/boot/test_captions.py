# SPDX-License-Identifier: Apache-2.0
"""Live captions whose captioner is a unit."""

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.boot.service import CALL, CAPTIONER, Service
from tests.helpers.speech import speech
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(240)

SPEAKER = "maya"
TURNS = ((15.0, 28.0), (28.0, 45.0), (45.0, 72.0))
"""Stretches of the sample call, in seconds, in each of which she speaks once."""

FINALS_SECONDS = 60.0
"""How long captions may take on a machine that is busy otherwise."""


class TestCaptions:
    """From the sound to the captions."""

    def test_a_call_is_captioned(self, service: Service, tmp_path: Path) -> None:
        """`captions stream` ends with captions in three forms; `captions watch` has read them."""
        sent, watched = tmp_path / "stream.txt", tmp_path / "watch.txt"
        call = f"{CALL}/joe.ogg"
        with service.running(sent, "captions", "stream", "--call", call) as streaming:
            job = _announced(sent)
            service.wait(job, JOB_STATE_RUNNING)
            with service.running(watched, "captions", "watch", "--from=1", job) as watching:
                assert streaming.wait(FINALS_SECONDS) == 0, sent.read_text()
                assert watching.wait(FINALS_SECONDS) == 0, watched.read_text()
        found = service.job(job)
        assert found.state == JOB_STATE_SUCCEEDED
        words = _words_in_all_forms(service, job)
        assert "school in Ohio" in words
        assert _words(watched.read_text()) == words

    def test_it_survives_the_daemon(self, service: Service, tmp_path: Path) -> None:
        """Restart and kill -9 of the daemon while sound is sent: sender and watcher reconnect.

        Nothing that was said is lost, and a watcher sees each caption once.
        """
        sent, watched = tmp_path / "stream.txt", tmp_path / "watch.txt"
        job = service.caption()
        stream = ("captions", "stream", f"--job={job}", "--call=-", f"--speaker={SPEAKER}")
        with (
            service.running(watched, "captions", "watch", "--from=1", job) as watching,
            service.running(sent, *stream) as streaming,
        ):
            assert service.process(CAPTIONER)
            _talk(streaming, TURNS[0])
            _wait_for_finals(watched, 1)
            service.restart()
            _talk(streaming, TURNS[1])
            _wait_for_finals(watched, 2)
            service.kill()
            _talk(streaming, TURNS[2])
            assert streaming.stdin is not None
            streaming.stdin.close()
            assert streaming.wait(FINALS_SECONDS) == 0, sent.read_text()
            assert watching.wait(FINALS_SECONDS) == 0, watched.read_text()
        found = service.job(job)
        assert found.state == JOB_STATE_SUCCEEDED, found
        words = _words_in_all_forms(service, job)
        assert all(one in words for one in ("action", "measure", "Thursday")), words
        assert _words(watched.read_text()) == words


def _talk(streaming: "subprocess.Popen[bytes]", turn: tuple[float, float]) -> None:
    """Send a stretch of the sample call as fast as it is taken."""
    assert streaming.stdin is not None
    streaming.stdin.write(speech(SPEAKER, *turn).tobytes())
    streaming.stdin.flush()


def _announced(output: Path) -> str:
    """The id of the job that `captions stream` has made."""
    found = eventually(
        lambda: re.search(r"^jobs/(\w+): read along", output.read_text()),
        "the job is made",
        seconds=FINALS_SECONDS,
    )
    assert found is not None
    return found[1]


def _finals(text: str) -> list[str]:
    """What was said, as a watcher reads it line by line."""
    return re.findall(r"^\[[\d:]+\] \w+: (.*)$", text, re.MULTILINE)


def _wait_for_finals(output: Path, count: int) -> None:
    eventually(
        lambda: len(_finals(output.read_text())) >= count,
        f"{count} captions are read",
        seconds=FINALS_SECONDS,
    )


def _words(text: str) -> str:
    return " ".join(" ".join(_finals(text)).split())


def _words_in_all_forms(service: Service, job: str) -> str:
    """What was said, by each of the files of a captions job: they say the same."""
    whole = json.loads(service.artifact(job, "captions.json").read_text())
    words = " ".join(" ".join(segment["text"] for segment in whole["segments"]).split())
    for name in ("captions.vtt", "captions.txt"):
        text = service.artifact(job, name).read_text()
        assert set(words.split()) <= set(re.split(r"\s|<[^>]*>", html.unescape(text))), text
    return words
