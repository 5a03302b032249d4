# SPDX-License-Identifier: Apache-2.0
"""Files of placed packets, as players and our own decoder understand them."""

import io
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callsd_worker.capture.ogg import OggOpusWriter, page_checksum
from callsd_worker.capture.timeline import STEP_SAMPLES, PlacedPacket
from callsd_worker.media.decode import Samples
from callsd_worker.media.opus_packet import packet_samples

from .sound import PACKET_SAMPLES, click_seconds, clicking, clicks, decoded, encoded


RATE_HZ = 48_000
EXACT_SECONDS = 0.001


def placed(packets: Sequence[bytes], position: int = 0) -> list[PlacedPacket]:
    """Packets one after the other, the first at `position`."""
    found = []
    for packet in packets:
        samples = packet_samples(packet)
        found.append(PlacedPacket(position=position, samples=samples, payload=packet))
        position += samples
    return found


def written(packets: Sequence[PlacedPacket]) -> bytes:
    """The file that has these packets."""
    file = io.BytesIO()
    writer = OggOpusWriter(file, serial=7)
    for packet in packets:
        writer.add(packet)
    writer.close()
    return file.getvalue()


def pages(data: bytes) -> list[tuple[int, int, int, list[bytes]]]:
    """(flags, granule, number, packets) of each page; every checksum is checked."""
    found, at = [], 0
    while at < len(data):
        magic, version, flags, granule, serial, number, checksum, segments = struct.unpack_from(
            "<4sBBqIIIB", data, at
        )
        assert (magic, version, serial) == (b"OggS", 0, 7)
        lacing = data[at + 27 : at + 27 + segments]
        body, packets, size = at + 27 + segments, [], 0
        for length in lacing:
            size += length
            if length < 255:
                packets.append(data[body : body + size])
                body, size = body + size, 0
        assert size == 0, "a packet goes on in the next page"
        page = data[at:body]
        assert slow_checksum(page[:22] + bytes(4) + page[26:]) == checksum
        found.append((flags, granule, number, packets))
        at = body
    return found


def slow_checksum(page: bytes) -> int:
    """As RFC 3533 has it, bit by bit."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x8000_0000 else 0)) & 0xFFFF_FFFF
    return value


def played(path: Path) -> Samples:
    """What ffmpeg plays, at 48 kHz."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-ac", "1", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert done.stderr == b""
    return np.frombuffer(done.stdout, dtype=np.float32)


class TestForm:
    """What the RFCs demand."""

    @given(st.binary(max_size=300))
    def test_checksum(self, page: bytes) -> None:
        """The quick checksum is that of RFC 3533."""
        assert page_checksum(page) == slow_checksum(page)

    def test_pages(self) -> None:
        """Two pages of headers, then about a second in each, with granules and marks of the ends.

        The samples of the granule are those of all packets up to the page's last one.
        """
        found = pages(written(placed(clicks(120))))
        head, tags, *sound = found

        assert head[3] == [struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 312, RATE_HZ, 0, 0)]
        assert tags[3][0].startswith(b"OpusTags")
        assert [page[1] for page in (head, tags)] == [0, 0]
        assert [page[2] for page in found] == list(range(len(found)))
        assert [page[0] for page in found] == [2, 0, 0, 0, 4]
        assert [page[1] for page in sound] == [48_000, 96_000, 115_200]
        assert [len(page[3]) for page in sound] == [50, 50, 20]

    def test_stereo(self) -> None:
        """Packets of two channels make a file of two channels, silence in it too."""
        sound = np.stack([clicking(50), np.zeros_like(clicking(50))], axis=1)
        packets = encoded(sound)
        data = written([*placed(packets[:25]), *placed(packets[25:], RATE_HZ)])
        with av.open(io.BytesIO(data), "r") as container:
            frames = list(container.decode(container.streams.audio[0]))

        assert {frame.layout.name for frame in frames} == {"stereo"}
        assert pages(data)[0][3][0][9] == 2

    def test_large_packets(self) -> None:
        """Packets of any size: pages are cut where their table of sizes is full."""
        packets = [b"\xf8" + bytes(1275)] * 120
        found = pages(written(placed(packets)))

        assert [packet for page in found[2:] for packet in page[3]] == packets
        assert max(len(page[3]) for page in found) <= 42

    def test_nothing(self) -> None:
        """Without a packet there is no file."""
        assert written([]) == b""


