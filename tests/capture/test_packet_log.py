# SPDX-License-Identifier: Apache-2.0
"""Logs of packets: what is on the disk when the capture dies, and what is read of it."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callsd_worker.capture import packet_log
from callsd_worker.capture.call import Packet, SenderReport, Speaker
from callsd_worker.capture.log_reader import Damage, read
from callsd_worker.capture.packet_log import (
    MAX_PAYLOAD_BYTES,
    MAX_TRACKS,
    MAX_WAITING_BYTES,
    Mark,
    PacketLogs,
    Record,
    RecordingStart,
    TrackInfo,
)


# Examples may share the directory: each writes its file anew.
IN_A_DIRECTORY: Any = {
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "deadline": None,
}
ADA = Speaker(session_id="s1", user_id="u1", name="Ada Ä 🎤")
TRACK = "voice_s1_abc"
INFO = TrackInfo(track_id=TRACK, speaker=ADA)


def packet(number: int, payload: bytes = b"\xf8abc") -> Packet:
    """One that can be told from others."""
    return Packet(
        sequence=number % 65_536,
        timestamp=number * 960,
        payload=payload,
        arrival_seconds=1_700_000_000 + number / 50,
    )


def report(number: int) -> SenderReport:
    """Likewise."""
    return SenderReport(timestamp=number, ntp_seconds=number + 0.5, arrival_seconds=number + 0.6)


def records(path: Path) -> list[Record]:
    """All of a log, and nothing is damaged."""
    damage = Damage()
    found = list(read(path, damage))
    assert damage.size_bytes == 0
    return found


@pytest.fixture
def logs(tmp_path: Path) -> PacketLogs:
    """Logs of a call with one track."""
    found = PacketLogs(tmp_path)
    assert found.track(TRACK, ADA)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Its file."""
    return tmp_path / "track-000.packets"


