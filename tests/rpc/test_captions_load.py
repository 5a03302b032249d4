# SPDX-License-Identifier: Apache-2.0
"""Much sound, fast sound, endless sound, and sound that is no speech."""

import itertools
import logging
import re

import numpy as np
import psutil
import pytest

from callsd.v1.caption_pb2 import SPEAKER_EVENT_TYPE_MUTED, AudioChunk, SpeakerEvent
from callsd_worker.media.decode import SAMPLE_RATE_HZ
from tests.helpers.api import Api
from tests.helpers.captions import (
    CAPTIONER,
    Sender,
    Viewer,
    end_call,
)
from tests.helpers.daemon import Daemon
from tests.helpers.speech import (
    Pcm,
    chunks,
    errors,
    seconds,
    speech,
    track,
)
from tests.helpers.waiting import eventually


log = logging.getLogger(__name__)

MIB = 1024 * 1024
LARGE_SAMPLES = 16_384
"""32 KiB, the most in a chunk."""

NINA_TEXT = "One question for the notes. Did any customer complain, or did we notice it first?"


def processes(live: Daemon) -> tuple[psutil.Process, psutil.Process]:
    """The daemon and the captioner."""
    assert live.process is not None
    return psutil.Process(live.process.pid), psutil.Process(live.worker(CAPTIONER))


def memory_bytes(live: Daemon) -> int:
    """What both have in memory."""
    return sum(process.memory_info().rss for process in processes(live))


def cpu_seconds(live: Daemon) -> float:
    """What both have used of the processors."""
    times = [process.cpu_times() for process in processes(live)]
    return sum(time.user + time.system for time in times)


def silence(speaker: str, length_seconds: int, *, first_sequence: int = 1) -> list[AudioChunk]:
    """Zeros in the largest chunks."""
    samples: Pcm = np.zeros(length_seconds * SAMPLE_RATE_HZ, dtype="<i2")
    return chunks(speaker, samples, first_sequence=first_sequence, chunk_samples=LARGE_SAMPLES)


def mute(sender: Sender, speaker: str) -> None:
    """Say that a speaker has ended."""
    sender.send(event=SpeakerEvent(speaker=speaker, type=SPEAKER_EVENT_TYPE_MUTED))


