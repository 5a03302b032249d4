# SPDX-License-Identifier: Apache-2.0
"""A transcript on its way to the thread, which has two files and comes after its recording."""

from tests.outbox.deliveries import transcript_of
from tests.outbox.fixtures import StartWorld
from tests.outbox.outbox_world import OutboxWorld


async def test_transcript_reaches_its_thread(start_world: StartWorld) -> None:
    """[J9] Both files are there, byte for byte; the video has its captions in its language."""
    world = await start_world(live_captions=False)
    await world.activate(transcriptions=True)
    call = await world.record_speech(6, segments=3)
    await world.stop(call)
    recording, transcript = await world.both_published(call)
    assert recording.props["captions"] == transcript.props["captions"]
    assert transcript.props["captions"][0]["language"] == "de"
    names = {file.name for file in world.server.state.files.values()}
    assert len({name.rpartition(".")[0] for name in names}) == 1
    assert {name.rpartition(".")[2] for name in names} == {"mp4", "vtt", "txt"}


async def test_waits_for_the_recording(outbox: OutboxWorld) -> None:
    """[J9] However long the recording takes: captions are joined to one that is there."""
    call = await outbox.begin(6, is_captured=True)
    outbox.server.faults.plugin_disabled.always(path="/recordings")
    await outbox.stop(call)
    await outbox.asked_more_than(call, 6)
    assert outbox.asks("POST", "/transcriptions") == 0
    outbox.server.faults.reset()
    recording, transcript = await outbox.both_published(call)
    assert recording.props["captions"] == transcript.props["captions"]


async def test_answer_of_the_post_is_lost(outbox: OutboxWorld) -> None:
    """Nor is a transcript posted twice."""
    call = await outbox.begin(6, is_captured=True)
    lost = outbox.server.faults.lost_answer
    lost.once(path="/transcriptions")
    await outbox.stop(call)
    await outbox.both_published(call)
    assert lost.uses == 1
    assert outbox.asks("POST", "/transcriptions") == 1


async def test_nobody_has_said_anything(outbox: OutboxWorld) -> None:
    """An empty transcript is not posted, and its job is done."""
    call = await outbox.begin(6, is_captured=True)
    await outbox.stop(call, segments=0)
    await outbox.published(call)
    await outbox.job_delivered(transcript_of(call))
    outbox.only_file(call)
    assert outbox.asks("POST", "/transcriptions") == 0