class TestWriting:
    """What comes is what is read."""

    def test_everything(self, logs: PacketLogs, path: Path) -> None:
        """Records of all kinds are read as they were written, in their order."""
        logs.packet(TRACK, packet(1))
        logs.sender_report(TRACK, report(2))
        logs.packet(TRACK, packet(3, b""))
        logs.muted("s1")
        logs.recording_started(1_700_000_001.25)
        logs.packet(TRACK, packet(4, bytes(range(250)) * 6))
        logs.track_ended(TRACK)
        logs.close()

        assert records(path) == [
            INFO,
            packet(1),
            report(2),
            packet(3, b""),
            Mark.MUTED,
            RecordingStart(time_seconds=1_700_000_001.25),
            packet(4, bytes(range(250)) * 6),
            Mark.ENDED,
        ]

    def test_more_is_known(self, logs: PacketLogs, path: Path) -> None:
        """A name that is learned later is written when it is; the same again is not."""
        named = Speaker(session_id="s1", user_id="u1", name="Ada Lovelace")
        for speaker in (named, named):
            logs.track(TRACK, speaker)
        logs.close()

        assert records(path) == [INFO, TrackInfo(track_id=TRACK, speaker=named)]

    def test_a_start_that_came_before(self, tmp_path: Path) -> None:
        """The recording's start is in the logs of tracks that begin after it, too."""
        logs = PacketLogs(tmp_path)
        logs.recording_started(5.0)
        logs.track("late", ADA)
        logs.close()

        assert RecordingStart(time_seconds=5.0) in records(tmp_path / "track-000.packets")

    def test_what_is_refused(self, logs: PacketLogs, path: Path) -> None:
        """Payloads that no datagram has, and packets of unknown tracks, are counted and dropped."""
        logs.packet(TRACK, packet(1, bytes(MAX_PAYLOAD_BYTES + 1)))
        logs.packet("another", packet(2))
        logs.packet(TRACK, packet(3, bytes(MAX_PAYLOAD_BYTES)))
        logs.sender_report("another", report(1))
        logs.track_ended("another")
        logs.muted("another")
        logs.close()

        assert records(path) == [INFO, packet(3, bytes(MAX_PAYLOAD_BYTES))]
        assert logs.refused_packets == 2

    def test_a_track_that_never_ends(
        self, logs: PacketLogs, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A log does not grow beyond its limit."""
        monkeypatch.setattr(packet_log, "MAX_LOG_BYTES", 10_000)
        for number in range(1000):
            logs.packet(TRACK, packet(number))
        logs.close()

        assert path.stat().st_size < 10_100
        assert logs.refused_packets == 1000 - (len(records(path)) - 1)

    def test_how_many_tracks(self, tmp_path: Path) -> None:
        """256 tracks, as in Mattermost; no more, and those that are there go on."""
        logs = PacketLogs(tmp_path)
        accepted = [logs.track(f"t{number}", ADA) for number in range(MAX_TRACKS + 2)]
        assert logs.track("t0", ADA)
        logs.close()

        assert accepted == [True] * MAX_TRACKS + [False] * 2
        assert len(list(tmp_path.iterdir())) == MAX_TRACKS

    def test_long_names(self, tmp_path: Path) -> None:
        """Identifiers and names of any length and of any characters do not spoil a log."""
        logs = PacketLogs(tmp_path)
        logs.track("🎤" * 1000, Speaker(session_id="\x00" * 999, user_id="\ud800", name="🎤" * 999))
        logs.packet("🎤" * 1000, packet(1))
        logs.close()
        info, sound = records(tmp_path / "track-000.packets")

        assert isinstance(info, TrackInfo)
        assert info.speaker.name == "🎤" * 256
        assert info.speaker.user_id == "?"
        assert sound == packet(1)

    def test_after_others(self, logs: PacketLogs, path: Path, tmp_path: Path) -> None:
        """A capture that begins again in the same directory touches no log of the one before."""
        logs.close()
        before = path.read_bytes()
        again = PacketLogs(tmp_path)
        again.track(TRACK, ADA)
        again.close()

        assert path.read_bytes() == before
        assert records(tmp_path / "track-001.packets") == [INFO]


class TestDeath:
    """The capture is killed."""

    def test_kill(self, tmp_path: Path) -> None:
        """After SIGKILL all that was flushed is there, and can be read."""
        script = """
import sys, time
from pathlib import Path
from callsd_worker.capture.call import Packet, Speaker
from callsd_worker.capture.packet_log import PacketLogs
logs = PacketLogs(Path(sys.argv[1]))
logs.track("t", Speaker(session_id="s"))
for number in range(1, 1_000_000_000):
    logs.packet("t", Packet(sequence=number % 65536, timestamp=0, payload=b"abc",
                            arrival_seconds=float(number)))
    if number % 10 == 0:
        logs.flush()
        print(number, flush=True)
"""
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            flushed = 0
            for _ in range(200):
                flushed = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        _, *found = records(tmp_path / "track-000.packets")

        assert len(found) >= flushed
        assert [one.arrival_seconds for one in found if isinstance(one, Packet)] == [
            float(number) for number in range(1, len(found) + 1)
        ]

    def test_any_byte(self, logs: PacketLogs, path: Path) -> None:
        """A log that ends at any byte has all records that are whole, and is not called damaged."""
        written = [packet(number, bytes(number)) for number in range(5)]
        for one in written:
            logs.packet(TRACK, one)
        logs.close()
        data = path.read_bytes()
        expected = [INFO, *written]
        counts = []
        for end in range(len(data) + 1):
            path.write_bytes(data[:end])
            found = records(path)
            assert found == expected[: len(found)]
            counts.append(len(found))

        assert counts == sorted(counts)
        assert counts[-1] == len(expected)


class TestDamage:
    """What is read is not what was written."""

    @settings(**IN_A_DIRECTORY)
    @given(at=st.integers(min_value=0, max_value=399), junk=st.binary(min_size=1, max_size=64))
    def test_in_the_middle(self, tmp_path: Path, at: int, junk: bytes) -> None:
        """Damage costs the records that it touches; all others are read, and it is told."""
        for old in tmp_path.iterdir():
            old.unlink()
        logs = PacketLogs(tmp_path)
        logs.track(TRACK, ADA)
        written = [packet(number, bytes([number]) * 20) for number in range(40)]
        for one in written:
            logs.packet(TRACK, one)
        logs.close()
        path = tmp_path / "track-000.packets"
        data = bytearray(path.read_bytes())
        before = bytes(data)
        data[at : at + len(junk)] = junk
        path.write_bytes(data)
        damage = Damage()
        found = list(read(path, damage))
        lost = 41 - len(found)

        assert [one for one in found if one in [INFO, *written]] == found
        assert lost <= 1 + (len(junk) + 170) // 43
        assert (damage.size_bytes > 0) == (lost > 0)
        assert found[-20:] == written[-20:]
        assert lost == 0 or before != bytes(data)

    @settings(max_examples=300, **IN_A_DIRECTORY)
    @given(st.lists(st.one_of(st.binary(max_size=40), st.just(packet_log.MAGIC)), max_size=50))
    def test_garbage(self, tmp_path: Path, parts: list[bytes]) -> None:
        """Any bytes at all are read without an error."""
        path = tmp_path / "log"
        path.write_bytes(b"".join(parts))

        assert list(read(path)) == []

    @settings(max_examples=300, **IN_A_DIRECTORY)
    @given(
        kind=st.integers(0, 255),
        body=st.one_of(st.binary(max_size=2000), st.text().map(str.encode)),
    )
    def test_bodies(self, tmp_path: Path, kind: int, body: bytes) -> None:
        """Records whose checksum is right may hold anything; what is read is within bounds."""
        summed = packet_log.CHECKED.pack(len(body), kind) + body
        checksum = zlib.crc32(summed).to_bytes(4, "little")
        path = tmp_path / "log"
        path.write_bytes(packet_log.MAGIC + checksum + summed)
        for one in read(path):
            if isinstance(one, Packet):
                assert 0 <= one.arrival_seconds < 1 << 33
                assert len(one.payload) <= MAX_PAYLOAD_BYTES

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"{}",
            b'{"name": 5}',
            b'{"name": "%s"}' % (b"x" * 300),
            b"[" * 9000,
            b"\xff",
        ],
    )
    def test_facts(self, path: Path, body: bytes) -> None:
        """What is said of a track is text of a bounded length, or is left out."""
        path.write_bytes(packet_log._record(packet_log.Kind.TRACK, body))
        found = list(read(path))

        assert found == (
            [TrackInfo(track_id="", speaker=Speaker(session_id=""))] if body == b"{}" else []
        )

    def test_magic_everywhere(self, path: Path) -> None:
        """A megabyte of beginnings without an end is passed over in seconds."""
        path.write_bytes(packet_log.MAGIC * (1 << 19))
        began = time.process_time()

        assert list(read(path)) == []
        assert time.process_time() - began < 10

    def test_no_file(self, path: Path, tmp_path: Path) -> None:
        """Links and pipes are refused, and nothing waits for them."""
        (tmp_path / "real").write_bytes(b"")
        path.symlink_to(tmp_path / "real")
        with pytest.raises(OSError, match="symbolic"):
            list(read(path))
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(OSError, match="not a regular file"):
            list(read(path))


class TestFullDisk:
    """The disk is full."""

    @pytest.fixture
    def fill(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
        """Let only so many bytes more be written; None: any number."""
        left: list[int | None] = [None]
        write = os.write

        def limited(descriptor: int, data: bytes) -> int:
            if left[0] is None:
                return write(descriptor, data)
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(descriptor, bytes(data)[: left[0]])
            left[0] -= written
            return written

        monkeypatch.setattr(os, "write", limited)

        def fill(size_bytes: int | None) -> None:
            left[0] = size_bytes

        return fill

    def test_told_once(
        self, logs: PacketLogs, path: Path, fill: Callable[[int | None], None]
    ) -> None:
        """It is raised once; nothing half written stays; when there is space again it goes on."""
        logs.packet(TRACK, packet(1))
        logs.flush()
        size = path.stat().st_size
        fill(20)
        logs.packet(TRACK, packet(2))
        with pytest.raises(OSError, match="No space"):
            logs.flush()
        assert path.stat().st_size == size
        logs.packet(TRACK, packet(3))
        logs.flush()
        fill(None)
        logs.packet(TRACK, packet(4))
        logs.close()

        assert records(path) == [INFO, packet(1), INFO, packet(4)]
        assert logs.lost_packets == 2

    def test_from_the_beginning(
        self, logs: PacketLogs, path: Path, fill: Callable[[int | None], None]
    ) -> None:
        """What is known of the track is written later, when it could not be at first."""
        fill(0)
        logs.recording_started(7.0)
        logs.packet(TRACK, packet(1))
        with pytest.raises(OSError, match="No space"):
            logs.flush()
        fill(None)
        logs.packet(TRACK, packet(2))
        logs.close()

        assert records(path) == [INFO, RecordingStart(time_seconds=7.0), packet(2)]

    def test_others_go_on(
        self, logs: PacketLogs, tmp_path: Path, fill: Callable[[int | None], None]
    ) -> None:
        """All tracks are written before one that cannot be is told."""
        logs.track("second", ADA)
        (tmp_path / "track-000.packets").mkdir()
        with pytest.raises(OSError, match="exists"):
            logs.flush()

        assert len(records(tmp_path / "track-001.packets")) == 1

    def test_a_buffer_that_is_full(
        self, logs: PacketLogs, fill: Callable[[int | None], None]
    ) -> None:
        """Packets never raise, and do not gather without bound when nobody flushes."""
        fill(0)
        for number in range(10_000):
            logs.packet(TRACK, packet(number, bytes(1000)))
        refused = logs.refused_packets
        with pytest.raises(OSError, match="No space"):
            logs.flush()

        assert logs.lost_packets + refused == 10_000
        assert logs.lost_packets <= MAX_WAITING_BYTES // 1000


class TestBesides:
    """Packets come while another thread writes."""

    def test_none_is_lost(self, logs: PacketLogs, path: Path) -> None:
        """Whatever comes while is written is written next, in order, and once."""
        done, written, problems = threading.Event(), threading.Event(), list[BaseException]()

        def flush() -> None:
            try:
                while not done.is_set():
                    logs.flush()
                    written.set()
            except BaseException as problem:  # noqa: BLE001 - told by the test
                problems.append(problem)

        writer = threading.Thread(target=flush)
        writer.start()
        for number in range(20_000):
            logs.packet(TRACK, packet(number))
            if number % 100 == 0:
                logs.track(f"track {number}", ADA)
            if number % 1000 == 0:  # a real writer is faster than anybody speaks
                written.clear()
                assert written.wait(30)
        done.set()
        writer.join(30)
        logs.close()

        assert not problems
        sound = [one for one in records(path) if isinstance(one, Packet)]
        assert sound == [packet(number) for number in range(20_000)]
        assert (logs.lost_packets, logs.refused_packets) == (0, 0)

    def test_a_disk_that_hangs(
        self, logs: PacketLogs, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Packets do not wait for it; what gathers is bounded, and what is beyond is counted."""
        write, entered, release = os.write, threading.Event(), threading.Event()

        def hanging(descriptor: int, data: bytes) -> int:
            entered.set()
            assert release.wait(30)
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", hanging)
        writer = threading.Thread(target=logs.flush)
        writer.start()
        assert entered.wait(30)
        for number in range(10_000):
            logs.packet(TRACK, packet(number, bytes(100)))
        refused = logs.refused_packets
        release.set()
        writer.join(30)
        logs.flush()
        logs.packet(TRACK, packet(10_000))
        logs.close()

        kept = [one for one in records(path) if isinstance(one, Packet)]
        assert MAX_WAITING_BYTES / 150 < len(kept) < MAX_WAITING_BYTES / 100
        assert len(kept) + refused == 10_001
        assert kept[-1] == packet(10_000)

    def test_nobody_else_writes(
        self, logs: PacketLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one track's write hangs, packets of another one do not wait for the disk either."""
        logs.track("second", ADA)
        write, entered, release = os.write, threading.Event(), threading.Event()
        writers: set[threading.Thread] = set()

        def hanging(descriptor: int, data: bytes) -> int:
            writers.add(threading.current_thread())
            entered.set()
            assert release.wait(30)
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", hanging)
        writer = threading.Thread(target=logs.flush)
        writer.start()
        assert entered.wait(30)
        for number in range(1000):
            logs.packet("second", packet(number, bytes(1000)))
        named = Speaker(session_id="s1", user_id="u1", name="Ada Lovelace")
        logs.track("second", named)
        release.set()
        writer.join(30)
        assert writers == {writer}
        logs.close()

        found = records(tmp_path / "track-001.packets")
        sound = [one for one in found if isinstance(one, Packet)]
        assert MAX_WAITING_BYTES / 1100 < len(sound) < MAX_WAITING_BYTES / 1000
        assert len(sound) + logs.refused_packets == 1000
        assert found[-1] == TrackInfo(track_id="second", speaker=named)


def test_cost(tmp_path: Path) -> None:
    """A packet costs far below 200 µs: a speaker, at 50 a second, below a hundredth of a core."""
    logs = PacketLogs(tmp_path)
    logs.track(TRACK, ADA)
    written = [packet(number, bytes(80)) for number in range(20_000)]
    began = time.process_time()
    for number, one in enumerate(written):
        logs.packet(TRACK, one)
        if number % 10 == 0:
            logs.flush()
    logs.close()

    assert (time.process_time() - began) / 20_000 < 50e-6
