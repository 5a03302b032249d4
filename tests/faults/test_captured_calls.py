# SPDX-License-Identifier: Apache-2.0
"""Something dies or breaks in the middle of a call, and all that was heard is in its transcript.

Only the recorders are scripted; workers, captioner and the media of the call are real.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.captions import CAPTIONER
from tests.helpers.captured_call import CapturedCall, Transcript, calling, options, words
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.speech import errors


AGAIN_SECONDS = 10.0
"""Until captions go on. Three seconds are the promise, on a machine that does nothing else."""

GARBAGE_PACKETS = 400
"""8 s: longer than the other one talks."""

MAX_ERRORS = 2
"""Undisturbed there is one at most; a sentence that is lost or comes twice costs six and more."""

NINA = words(
    "nina",
    *(0.7, 6.3),
    "One question for the notes. Did any customer complain, or did we notice it first?",
)
MAYA = words(
    "maya",
    *(18.3, 24.7),
    "I will write to them today and explain what happened. Nina, please put that down as an "
    "action for me.",
)
LAST = (
    "If either of them goes above the normal range for five minutes, somebody should get a message."
)
KENJI = words(
    "kenji",
    *(42.5, 56.3),
    "Two numbers. The age of the oldest job in the queue, and the share of jobs that needed more "
    f"than one try. {LAST}",
)


@pytest.fixture(scope="module")
def one_daemon(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon for all of them: what one test does to it is over at its end."""
    return shared_daemon(**options())


async def finish(one: CapturedCall) -> tuple[Transcript, dict[str, Job]]:
    """Stop, and wait for both posts; the jobs have succeeded, and everything else is as it must."""
    await one.stop()
    return await ended(one)


async def ended(one: CapturedCall) -> tuple[Transcript, dict[str, Job]]:
    """The same of a call whose recording the plugin has stopped already."""
    transcript = await one.published()
    jobs = await one.delivered()
    assert {job.state for job in jobs.values()} == {JOB_STATE_SUCCEEDED}
    await one.asked(lambda: assert_invariants(one.daemon))
    return transcript, jobs


class TestWorker:
    """The process that is in the call."""

    @pytest.mark.scenario(57, "its worker killed: what was said is published, the host is told")
    async def test_killed(self, one_daemon: Daemon) -> None:
        """It does not come back, which the host is told; all it has heard is published, once."""
        async with calling(one_daemon, ["nina", "kenji"]) as one:
            nina = await one.say(NINA)
            await nina.finished()
            await one.say(KENJI)
            caption = await one.captioned("kenji", word_count=6)
            os.kill(await one.worker(), signal.SIGKILL)
            await one.server.until(lambda: one.call.transcription.end_at, "`failed` was told")
            assert one.call.transcription.err
            assert one.call.recording.end_at
            await one.end_film()
            transcript, jobs = await ended(one)

        assert "SIGKILL" in one.call.transcription.err
        assert jobs["capture"].capture_result.problem == one.call.transcription.err
        assert "CAPTURE_CUT_SHORT" in {notice.code for notice in jobs["capture"].notices}
        assert transcript.errors(NINA) <= MAX_ERRORS
        heard = transcript.said_by("kenji")
        assert heard.lower().startswith("two numbers")
        assert len(heard.split()) >= len(caption.text.split())


class TestDaemon:
    """The daemon itself."""

    @pytest.mark.scenario(57, "the daemon killed: its worker goes on, and captions come again")
    async def test_killed(self, one_daemon: Daemon, record_figure: RecordFigure) -> None:
        """The worker stays in the call; captions go on with the next daemon; no word is lost."""
        async with calling(one_daemon, ["kenji"]) as one:
            kenji = await one.say(KENJI)
            await one.captioned("kenji", word_count=3)
            worker = await one.worker()
            await one.asked(one_daemon.kill)
            await one.asked(one_daemon.start)
            back = time.time()
            caption = await one.captioned("kenji", since_seconds=back)
            again = caption.time_seconds - back
            record_figure(f"captions {again:.1f} s after the daemon")
            assert await one.worker() == worker
            await kenji.finished()
            transcript, jobs = await finish(one)

        assert again < AGAIN_SECONDS
        assert jobs["capture"].attempt == 1
        assert jobs["capture"].capture_result.problem == ""
        assert [job.err for job in one.call.jobs] == ["", "", ""]
        assert transcript.errors(KENJI) <= MAX_ERRORS