class TestPlaces:
    """Sound is where it was said."""

    @pytest.mark.parametrize("milliseconds", [2.5, 5, 10, 20, 40, 60])
    def test_lengths(self, tmp_path: Path, milliseconds: float) -> None:
        """Packets of every length, with holes: our decoder and ffmpeg find each click."""
        packets = placed(encoded(clicking(100), milliseconds=milliseconds))
        hole, cut = 3 * RATE_HZ + STEP_SAMPLES, round(1.2 * RATE_HZ)
        # The encoder of these tests looks less far ahead for short packets.
        ahead = 0.004 if milliseconds < 10 else 0.0
        late = [
            PlacedPacket(position=one.position + hole, samples=one.samples, payload=one.payload)
            for one in packets
            if one.position >= cut
        ]
        early = [one for one in packets if one.position < cut]
        (tmp_path / "a.ogg").write_bytes(written([*early, *late]))
        clicks_at = [0.01, 0.51, 1.01, 1.51 + hole / RATE_HZ]
        expected = [second - ahead for second in clicks_at]

        assert click_seconds(decoded(tmp_path / "a.ogg")) == pytest.approx(
            expected, abs=EXACT_SECONDS
        )
        assert click_seconds(played(tmp_path / "a.ogg"), RATE_HZ) == pytest.approx(
            expected, abs=EXACT_SECONDS
        )

    @pytest.mark.parametrize("application", ["voip", "audio"])
    @pytest.mark.parametrize("bit_rate", [8_000, 24_000, 64_000])
    def test_modes(self, tmp_path: Path, application: str, bit_rate: int) -> None:
        """In every mode of the codec holes are silent, and sound goes on at its place."""
        rng = np.random.default_rng(1)
        noise = (rng.standard_normal(100 * PACKET_SAMPLES) * 6000).clip(-30_000, 30_000)
        packets = encoded(
            noise.astype(np.int16), application=application, b=str(bit_rate), vbr="off"
        )
        packets = packets[:100]
        first = placed(packets[:50])
        second = placed(packets[50:], 2 * RATE_HZ)
        (tmp_path / "a.ogg").write_bytes(written([*first, *second]))
        sound = decoded(tmp_path / "a.ogg")
        milliseconds = np.abs(sound[:47_680]).reshape(-1, 8).max(axis=1)

        def at(begin: float, end: float) -> Samples:
            part: Samples = milliseconds[round(begin * 2000) : round(end * 2000)]
            return part

        assert np.median(at(0.1, 0.99)) > 0.05
        assert at(1.02, 1.99).max() < 1e-3
        assert np.median(at(2.02, 2.9)) > 0.05

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(min_value=0, max_value=30 * RATE_HZ), min_size=1, max_size=8))
    def test_holes_of_any_length(self, holes: list[int]) -> None:
        """Each packet is within 1.25 ms of its place, however many holes came before it."""
        packet = clicks(1)[0]
        positions, position = [], 0
        for hole in holes:
            positions.append(position)
            position += PACKET_SAMPLES + hole
        placed_packets = [
            PlacedPacket(position=one, samples=PACKET_SAMPLES, payload=packet) for one in positions
        ]
        found, granule = [], 0
        for _, page_granule, _, packets in pages(written(placed_packets))[2:]:
            for one in packets:
                if one == packet:
                    found.append(granule)
                samples = packet_samples(one)
                assert samples
                granule += samples
            assert granule == page_granule

        assert found == pytest.approx(positions, abs=STEP_SAMPLES / 2)

    def test_a_hole_of_two_days(self, tmp_path: Path) -> None:
        """A pause of any length is a small file, and our decoder skips nothing in it."""
        packets = clicks(50)
        hour = 3600 * RATE_HZ
        data = written([*placed(packets), *placed(packets, 2 * hour)])
        (tmp_path / "a.ogg").write_bytes(data)
        with av.open(tmp_path / "a.ogg") as container:
            seconds = float(container.duration or 0) / av.time_base
        two_days = written([*placed(packets), *placed(packets, 47 * hour)])

        assert seconds == pytest.approx(7201, abs=0.01)
        assert len(data) < 1_500_000
        assert len(two_days) < 30_000_000
        assert two_days[-4:] == data[-4:]

    def test_silence_is_silent(self) -> None:
        """Each length of silence that is written decodes to zeros, and lasts as long."""
        packet = clicks(1)[0]
        for hole in range(STEP_SAMPLES, 8 * PACKET_SAMPLES, STEP_SAMPLES):
            data = written([*placed([packet]), *placed([packet], PACKET_SAMPLES + hole)])
            with av.open(io.BytesIO(data), "r") as container:
                sound = np.concatenate(
                    [f.to_ndarray()[0] for f in container.decode(container.streams.audio[0])]
                )

            assert sound.size == hole + 2 * PACKET_SAMPLES - 312
            if hole > 2 * PACKET_SAMPLES:
                assert np.abs(sound[PACKET_SAMPLES + 240 : hole]).max() < 1e-4
