# SPDX-License-Identifier: Apache-2.0
"""Grabbing from a real display and a real sound server."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd_worker.recorder.display import Display, start_display
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.framebuffer import Framebuffer
from callsd_worker.recorder.native import PACKAGES, load
from callsd_worker.recorder.program_host import MEMORY, ProgramHost
from callsd_worker.recorder.sound import start_sound
from callsd_worker.recorder.sound_reader import BLOCK_BYTES, SoundReader
from tests.helpers.waiting import eventually


WIDTH, HEIGHT = 640, 360
RED = bytes([0, 0, 255, 0])
"""A pixel as the display keeps it: blue, green, red, nothing."""

SLOW_SERVER = """
import re, socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(re.search("socket=([^ ]+)", " ".join(sys.argv))[1])
time.sleep(0.5)
server.listen()
while True:
    server.accept()
"""


@pytest.fixture
def host() -> Iterator[ProgramHost]:
    """Where the programs run."""
    host = ProgramHost()
    yield host
    host.close()


@pytest.fixture
def display(host: ProgramHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Display]:
    """A display that the environment names."""
    display = start_display(host, width=WIDTH, height=HEIGHT, fps=10)
    for name, value in display.environment.items():
        monkeypatch.setenv(name, value)
    yield display
    display.close()


class TestFramebuffer:
    """What is read from the memory of a display."""

    def test_a_picture_has_the_colours_of_the_screen(self, display: Display) -> None:
        """What is black is read as black, and what is painted red as red, line by line."""
        framebuffer = Framebuffer(display.framebuffer)
        assert (framebuffer.width, framebuffer.height) == (WIDTH, HEIGHT)
        assert {colour_at(framebuffer, line) for line in (0, 180, 359)} == {(16, 128, 128)}

        size = os.fstat(display.framebuffer).st_size
        half = WIDTH * HEIGHT * 4 // 2
        os.pwrite(display.framebuffer, RED * (half // 4), size - half)
        assert colour_at(framebuffer, 179) == (16, 128, 128)
        assert {colour_at(framebuffer, line) for line in (182, 358)} <= {
            (82, 90, 239),
            (82, 90, 240),
        }

    def test_a_display_that_has_gone_is_noticed(self, display: Display, host: ProgramHost) -> None:
        """After the display's end no old picture is taken for a new one."""
        framebuffer = Framebuffer(display.framebuffer)
        frame = framebuffer.frame()
        framebuffer.read_into(frame)
        host.end(display.process)
        with pytest.raises(RecordingError, match="display has gone") as caught:
            framebuffer.read_into(frame)
        assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE

    def test_nothing_is_left_in_memory(self, host: ProgramHost, display: Display) -> None:
        """The screen's file has no name while it is used, so that nothing remains of it."""
        assert list(Path(MEMORY).glob(f"{host.directory.name}*")) == []

    def test_without_a_display(self, display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nobody answers there is an error, not a wait."""
        monkeypatch.setenv("DISPLAY", ":65000")
        with pytest.raises(RecordingError, match="display does not answer"):
            Framebuffer(display.framebuffer)


def colour_at(framebuffer: Framebuffer, line: int) -> tuple[int, ...]:
    """Brightness and the two colour differences in the middle of a line."""
    frame = framebuffer.frame()
    framebuffer.read_into(frame)
    lines = (line, line // 2, line // 2)
    columns = (WIDTH // 2, WIDTH // 4, WIDTH // 4)
    return tuple(
        bytes(plane)[row * plane.line_size + column]
        for plane, row, column in zip(frame.planes, lines, columns, strict=True)
    )


class TestListener:
    """What is heard of a sound server."""

    @pytest.mark.alone
    def test_silence_is_heard_as_time_goes(
        self, host: ProgramHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nothing is played blocks of silence come, dated by when they were played."""
        for name, value in start_sound(host).environment.items():
            monkeypatch.setenv(name, value)
        listener = SoundReader()
        blocks = [listener.read_block() for _ in range(11)]
        now = time.monotonic()
        assert {block.samples for block in blocks} == {bytes(BLOCK_BYTES)}
        assert 0.8 < blocks[-1].at_seconds - blocks[0].at_seconds < 1.1
        assert 0 < now - blocks[-1].at_seconds < 0.5

    def test_a_server_is_there_once_it_listens(
        self, host: ProgramHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever connects when the server is said to have started is not refused.

        A server under load has the socket's file for a while before it listens.
        """
        slow = tmp_path / "pulseaudio"
        slow.write_text(f"#!{sys.executable}\n{SLOW_SERVER}")
        slow.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        sound = start_sound(host)

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(sound.socket))

    def test_a_server_that_has_gone_is_noticed(
        self, host: ProgramHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the server's end there is an error, not silence."""
        sound = start_sound(host)
        for name, value in sound.environment.items():
            monkeypatch.setenv(name, value)
        listener = SoundReader()
        listener.read_block()
        host.end(sound.process)

        def is_noticed() -> bool:
            try:
                listener.read_block()
            except RecordingError as problem:
                return "sound server has gone" in problem.message
            return False

        eventually(is_noticed, "the end of the sound server is noticed")

    def test_without_a_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nobody answers there is an error, not a wait."""
        monkeypatch.setenv("PULSE_SERVER", "unix:/nonexistent")
        with pytest.raises(RecordingError, match="sound server does not answer"):
            SoundReader()


def test_a_library_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says which package to install."""
    monkeypatch.setitem(PACKAGES, "libnothing.so.7", "libnothing7")
    with pytest.raises(RecordingError, match="apt install libnothing7") as caught:
        load("libnothing.so.7")
    assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