class TestCaptioner:
    """The process that recognises what is said while it is said."""

    @pytest.mark.scenario(57, "the captioner killed: captions go on, and the transcript is whole")
    async def test_killed(self, one_daemon: Daemon, record_figure: RecordFigure) -> None:
        """Captions go on with another one; the transcript is made of what the call's worker has."""
        async with calling(one_daemon, ["kenji"]) as one:
            kenji = await one.say(KENJI)
            await one.captioned("kenji", word_count=3)
            os.kill(await one.asked(lambda: one_daemon.worker(CAPTIONER)), signal.SIGKILL)
            killed = time.time()
            caption = await one.captioned("kenji", since_seconds=killed + 0.5)
            again = caption.time_seconds - killed
            record_figure(f"captions {again:.1f} s after the captioner")
            await kenji.finished()
            transcript, jobs = await finish(one)

        assert again < AGAIN_SECONDS
        assert jobs["capture"].capture_result.problem == ""
        assert transcript.errors(KENJI) <= MAX_ERRORS


class TestNetwork:
    """What is between the call and its worker."""

    @pytest.mark.scenario(58, "the websocket cut for 3 s: who unmutes meanwhile is heard")
    async def test_first_words_while_the_websocket_is_cut(self, one_daemon: Daemon) -> None:
        """[J11] Who unmutes for the first time in the gap is in captions and transcript."""
        async with calling(one_daemon, ["nina", "maya"]) as one:
            packets = await MAYA.packets()
            await one.server.faults.network.cut_websockets(3.0)
            maya = one.people["maya"]
            await maya.play(packets)
            await maya.finished()
            await one.captioned("maya")
            transcript, jobs = await finish(one)

        assert jobs["capture"].capture_result.problem == ""
        assert transcript.errors(MAYA) <= MAX_ERRORS

    @pytest.mark.scenario(58, "the websocket cut for a minute: told; what was said is published")
    async def test_websocket_is_away(self, one_daemon: Daemon) -> None:
        """The server forgets who is away for more than 10 s: the host is told, nothing is lost."""
        # The plugin does not notice by itself: then nobody but the job can tell.
        async with calling(one_daemon, ["nina"], reconnect_seconds=600.0) as one:
            nina = await one.say(NINA)
            await nina.finished()
            await one.server.faults.network.cut_websockets(60.0)
            await one.server.until(lambda: one.call.transcription.end_at, "`failed` was told")
            await one.end_film()
            transcript, jobs = await ended(one)

        assert "could not be reached for" in one.call.transcription.err
        assert jobs["capture"].capture_result.problem == one.call.transcription.err
        assert transcript.errors(NINA) <= MAX_ERRORS

    @pytest.mark.scenario(58, "the media away for 5 s: what came before and after is there")
    async def test_media_are_away(self, one_daemon: Daemon) -> None:
        """What is said in the gap is lost, and nothing else."""
        async with calling(one_daemon, ["nina", "kenji"]) as one:
            kenji = one.people["kenji"]
            await kenji.unmute()
            nina = await one.say(NINA)
            await nina.finished()
            packets = await KENJI.packets()
            await one.server.faults.network.drop_udp(5.0)
            await kenji.play(packets)
            await kenji.finished()
            transcript, jobs = await finish(one)

        assert jobs["capture"].capture_result.problem == ""
        assert transcript.errors(NINA) <= MAX_ERRORS
        heard = transcript.said_by("kenji")
        last = " ".join(heard.split()[-len(LAST.split()) :])
        assert errors(LAST, last) <= MAX_ERRORS, heard
        assert "numbers" not in heard


class TestBadTrack:
    """What somebody's browser sends may be anything."""

    @pytest.mark.scenario(58, "one speaker's packets are garbage: the others are whole")
    async def test_garbage(self, one_daemon: Daemon, chance: random.Random) -> None:
        """One track that cannot be decoded costs nobody else a word."""
        garbage = [chance.randbytes(chance.randint(1, 1100)) for _ in range(GARBAGE_PACKETS)]
        async with calling(one_daemon, ["nina", "joe"]) as one:
            await one.people["joe"].play(garbage)
            nina = await one.say(NINA)
            await nina.finished()
            await one.captioned("nina")
            transcript, jobs = await finish(one)

        assert jobs["capture"].capture_result.problem == ""
        assert transcript.errors(NINA) <= MAX_ERRORS
