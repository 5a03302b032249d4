# SPDX-License-Identifier: Apache-2.0
"""Tracks as the captions baseline gets them: packets of 20 ms, as they would arrive.

A track begins with its speaker's first sound, and unless told otherwise a speaker mutes in pauses:
nothing arrives then. That is how the published figures were made, and it is kind: today's rules
throw away a window that has held 12 s of silence, and the words that begin in it.

Packets hold samples, not Opus. Decoding costs today's system half a percent of a core per speaker;
done from Python it would cost more, so it is left out, and so is what Opus does to the sound.
Run as a program, this prepares tracks: what that takes and loads is none of the baseline's.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callsd_bench.captions.baseline.window import SAMPLE_RATE_HZ, Run, Samples


PACKET_SAMPLES = 320
PACKET_SECONDS = PACKET_SAMPLES / SAMPLE_RATE_HZ
# 12 s of packets; the next one is dropped.
QUEUE_PACKETS = 600

# -60 dBFS: below it is the hiss of a codec, above it breath.
_SOUND_LEVEL = 1e-3
# People unmute before they speak.
_LEAD_PACKETS = 10
_INT16_SCALE = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Tracks to prepare: (file to read, stem of the files to write)."""

    tracks: list[tuple[str, str]]
    seconds: float | None
    """Only the beginning, if not None."""
    mute_after_seconds: float | None
    """A pause this long mutes the speaker; None: never."""


class PacketQueue:
    """The bounded queue between a speaker and the captioner.

    No thread fills it: which packets have arrived and found room follows from the time at which it
    is emptied.
    """

    def __init__(self, stem: Path) -> None:
        self._samples_path = stem.with_suffix(".s16")
        sent = np.fromfile(stem.with_suffix(".sent"), np.bool_)
        self._sent: NDArray[np.intp] = np.flatnonzero(sent)
        self.first_seconds: float | None = None
        """When the first packet is here; None if there is none."""
        if self._sent.size:
            self.first_seconds = (int(self._sent[0]) + 1) * PACKET_SECONDS
        self.packets_dropped = 0

    def drain(self, *, now_seconds: float) -> list[Run]:
        """All that is in the queue at this time of the call."""
        # A packet can leave when its last sample was spoken.
        arrived_count = int(np.searchsorted(self._sent, int(now_seconds / PACKET_SECONDS)))
        arrived, self._sent = self._sent[:arrived_count], self._sent[arrived_count:]
        self.packets_dropped += max(0, arrived_count - QUEUE_PACKETS)
        queued = arrived[:QUEUE_PACKETS]
        holes = np.flatnonzero(np.diff(queued) > 1) + 1
        return [self._read(run) for run in np.split(queued, holes) if run.size]

    def _read(self, packets: NDArray[np.intp]) -> Run:
        start_sample = int(packets[0]) * PACKET_SAMPLES
        samples = np.fromfile(
            self._samples_path,
            np.int16,
            count=packets.size * PACKET_SAMPLES,
            offset=start_sample * np.dtype(np.int16).itemsize,
        )
        scaled = samples.astype(np.float32) / np.float32(_INT16_SCALE)
        return Run(start_sample=start_sample, samples=scaled)


def packets_sent(samples: Samples, *, mute_after_seconds: float | None) -> NDArray[np.bool_]:
    """Which of a track's whole packets leave the speaker."""
    count = len(samples) // PACKET_SAMPLES
    peaks = np.abs(samples[: count * PACKET_SAMPLES]).reshape(count, PACKET_SAMPLES).max(axis=1)
    packets = np.arange(count)
    sounding = peaks > _SOUND_LEVEL
    far = 2 * count + _LEAD_PACKETS
    before = np.maximum.accumulate(np.where(sounding, packets, -far))
    after = np.minimum.accumulate(np.where(sounding, packets, far)[::-1])[::-1]
    since_packets = packets - before
    leading: NDArray[np.bool_] = after - packets <= _LEAD_PACKETS
    if mute_after_seconds is None:
        return leading | (before >= 0)
    return leading | (since_packets <= round(mute_after_seconds / PACKET_SECONDS))


def write_packets(samples: Samples, stem: Path, *, mute_after_seconds: float | None) -> None:
    """Leave a track where a `PacketQueue` reads it."""
    sent = packets_sent(samples, mute_after_seconds=mute_after_seconds)
    sent.tofile(stem.with_suffix(".sent"))
    pcm = np.clip(np.rint(samples * _INT16_SCALE), -_INT16_SCALE, _INT16_SCALE - 1)
    pcm.astype(np.int16).tofile(stem.with_suffix(".s16"))


def main() -> None:
    """Prepare the tracks of the request on stdin; answer with the longest, in seconds."""
    from callsd_worker.media.decode import AudioStream

    preparation = Preparation(**json.loads(sys.stdin.buffer.read()))
    longest_seconds = 0.0
    for source, stem in preparation.tracks:
        with AudioStream(Path(source)) as stream:
            blocks = list(stream.blocks())
            length = stream.position_samples
        track = np.zeros(length, np.float32)
        for block in blocks:
            track[block.start_sample : block.start_sample + len(block.samples)] = block.samples
        if preparation.seconds is not None:
            track = track[: round(preparation.seconds * SAMPLE_RATE_HZ)]
        write_packets(track, Path(stem), mute_after_seconds=preparation.mute_after_seconds)
        longest_seconds = max(longest_seconds, len(track) / SAMPLE_RATE_HZ)
    sys.stdout.write(json.dumps({"longest_seconds": longest_seconds}))


if __name__ == "__main__":
    main()