def voiced(length_seconds: int) -> Pcm:
    """Speech without any pause that a listener would take for one."""
    parts = [
        part
        for speaker in ("kenji", "joe", "maya")
        for part in np.array_split(track(speaker), track(speaker).size // 1600)
        if np.abs(part.astype(np.float32)).mean() > 300
    ]
    endless = np.concatenate(parts)
    return np.resize(endless, length_seconds * SAMPLE_RATE_HZ).astype("<i2")


def test_two_hundred_speakers(live: Daemon, live_api: Api, call: str) -> None:
    """200 speakers in a call, 20 of whom say the same at once: each is heard, memory is bounded."""
    before = memory_bytes(live)
    said = speech("nina", 0.7, 6.4)
    talkers = [f"talker {number}" for number in range(20)]
    listeners = [f"listener {number}" for number in range(180)]
    pieces = [chunks(name, said) for name in talkers]
    pieces += [chunks(name, np.zeros_like(said)) for name in listeners]
    with Viewer(live_api, call, finals_only=True) as viewer, Sender(live_api, call) as sender:
        sender.push(itertools.chain.from_iterable(zip(*pieces, strict=True)))
        for name in (*talkers, *listeners):
            sender.wait_received(name, len(pieces[0]))
        for name in talkers:
            mute(sender, name)
        most = memory_bytes(live)
        sender.wait_worked_off()
        most = max(most, memory_bytes(live))
        result = end_call(live, live_api, call).captions_result
        viewer.join()

    assert {caption.speaker for caption in viewer.finals} == set(talkers)
    assert max(errors(NINA_TEXT, viewer.text(name)) for name in talkers) <= 3
    assert result.speaker_count == 200
    assert seconds(result.skipped_duration) == 0
    # 18 MiB of sound came; what is taken for each speaker is some of it as floats, and a detector.
    assert most - before < 200 * MIB


def test_faster_than_real_time(live: Daemon, live_api: Api, call: str) -> None:
    """A minute pushed at once is captioned whole; the sender is made to wait instead of dropped."""
    before = memory_bytes(live)
    with Viewer(live_api, call, finals_only=True) as viewer, Sender(live_api, call) as sender:
        said = chunks("kenji", np.resize(speech("kenji", 26, 57), 62 * SAMPLE_RATE_HZ))
        sender.push(said)
        most = 0

        def is_received() -> bool:
            nonlocal most
            most = max(most, memory_bytes(live))
            ack = sender.acks.get("kenji")
            return ack is not None and ack.received_sequence == len(said)

        eventually(is_received, "all is received", seconds=60)
        result = end_call(live, live_api, call).captions_result
        viewer.join()

    once = (
        "There is one more thing that worries me. We only found the problem because the queue was "
        "long. If the jobs had failed quietly, we would not have known until the morning. "
        "Two numbers. The age of the oldest job in the queue, and the share of jobs that needed "
        "more than one try. If either of them goes above the normal range for five minutes, "
        "somebody should get a message."
    )
    assert errors(f"{once} {once}", viewer.text("kenji")) <= 0.15 * 2 * len(once.split())
    assert seconds(result.skipped_duration) == 0
    assert seconds(result.audio_duration) == pytest.approx(62)
    assert sender.processed == sorted(sender.processed)
    assert len(set(sender.processed)) >= 2
    assert most - before < 100 * MIB


def test_hour_of_silence(live: Daemon, live_api: Api, call: str) -> None:
    """An hour of nothing is worked off in no time, for next to nothing, and shows nothing."""
    before, used = memory_bytes(live), cpu_seconds(live)
    with Viewer(live_api, call) as viewer, Sender(live_api, call) as sender:
        said = silence("ada", 3600)
        sender.push(said)
        sender.wait_received("ada", len(said))
        mute(sender, "ada")
        sender.wait_worked_off()
        after = memory_bytes(live)

        assert seconds(sender.acks["ada"].processed_offset) == pytest.approx(3600, abs=1)
        assert not viewer.captions
    cost = cpu_seconds(live) - used
    log.info("an hour of silence: %.1f CPU-s", cost)
    assert cost < 20
    assert after - before < 60 * MIB


def test_music_and_noise(live: Daemon, live_api: Api, call: str) -> None:
    """What is no speech costs no crash, and makes no text that goes on and on."""
    chance = np.random.default_rng(5)
    time = np.arange(20 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    beat = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 2 * time))
    chord = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277.2, 329.6, 440))
    sounds = {
        "music": 4000 * beat * chord,
        "noise": 3000 * chance.standard_normal(time.size),
        "clipped": 32767 * np.sign(np.sin(2 * np.pi * 150 * time)),
    }
    captioner = live.worker(CAPTIONER)
    with Viewer(live_api, call, finals_only=True) as viewer, Sender(live_api, call) as sender:
        for name, samples in sounds.items():
            said = chunks(name, np.clip(samples, -32768, 32767).astype("<i2"))
            sender.push(said)
            sender.wait_received(name, len(said))
            mute(sender, name)
        sender.wait_worked_off()
        assert live.worker(CAPTIONER) == captioner
        end_call(live, live_api, call)
        viewer.join()

    for name in sounds:
        text = viewer.text(name)
        # Nobody says more than 4 words in a second, nor the same five times over.
        assert len(text.split()) <= 80, text
        assert not re.search(r"\b(\w+(?:\W+\w+){0,4}?)(?:\W+\1\b){4}", text.lower()), text


def test_endless_speech(live: Daemon, live_api: Api, call: str) -> None:
    """Who never pauses is captioned all along, not at the end."""
    with Viewer(live_api, call, finals_only=True) as viewer, Sender(live_api, call) as sender:
        said = chunks("ada", voiced(40))
        sender.play(said, speed=4.0)
        sender.wait_received("ada", len(said))
        end_call(live, live_api, call)
        viewer.join()

    finals = viewer.finals
    ends = [0.0, *(seconds(final.end_offset) for final in finals)]
    assert len(finals) >= 3
    assert max(b - a for a, b in itertools.pairwise(ends)) < 20
    assert ends[-1] > 30
    assert len(viewer.text("ada").split()) > 60
