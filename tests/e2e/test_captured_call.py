# SPDX-License-Identifier: Apache-2.0
"""Calls of a Mattermost that are captured by a whole daemon, from the click to the thread."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_SUCCEEDED
from callsd.v1.mattermost_pb2 import DELIVERY_STATE_DELIVERED
from callsd.v1.transcription_pb2 import TRANSCRIPT_FORMAT_VTT
from callsd_bench.shared.accuracy import word_error_rate
from callsd_bench.shared.call import load_call
from callsd_daemon.mattermost.work import JOB_TYPES
from tests.conftest import StartDaemon
from tests.helpers.captured_call import calling, of_vtt, options, words
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.transcripts import transcribe, transcript
from tests.mattermost.opus_packets import RATE_HZ, SAMPLES, SILENCE, of_sound
from tests.mattermost.threads import RECORDING_POST


MORE_WER = 0.02
"""What the way through a call may cost: not two words of seventy."""

CUT_SECONDS = 25.7
"""In a pause of the sample call, after which the fourth one begins to speak."""

PACKETS_A_SECOND = RATE_HZ / SAMPLES

LONG_TURN_SECONDS = 4.0
"""Who speaks for so long is captioned before the end of it."""

REFUSED_SECONDS = 10.0
"""A refusal is told long before the plugin gives up by itself, after 60 s."""

SYNC_SECONDS = 1.0
"""The end of the film is not known better, by what is seen from here."""

NINA = words(
    "nina",
    *(0.7, 6.3),
    "One question for the notes. Did any customer complain, or did we notice it first?",
)

ALL_SUCCEEDED = dict.fromkeys(("recording", "capture", "transcription"), JOB_STATE_SUCCEEDED)


@pytest.fixture(scope="module")
def server(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with real workers and a gateway; what its recorders do is scripted."""
    return shared_daemon(**options())


@pytest.mark.alone
async def test_sample_call(server: Daemon) -> None:
    """Three people talk: captions come while they do, and their transcript is as that of files.

    [J9] It is in the thread after the recording, and says whose words are whose. [J10] All captions
    are taken by the plugin.
    """
    whole = load_call(SAMPLE_CALL)
    sample = replace(
        whole, turns=tuple(turn for turn in whole.turns if turn.start_seconds < CUT_SECONDS)
    )
    speakers = {turn.speaker for turn in sample.turns}
    tracks = [track for track in sample.tracks if track.speaker in speakers]
    sounds = [
        (track.speaker, of_sound(track.path)[: round(CUT_SECONDS * PACKETS_A_SECOND)])
        for track in tracks
    ]
    files = [track.path for track in tracks]
    async with calling(server, speakers) as one, asyncio.TaskGroup() as group:
        of_files = group.create_task(
            one.asked(
                lambda: transcribe(server, server.api(), *files, formats=[TRANSCRIPT_FORMAT_VTT])
            )
        )
        for person in one.people.values():
            await person.unmute()
        await asyncio.gather(*(one.people[speaker].play(sound) for speaker, sound in sounds))
        for person in one.people.values():
            await person.finished()
        await one.stop()
        published = await one.published()
        jobs = await one.delivered()

        for speaker in speakers:
            began = one.people[speaker].began_seconds
            assert any(
                turn.start_seconds < caption.time_seconds - began < turn.end_seconds
                for turn in sample.turns
                for caption in one.captions(speaker)
                if turn.speaker == speaker
                if turn.end_seconds - turn.start_seconds > LONG_TURN_SECONDS
            ), speaker
    heard_in_files = of_vtt(transcript(server, of_files.result(), "vtt"))
    heard_in_files = [part for part in heard_in_files if part.start_seconds < CUT_SECONDS]
    file_wer = word_error_rate([sample], [heard_in_files])
    call_wer = word_error_rate([sample], [published.segments])
    print(f"WER of the call {call_wer:.3f}, of its files {file_wer:.3f}")  # noqa: T201 - for people
    assert call_wer <= file_wer + MORE_WER
    assert published.language == "en"
    assert all(speaker.title() in published.text.splitlines() for speaker in speakers)
    assert {kind: job.state for kind, job in jobs.items()} == ALL_SUCCEEDED
    result = jobs["capture"].capture_result
    assert result.problem == ""
    assert {track.speaker for track in result.tracks} == {name.title() for name in speakers}
    assert result.caption_count == len(one.call.captions)
    assert one.call.dropped_messages == 0
    assert_invariants(server)


