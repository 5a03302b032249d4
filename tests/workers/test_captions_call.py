# SPDX-License-Identifier: Apache-2.0
"""One call: what is acknowledged, and what is asked of its captioner."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from callsd_daemon.domain.captions import CaptionsSpec, Encoding, TrackUpdate, Words
from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.workers.captions import call as module
from callsd_daemon.workers.captions.call import AudioSink, Call
from callsd_daemon.workers.captions.call_log import MAX_BURST, CallLog
from callsd_daemon.workers.captions.speaker import Chunk, Speaker
from callsd_ipc.names import WORKER_LOG


LENGTH = 1600
DATA = bytes(2 * LENGTH)


class Captioner:
    """Remembers what it is sent."""

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.ended: list[str] = []

    def send_audio(self, _: Call, __: Speaker, chunk: Chunk) -> None:
        """Take a chunk."""
        self.sequences.append(chunk.sequence)

    def end_speech(self, speaker: Speaker) -> None:
        """Take an end."""
        self.ended.append(speaker.name)


LOG_BYTES = 4096


@pytest.fixture
def captioner() -> Captioner:
    """One that has been sent nothing."""
    return Captioner()


@pytest.fixture
def call(tmp_path: Path, captioner: Captioner) -> Call:
    """A call of which three chunks of Ada's have come."""
    sink = AudioSink(send=captioner.send_audio, end_speech=captioner.end_speech)
    call = Call("job", CaptionsSpec(model="base"), tmp_path, sink, max_log_bytes=LOG_BYTES)
    call.attach(Encoding.S16LE)
    for sequence in (1, 2, 3):
        call.receive("ada", sequence, (sequence - 1) * LENGTH, LENGTH, DATA)
    return call


def final(end_sample: int) -> Words:
    """Final words of all the sound so far."""
    return Words(
        segment=0, text="yes", start_sample=0, end_sample=end_sample, heard_sample=end_sample
    )


class TestAcknowledged:
    """What a client is told that it need not keep."""

    def test_silence_counts_when_it_is_written_down(self, call: Call) -> None:
        """A position is acknowledged once a daemon that starts anew would know it."""
        ada = call.speakers["ada"]
        call.apply(ada, TrackUpdate(processed_sample=2 * LENGTH, recognised_sample=2 * LENGTH))
        before = ada.durable_sample

        call.save_positions()

        assert (before, ada.durable_sample) == (0, 2 * LENGTH)
        assert call.new_acks() == [ada]

    def test_a_final_counts_at_once(self, call: Call, tmp_path: Path) -> None:
        """A final caption is written with its position, and the next daemon goes on behind it."""
        ada = call.speakers["ada"]
        update = TrackUpdate(
            finals=(final(2 * LENGTH),), processed_sample=2 * LENGTH, recognised_sample=2 * LENGTH
        )
        call.apply(ada, update)

        sink = AudioSink(send=lambda *_: None, end_speech=lambda _: None)
        next_call = Call("job", CaptionsSpec(model="base"), tmp_path, sink, max_log_bytes=LOG_BYTES)

        assert ada.durable_sample == 2 * LENGTH
        assert next_call.feed.last_sequence == 1
        assert next_call.speakers["ada"].received_sequence == 2
        assert next_call.speakers["ada"].processed_sample == 2 * LENGTH


class TestMoreThanTheSound:
    """A captioner that says more than it can have heard."""

    def test_words(self, call: Call, tmp_path: Path) -> None:
        """More words than the sound can be are left out, and come again with more sound."""
        ada = call.speakers["ada"]
        update = TrackUpdate(finals=(final(LENGTH),) * 50, processed_sample=0, recognised_sample=0)
        for _ in range(10):
            call.apply(ada, update)
        kept = call.feed.last_sequence
        for sequence in range(4, 104):
            call.receive("ada", sequence, (sequence - 1) * LENGTH, LENGTH, DATA)
        for _ in range(10):
            call.apply(ada, update)

        assert 50 < kept < 120
        assert call.feed.last_sequence == pytest.approx(kept + 100, abs=10)
        assert "left out" in (tmp_path / WORKER_LOG).read_text()

    def test_speech(self, call: Call) -> None:
        """Whoever talks as fast as people can is never taken for that."""
        ada = call.speakers["ada"]
        words = replace(final(LENGTH), text="as fast as anybody can ")
        for sequence in range(4, 4004):
            call.receive("ada", sequence, (sequence - 1) * LENGTH, LENGTH, DATA)
            if sequence % 5 == 0:
                call.apply(
                    ada, TrackUpdate(finals=(words,), processed_sample=0, recognised_sample=0)
                )

        assert call.feed.last_sequence == 800


