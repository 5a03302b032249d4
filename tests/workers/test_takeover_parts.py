# SPDX-License-Identifier: Apache-2.0
"""Files of a worker that shares no disk with the daemon come through its session, part by part."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd_daemon.domain.jobs import Outcome
from callsd_daemon.workers import takeover as module
from callsd_daemon.workers.takeover import Take, Takeover

from .takeovers import (
    OUTCOME,
    PART,
    RAW,
    TEXT,
    TEXT_FILE,
    VIDEO,
    WHOLE,
    fill,
    from_afar,
    kept,
    refusal,
)


class Sender:
    """A worker that sends what it is asked for, in parts; it may be cut off."""

    def __init__(self, takeover: Takeover, files: dict[str, bytes]) -> None:
        self.asked: list[tuple[str, int]] = []
        self.cut_after: int | None = None
        """So many parts arrive in one request."""
        self._takeover = takeover
        self._files = files
        self._sending: list[asyncio.Task[None]] = []

    async def ask(self, file_name: str, offset: int) -> None:
        """Send it, from there on."""
        self.asked.append((file_name, offset))
        self._sending.append(asyncio.create_task(self._send(file_name, offset)))

    async def _send(self, name: str, offset: int) -> None:
        content = self._files[name]
        parts = list(range(offset, len(content), PART))
        for start in parts[: self.cut_after]:
            assert await self._takeover.write(name, start, content[start : start + PART]) == min(
                start + PART, len(content)
            )
        self._takeover.end_file(name)


@pytest.fixture
def remote(new_takeover: Callable[[Take], Takeover]) -> Takeover:
    """From a worker that shares no disk with us."""
    return new_takeover(from_afar)


class TestParts:
    """Files that come through the session."""

    async def test_in_parts(self, remote: Takeover, directory: Path) -> None:
        """Parts make the file."""
        sender = Sender(remote, {"recording.mp4": VIDEO, "words.txt": TEXT})
        await remote.collect(OUTCOME, RAW, sender.ask)

        assert kept(directory) == WHOLE
        assert sender.asked == [("recording.mp4", 0), ("words.txt", 0)]

    async def test_cut_off(self, remote: Takeover, directory: Path) -> None:
        """What is cut off goes on where it was, however often, as long as something arrives."""
        sender = Sender(remote, {"recording.mp4": VIDEO, "words.txt": TEXT})
        sender.cut_after = 1
        await remote.collect(OUTCOME, RAW, sender.ask)

        offsets = [offset for name, offset in sender.asked if name == "recording.mp4"]
        assert offsets == list(range(0, len(VIDEO), PART))
        assert kept(directory) == WHOLE

    async def test_next_daemon_goes_on(
        self, new_takeover: Callable[[Take], Takeover], directory: Path
    ) -> None:
        """What has arrived is not sent again to the daemon that is started next."""
        files = {"recording.mp4": VIDEO, "words.txt": TEXT}
        first = new_takeover(from_afar)
        sender = Sender(first, files)
        sender.cut_after = 2
        cut = asyncio.Event()

        async def ask(file_name: str, offset: int) -> None:
            if offset:
                cut.set()
                await asyncio.Event().wait()
            await sender.ask(file_name, offset)

        collecting = asyncio.create_task(first.collect(OUTCOME, RAW, ask))
        await cut.wait()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        assert kept(directory) == {}

        second = new_takeover(from_afar)
        sender = Sender(second, files)
        await second.collect(OUTCOME, RAW, sender.ask)

        assert sender.asked == [("recording.mp4", 2 * PART), ("words.txt", 0)]
        assert kept(directory) == WHOLE

    async def test_beginning_of_another_file(self, remote: Takeover, directory: Path) -> None:
        """A beginning that belongs to something else is thrown away, and all is sent anew."""
        (directory / "artifacts" / ".words.txt.part").write_bytes(b"other")
        sender = Sender(remote, {"words.txt": TEXT})
        await remote.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, sender.ask)

        assert sender.asked == [("words.txt", 5), ("words.txt", 0)]
        assert kept(directory) == {"words.txt": TEXT, "outcome.binpb": RAW}

    async def test_wrong_bytes(self, remote: Takeover, directory: Path) -> None:
        """Bytes that are not what the hash says are not kept."""
        sender = Sender(remote, {"words.txt": TEXT[::-1]})
        why = await refusal(remote.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, sender.ask))

        assert why == "words.txt is not what its hash says"
        assert list((directory / "artifacts").iterdir()) == []

    async def test_nothing_arrives(self, remote: Takeover, directory: Path) -> None:
        """A file of which nothing arrives is asked for some times, and then given up."""
        sender = Sender(remote, {"words.txt": TEXT})
        sender.cut_after = 0
        why = await refusal(remote.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, sender.ask))

        assert why == "words.txt does not arrive"
        assert sender.asked == [("words.txt", 0)] * module.MAX_REQUESTS
        assert kept(directory) == {}

    async def test_silence(self, remote: Takeover, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that does not say that it has stopped is not waited for without end."""
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
        asked: list[int] = []

        async def ask(_name: str, offset: int) -> None:
            asked.append(offset)

        await refusal(remote.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, ask))

        assert asked == [0] * module.MAX_REQUESTS

    @pytest.mark.parametrize(
        ("name", "offset", "data"),
        [
            ("other.txt", 0, b"x"),
            ("../words.txt", 0, b"x"),
            ("words.txt", 1, b"x"),
            ("words.txt", -1, b"x"),
            ("words.txt", 0, TEXT + b"!"),
        ],
    )
    async def test_not_asked_for(
        self, remote: Takeover, directory: Path, name: str, offset: int, data: bytes
    ) -> None:
        """Only the bytes that are missing are taken, of the file that was asked for."""
        asked = asyncio.Event()

        async def ask(_name: str, _offset: int) -> None:
            asked.set()

        collecting = asyncio.create_task(remote.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, ask))
        await asked.wait()
        try:
            assert "not asked for" in await refusal(remote.write(name, offset, data))
            remote.end_file("other.txt")
            assert list((directory / "artifacts").iterdir()) == []
            assert await remote.write("words.txt", 0, TEXT) == len(TEXT)
            remote.end_file("words.txt")
            await collecting
        finally:
            collecting.cancel()
        assert kept(directory) == {"words.txt": TEXT, "outcome.binpb": RAW}

    async def test_unasked(self, remote: Takeover, directory: Path) -> None:
        """Where nothing was asked for, nothing is taken."""
        assert "not asked for" in await refusal(remote.write("words.txt", 0, TEXT))
        assert kept(directory) == {}

    async def test_draft_is_a_link(self, remote: Takeover, directory: Path, tmp_path: Path) -> None:
        """A link in place of what has arrived is not written through."""
        (tmp_path / "secret").write_bytes(b"precious")
        (directory / "artifacts" / ".words.txt.part").symlink_to(tmp_path / "secret")
        sender = Sender(remote, {"words.txt": TEXT})
        collecting = remote.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, sender.ask)
        await asyncio.gather(collecting, return_exceptions=True)

        assert (tmp_path / "secret").read_bytes() == b"precious"

    async def test_while_it_arrives(
        self, remote: Takeover, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that does not fit is asked for again from where there was no more room."""
        fill(monkeypatch, "_append", errno.ENOSPC)
        sender = Sender(remote, {"recording.mp4": VIDEO, "words.txt": TEXT})
        collecting = remote.collect(OUTCOME, RAW, sender.ask)
        await asyncio.wait_for(collecting, 5.0)

        assert kept(directory) == WHOLE
        assert sender.asked[:4] == [("recording.mp4", 0)] * 4
        failed = await asyncio.gather(*sender._sending, return_exceptions=True)
        assert [type(problem) for problem in failed[:3]] == [OSError] * 3