@pytest.mark.alone
async def test_real_recorder(shared_daemon: StartDaemon, models_directory: Path) -> None:
    """With the film of a real browser, words have the times at which they are said in it.

    [J6] Recorder and capture join with the job ids of their own, once, and both have started in
    time.
    """
    daemon = shared_daemon(**options(has_film=False))
    async with calling(daemon, ["nina"], sample=SAMPLE_CALL / "nina.ogg") as one:
        joined = {job.type: job.bot_conn_id for job in one.call.jobs if job.bot_conn_id}
        nina = await one.say(NINA)
        await nina.finished()
        await one.server.stop_recording(one.call)
        stopped = time.time()
        published = await one.published()
        jobs = await one.delivered()

    assert set(joined) == set(JOB_TYPES.values())
    assert len(set(joined.values())) == len(joined)
    assert {kind: job.state for kind, job in jobs.items()} == ALL_SUCCEEDED
    assert published.errors(NINA) <= 1
    # The film goes on until the page sees the stop, at once.
    length_seconds = jobs["recording"].recording_result.duration.ToMilliseconds() / 1000
    said_seconds = nina.began_seconds - (stopped - length_seconds)
    assert published.segments[0].start_seconds == pytest.approx(said_seconds, abs=SYNC_SECONDS)


@pytest.mark.parametrize("is_unmuted", [False, True])
async def test_silence(server: Daemon, is_unmuted: bool) -> None:  # noqa: FBT001
    """Of a call in which nobody says a word the recording is posted, and no transcript.

    Nothing has failed, and the plugin is told of no failure.
    """
    async with calling(server, ["nina", "joe"]) as one:
        if is_unmuted:
            nina = one.people["nina"]
            await nina.play([SILENCE] * 100)
            await nina.finished()
        await one.stop()
        jobs = await one.delivered()

        assert {kind: job.state for kind, job in jobs.items()} == ALL_SUCCEEDED
        assert [post.type for post in one.thread] == [RECORDING_POST]
        assert one.call.captions == []
        assert [job.err for job in one.call.jobs] == ["", "", ""]
    assert jobs["transcription"].transcription_result.segment_count == 0
    assert_invariants(server)


async def test_longest_time(server: Daemon) -> None:
    """[J8] After max_duration, which nobody else enforces, a capture ends in good order."""
    async with calling(server, ["nina"], max_duration_seconds=6) as one:
        nina = await one.say(NINA)
        await nina.finished()
        # Nobody has stopped anything, and the plugin gives the transcription twice the time.
        await one.server.until(lambda: one.call.transcription.end_at, "the capture has left")
        await one.end_film()
        published = await one.published()
        jobs = await one.delivered()

    assert {kind: job.state for kind, job in jobs.items()} == ALL_SUCCEEDED
    assert jobs["capture"].capture_result.problem == ""
    # On a busy machine the time is over before she is done.
    assert published.said_by("nina").startswith("One question")


async def test_call_ends(server: Daemon) -> None:
    """[J8] A capture whose call is ended by its host leaves it, and what was said is published."""
    async with calling(server, ["nina"]) as one:
        nina = await one.say(NINA)
        await nina.finished()
        await one.server.end_call(one.call)
        await one.end_film()
        published = await one.published()
        jobs = await one.delivered()

    assert jobs["capture"].capture_result.problem == ""
    assert published.errors(NINA) <= 1


@pytest.mark.reason("CALL_UNAVAILABLE")
async def test_is_not_let_in(server: Daemon) -> None:
    """[J6, J7] The host reads at once, in the words of the job, why the call is not captured."""
    async with calling(server, ["nina"], is_awaited=False, is_open=False) as one:
        began = time.monotonic()
        await one.server.until(lambda: one.call.transcription.end_at, "`failed` has been told")
        assert time.monotonic() - began < REFUSED_SECONDS
        one.open()
        await one.end_film()
        jobs = await one.delivered()

        assert failure(jobs["capture"]) == "CALL_UNAVAILABLE"
        assert jobs["capture"].state == JOB_STATE_FAILED
        assert "forbidden" in one.call.transcription.err
        assert one.call.transcription.err == jobs["capture"].failure.message
        # The plugin ends both; what was recorded until then is there.
        assert one.call.recording.end_at
        assert [post.type for post in one.thread] == [RECORDING_POST]
        assert jobs["recording"].delivery.state == DELIVERY_STATE_DELIVERED