class TestEnds:
    """Speech that stops."""

    def test_who_falls_silent_is_asked_to_end_once(
        self, call: Call, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When no more sound comes, the captioner is told so, until sound comes again."""
        monkeypatch.setattr(module, "STALL_SECONDS", -1.0)
        call.tick()
        call.tick()
        call.receive("ada", 4, 3 * LENGTH, LENGTH, DATA)
        call.tick()

        assert captioner.ended == ["ada", "ada"]

    @pytest.mark.parametrize(("processed", "expected"), [(3 * LENGTH, True), (LENGTH, False)])
    def test_the_captioner_is_lost(self, call: Call, processed: int, expected: bool) -> None:  # noqa: FBT001 - an expectation
        """When all sound is worked off, no other captioner is waited for to say so."""
        update = TrackUpdate(processed_sample=processed, recognised_sample=processed)
        call.apply(call.speakers["ada"], update)
        call.interrupted("it was killed")

        assert call.is_drained is expected

    def test_sound_after_the_end_is_not_taken(self, call: Call, captioner: Captioner) -> None:
        """Once a call is over, what still comes is left out."""
        call.close_input()
        call.receive("ada", 4, 3 * LENGTH, LENGTH, DATA)

        assert captioner.sequences == [1, 2, 3]


def test_a_newer_stream_takes_over(call: Call) -> None:
    """The older of two streams is told that it is replaced, the newer one is not."""
    newer = call.attach(Encoding.S16LE)

    call.check_stream(newer)
    with pytest.raises(CallsdError, match="another stream sends"):
        call.check_stream(newer - 1)


def test_room(call: Call) -> None:
    """A client waits while more sound than allowed waits for its first recognition."""
    chunk_count = int(module.MAX_UNRECOGNISED_SECONDS * 10)
    for sequence in range(4, chunk_count + 3):
        call.receive("ada", sequence, (sequence - 1) * LENGTH, LENGTH, DATA)
    call.update_room()
    is_full = not call.room.is_set()

    call.apply(
        call.speakers["ada"],
        TrackUpdate(processed_sample=0, recognised_sample=chunk_count * LENGTH),
    )

    assert is_full
    assert call.room.is_set()


def test_room_for_chunks(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client waits while more chunks than allowed are kept, however short they are."""
    monkeypatch.setattr(module, "MAX_RING_CHUNKS", 4)
    seen = []
    for sequence in (4, 5):
        call.receive("ada", sequence, 3 * LENGTH + sequence - 4, 1, bytes(2))
        call.update_room()
        seen.append(call.room.is_set())
    call.apply(call.speakers["ada"], TrackUpdate(processed_sample=LENGTH, recognised_sample=LENGTH))

    assert (*seen, call.room.is_set()) == (True, False, True)


def test_room_at_the_captioner(tmp_path: Path) -> None:
    """A client waits while the captioner takes nothing, also for what other calls have sent it."""
    is_free = False
    sink = AudioSink(send=lambda *_: None, end_speech=lambda _: None, has_room=lambda: is_free)
    call = Call("job", CaptionsSpec(model="base"), tmp_path, sink, max_log_bytes=LOG_BYTES)
    call.attach(Encoding.S16LE)
    call.receive("ada", 1, 0, LENGTH, DATA)
    call.update_room()
    is_held = not call.room.is_set()
    is_free = True
    call.update_room()

    assert is_held
    assert call.room.is_set()


def test_chunks_of_a_large_call(call: Call) -> None:
    """What a chunk costs does not depend on how many speakers a call has."""

    def cost(name: str) -> float:
        began = time.thread_time()
        for sequence in range(1, 1001):
            call.receive(name, sequence, sequence - 1, 1, bytes(2))
        return time.thread_time() - began

    few = min(cost(f"first{number}") for number in range(3))
    for number in range(module.MAX_SPEAKERS - 7):
        call.receive(f"speaker{number}", 1, 0, LENGTH, DATA)
    many = min(cost(f"last{number}") for number in range(3))

    assert many < 3 * few


class TestLog:
    """What the daemon writes down about a call."""

    def test_storm(self, call: Call, tmp_path: Path) -> None:
        """Who comes and goes a thousand times writes some notes; the others are counted."""
        for _ in range(1000):
            call.detach(call.attach(Encoding.S16LE))
        call.close()
        log = (tmp_path / WORKER_LOG).read_text()

        assert len(log.splitlines()) < 2 * MAX_BURST
        assert "notes are left out here" in log.splitlines()[-1]

    def test_length(self, tmp_path: Path) -> None:
        """It is no longer than other logs, and keeps what is newest."""
        notes = CallLog(tmp_path / "log.txt", max_bytes=LOG_BYTES)
        for number in range(MAX_BURST):
            notes.write(f"note {number} {'x' * 200}")
            assert (tmp_path / "log.txt").stat().st_size <= LOG_BYTES
        log = (tmp_path / "log.txt").read_text()

        assert "longer than allowed" in log
        assert f"note {MAX_BURST - 1} " in log.splitlines()[-1]
        assert "note 0 " not in log
