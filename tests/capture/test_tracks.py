# SPDX-License-Identifier: Apache-2.0
"""A call that was captured becomes a file for each track."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd_worker.capture import tracks
from callsd_worker.capture.call import Packet, SenderReport, Speaker
from callsd_worker.capture.ogg import OggOpusWriter
from callsd_worker.capture.packet_log import PacketLogs
from callsd_worker.capture.timeline import PlacedPacket
from callsd_worker.capture.tracks import finish

from .sender import BEGIN_SECONDS, Network, Sent, Spurt, number_of, send
from .sound import click_seconds, clicks, decoded


ADA = Speaker(session_id="s1", user_id="u1", name="Ada")
BOB = Speaker(session_id="s2", user_id="u2", name="Bob")
DELAY_SECONDS = 0.03


def capture(directory: Path, sent: dict[str, tuple[Speaker, Sent]], packets: list[bytes]) -> None:
    """Write logs of what was sent, with `packets` as its sound."""
    directory.mkdir(exist_ok=True)
    logs = PacketLogs(directory)
    for track_id, (speaker, one) in sent.items():
        logs.track(track_id, speaker)
        for record in one.records:
            if isinstance(record, SenderReport):
                logs.sender_report(track_id, record)
            elif isinstance(record, Packet):
                sound = record.payload and packets[number_of(record.payload) % len(packets)]
                logs.packet(
                    track_id,
                    Packet(
                        sequence=record.sequence,
                        timestamp=record.timestamp,
                        payload=sound,
                        arrival_seconds=record.arrival_seconds,
                    ),
                )
    logs.close()


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Sound with a click in every 25th packet."""
    return clicks(800)


class TestSound:
    """What was said is in the file, when it was said."""

    def test_a_call(self, tmp_path: Path, packets: list[bytes]) -> None:
        """With mutes, jitter, loss and numbers that wrap around, each click is where it was."""
        said = [Spurt(pause_seconds=pause, packets=200) for pause in (1.5, 2.04, 8.03, 15.03)]
        network = Network(jitter_seconds=0.1, loss=0.02, has_reports=True)
        sent = send(said, network)
        capture(tmp_path / "logs", {"voice_s1_a": (ADA, sent)}, packets)
        (track,) = finish(tmp_path / "logs", tmp_path / "artifacts")
        expected = [
            sent.said_seconds[number] + DELAY_SECONDS + 0.01
            for numbers in sent.spurts
            for number in numbers
            if number % 25 == 0
        ]
        found = [
            track.start_seconds + second
            for second in click_seconds(decoded(tmp_path / "artifacts" / track.file_name))
        ]

        assert len(found) == len(expected) >= 28
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 0.06
        assert track.start_seconds == pytest.approx(BEGIN_SECONDS + 1.5 + DELAY_SECONDS, abs=0.06)
        assert track.duration_seconds == pytest.approx(2.04 + 8.03 + 15.03 + 16, abs=0.06)
        assert (track.track_id, track.session_id, track.user_id, track.name) == (
            "voice_s1_a",
            "s1",
            "u1",
            "Ada",
        )
        assert (track.problem, track.recording_start_seconds) == ("", None)

    def test_several(self, tmp_path: Path, packets: list[bytes]) -> None:
        """A file for each track with sound, also of one person; each begins with its sound."""
        one = send([Spurt(pause_seconds=2, packets=50)], Network())
        other = send([Spurt(pause_seconds=7, packets=100)], Network())
        silent = send([], Network())
        sent = {"a": (ADA, one), "b": (BOB, silent), "c": (ADA, other), "d": (BOB, other)}
        capture(tmp_path / "logs", sent, packets)
        found = finish(tmp_path / "logs", tmp_path / "artifacts")

        assert [(track.file_name, track.track_id, track.name) for track in found] == [
            ("track-000.ogg", "a", "Ada"),
            ("track-002.ogg", "c", "Ada"),
            ("track-003.ogg", "d", "Bob"),
        ]
        begins = [track.start_seconds - BEGIN_SECONDS - DELAY_SECONDS for track in found]
        assert begins == pytest.approx([2, 7, 7], abs=0.001)
        assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == [
            track.file_name for track in found
        ]

    def test_again(self, tmp_path: Path, packets: list[bytes]) -> None:
        """When it is repeated, as after a crash, it comes to the same."""
        sent = send([Spurt(pause_seconds=0, packets=200)], Network(jitter_seconds=0.1))
        capture(tmp_path / "logs", {"a": (ADA, sent)}, packets)
        (tmp_path / "artifacts").mkdir()
        (tmp_path / "artifacts" / ".track-000.ogg.part").write_bytes(b"left behind")
        first = finish(tmp_path / "logs", tmp_path / "artifacts")
        data = (tmp_path / "artifacts" / "track-000.ogg").read_bytes()

        assert finish(tmp_path / "logs", tmp_path / "artifacts") == first
        assert (tmp_path / "artifacts" / "track-000.ogg").read_bytes() == data


