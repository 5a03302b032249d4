# SPDX-License-Identifier: Apache-2.0
"""A transcript on its way to the thread, which has two files and comes after its recording."""

import pytest

from tests.outbox.fixtures import StartWorld
from tests.outbox.world import World, transcript_of


@pytest.fixture
async def world(start_world: StartWorld) -> World:
    """A plugin that wants each recording transcribed."""
    world = await start_world(live_captions=False)
    await world.activate(transcriptions=True)
    return world


async def test_transcript_reaches_its_thread(world: World) -> None:
    """[J9] Both files are there, byte for byte; the video has its captions in its language."""
    call = await world.record_speech(6, segments=3)
    await world.stop(call)
    recording, transcript = await world.both_published(call)
    assert recording.props["captions"] == transcript.props["captions"]
    assert transcript.props["captions"][0]["language"] == "de"
    names = {file.name for file in world.server.state.files.values()}
    assert len({name.rpartition(".")[0] for name in names}) == 1
    assert {name.rpartition(".")[2] for name in names} == {"mp4", "vtt", "txt"}


async def test_waits_for_the_recording(world: World) -> None:
    """[J9] However long the recording takes: captions are joined to one that is there."""
    call = await world.record_speech(6, segments=3)
    world.server.faults.plugin_disabled.always(path="/recordings")
    await world.stop(call)
    await world.asked_more_than(call, 3)
    transcription = transcript_of(call)
    await world.asked(lambda: world.daemon.wait(world.daemon.api(), transcription))
    await world.asked_more_than(call, 3)
    assert world.asks("POST", "/transcriptions") == 0
    world.server.faults.reset()
    recording, transcript = await world.both_published(call)
    assert recording.props["captions"] == transcript.props["captions"]


async def test_answer_of_the_post_is_lost(world: World) -> None:
    """Nor is a transcript posted twice."""
    call = await world.record_speech(6, segments=3)
    lost = world.server.faults.lost_answer
    lost.once(path="/transcriptions")
    await world.stop(call)
    await world.both_published(call)
    assert lost.uses == 1
    assert world.asks("POST", "/transcriptions") == 1


async def test_nobody_has_said_anything(world: World) -> None:
    """An empty transcript is not posted, and its job is done."""
    call = await world.record_speech(6, segments=0)
    await world.stop(call)
    await world.published(call)
    await world.job_delivered(transcript_of(call))
    world.only_file(call)
    assert world.asks("POST", "/transcriptions") == 0