class TestProblems:
    """Something is wrong with one track."""

    @pytest.fixture
    def logs(self, tmp_path: Path, packets: list[bytes]) -> Path:
        """Logs of three tracks."""
        sent = send([Spurt(pause_seconds=0, packets=200)], Network())
        capture(tmp_path, dict.fromkeys("abc", (ADA, sent)), packets)
        return tmp_path

    def test_damage(self, logs: Path) -> None:
        """Damage in the middle of a log is told, and the rest of it is used."""
        log = logs / "track-001.packets"
        data = bytearray(log.read_bytes())
        data[2000:2100] = bytes(100)
        log.write_bytes(data)
        found = finish(logs, logs / "artifacts")

        assert [bool(track.problem) for track in found] == [False, True, False]
        assert "damaged" in found[1].problem
        assert found[1].duration_seconds == 4

    def test_a_log_that_cannot_be_read(self, logs: Path) -> None:
        """It is told, without a file, and the others have theirs."""
        (logs / "track-001.packets").unlink()
        (logs / "track-001.packets").symlink_to("/etc/passwd")
        found = finish(logs, logs / "artifacts")

        assert [track.file_name for track in found] == ["track-000.ogg", "", "track-002.ogg"]
        assert "could not be saved" in found[1].problem

    def test_a_log_of_garbage(self, logs: Path) -> None:
        """What is no log at all has no sound, and is left out."""
        (logs / "track-001.packets").write_bytes(os.urandom(100_000))
        found = finish(logs, logs / "artifacts")

        assert [track.track_id for track in found] == ["a", "c"]

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("bug")])
    def test_a_file_that_cannot_be_written(
        self, logs: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """No half file stays, whatever went wrong, and the others are made."""

        class Failing(OggOpusWriter):
            """Fails in the middle of the second track."""

            def add(self, packet: PlacedPacket) -> None:
                """As the real one."""
                if self._serial == 1 and self.samples > 48_000:
                    raise error
                super().add(packet)

        monkeypatch.setattr(tracks, "OggOpusWriter", Failing)
        found = finish(logs, logs / "artifacts")

        assert [track.file_name for track in found] == ["track-000.ogg", "", "track-002.ogg"]
        assert "could not be saved" in found[1].problem
        assert found[1].track_id == "b"
        assert sorted(path.name for path in (logs / "artifacts").iterdir()) == [
            "track-000.ogg",
            "track-002.ogg",
        ]

    def test_no_logs(self, tmp_path: Path) -> None:
        """Nobody has spoken."""
        assert finish(tmp_path, tmp_path / "artifacts") == []


def test_an_hour(tmp_path: Path, packets: list[bytes]) -> None:
    """An hour of one speaker takes a few seconds of one core."""

    def hour() -> Iterator[Packet]:
        for number in range(180_000):
            yield Packet(
                sequence=number % 65_536,
                timestamp=number * 960 % (1 << 32),
                payload=packets[number % 800],
                arrival_seconds=BEGIN_SECONDS + number * 0.02 + number * 37 % 11 / 100,
            )

    logs = PacketLogs(tmp_path)
    logs.track("a", ADA)
    for packet in hour():
        logs.packet("a", packet)
        if packet.sequence % 10 == 0:
            logs.flush()
    logs.close()
    began = time.process_time()
    (track,) = finish(tmp_path, tmp_path / "artifacts")

    assert time.process_time() - began < 5
    assert track.duration_seconds == 3600
