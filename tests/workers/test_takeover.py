# SPDX-License-Identifier: Apache-2.0
"""What is taken over from a worker: all of its files and then its outcome, or nothing of use."""

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from callsd_daemon.domain.jobs import Outcome
from callsd_daemon.files import write_whole
from callsd_daemon.workers import takeover as module
from callsd_daemon.workers.takeover import Take, Takeover

from .takeovers import (
    OUTCOME,
    RAW,
    TEXT,
    TEXT_FILE,
    VIDEO,
    WHOLE,
    fill,
    from_afar,
    kept,
    nothing,
    refusal,
)


@pytest.fixture
def local(new_takeover: Callable[[Take], Takeover], take: Take) -> Takeover:
    """From a worker on this disk."""
    return new_takeover(take)


class TestSameDisk:
    """Files of a worker on this disk are taken by their names."""

    async def test_taken(self, local: Takeover, worker: Path, directory: Path) -> None:
        """Files change their owner, not their place on the disk; nobody else may write them."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(TEXT)
        (worker / "words.txt").chmod(0o666)
        before = (worker / "recording.mp4").stat().st_ino
        await local.collect(OUTCOME, RAW, nothing)

        assert kept(directory) == WHOLE
        assert (directory / "artifacts" / "recording.mp4").stat().st_ino == before
        assert (directory / "artifacts" / "words.txt").stat().st_mode & 0o777 == 0o600
        assert list(worker.iterdir()) == []

    async def test_no_files(self, local: Takeover, directory: Path) -> None:
        """An outcome without files is kept as it is."""
        await local.collect(Outcome(), RAW, nothing)

        assert kept(directory) == {"outcome.binpb": RAW}

    async def test_outcome_last(
        self, local: Takeover, worker: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The outcome is kept when all files are: one that is there is whole."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(TEXT)
        seen: list[set[str]] = []
        real = write_whole

        def write(path: Path, content: bytes) -> None:
            seen.append(set(kept(directory)))
            real(path, content)

        monkeypatch.setattr(module, "write_whole", write)
        await local.collect(OUTCOME, RAW, nothing)

        assert seen == [{"recording.mp4", "words.txt"}]

    async def test_again(
        self, new_takeover: Callable[[Take], Takeover], take: Take, worker: Path, directory: Path
    ) -> None:
        """A worker that did not hear the verdict tells its outcome again, and nothing is lost."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(TEXT)
        for _ in range(3):
            await new_takeover(take).collect(OUTCOME, RAW, nothing)

        assert kept(directory) == WHOLE

    @pytest.mark.parametrize("name", ["sync", "open_regular"])
    async def test_interrupted(
        self,
        new_takeover: Callable[[Take], Takeover],
        take: Take,
        worker: Path,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        name: str,
    ) -> None:
        """A daemon that dies with a file in its hands goes on with that file when it is back."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(TEXT)
        with monkeypatch.context() as dying:

            def die(*_: object, **__: object) -> None:
                raise KeyError("power")

            dying.setattr(module, name, die)
            with pytest.raises(KeyError):
                await new_takeover(take).collect(OUTCOME, RAW, nothing)
        assert not (worker / "recording.mp4").exists()

        await new_takeover(take).collect(OUTCOME, RAW, nothing)

        assert kept(directory) == WHOLE

    @pytest.mark.parametrize("form", ["missing", "pipe", "link", "directory", "second name"])
    async def test_no_file(
        self, local: Takeover, worker: Path, directory: Path, tmp_path: Path, form: str
    ) -> None:
        """What is no plain file is no artifact, and is not waited for; nothing of it is kept."""
        (tmp_path / "secret").write_bytes(TEXT)
        place = worker / "words.txt"
        if form == "pipe":
            os.mkfifo(place)
        elif form == "link":
            place.symlink_to(tmp_path / "secret")
        elif form == "directory":
            place.mkdir()
        elif form == "second name":
            place.hardlink_to(tmp_path / "secret")
        why = await refusal(local.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, nothing))

        assert "its files cannot be taken" in why
        assert kept(directory) == {}
        assert (tmp_path / "secret").read_bytes() == TEXT
        assert list((directory / "artifacts").iterdir()) == []

    async def test_directory_is_a_link(
        self, local: Takeover, worker: Path, directory: Path, tmp_path: Path
    ) -> None:
        """A worker that puts a link in place of its directory has made nothing."""
        (tmp_path / "private").mkdir()
        (tmp_path / "private" / "words.txt").write_bytes(TEXT)
        worker.rmdir()
        worker.symlink_to(tmp_path / "private")
        await refusal(local.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, nothing))

        assert kept(directory) == {}
        assert (tmp_path / "private" / "words.txt").read_bytes() == TEXT

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (TEXT + b"!", "words.txt has 14 bytes, not 13"),
            (TEXT[:-1], "words.txt has 12 bytes, not 13"),
            (TEXT[::-1], "words.txt is not what its hash says"),
        ],
    )
    async def test_other_content(
        self, local: Takeover, worker: Path, directory: Path, content: bytes, why: str
    ) -> None:
        """A file of another length or content is not kept, and the outcome neither."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(content)

        assert await refusal(local.collect(OUTCOME, RAW, nothing)) == why
        assert kept(directory) == {"recording.mp4": VIDEO}
        assert [path.name for path in (directory / "artifacts").iterdir()] == ["recording.mp4"]


class TestNames:
    """Names are a stranger's words."""

    @pytest.mark.parametrize(
        "name",
        [
            "../outcome.binpb",
            "/etc/passwd",
            "a/b",
            "",
            ".",
            "..",
            ".hidden",
            "a\nb",
            "ü",
            "a" * 129,
        ],
    )
    async def test_paths(self, local: Takeover, directory: Path, name: str) -> None:
        """A name that is a path, or no plain name, is refused, and nothing is looked for."""
        outcome = Outcome(artifacts=(replace(TEXT_FILE, file_name=name),))

        assert await refusal(local.collect(outcome, RAW, nothing)) == (
            "it names a file that cannot be one"
        )
        assert kept(directory) == {}

    @pytest.mark.parametrize("size_bytes", [-1, 2**62])
    async def test_lengths(
        self, new_takeover: Callable[[Take], Takeover], directory: Path, size_bytes: int
    ) -> None:
        """A length that no file can have is refused before a byte is asked for."""
        outcome = Outcome(artifacts=(replace(TEXT_FILE, size_bytes=size_bytes),))
        await refusal(new_takeover(from_afar).collect(outcome, RAW, nothing))

        assert kept(directory) == {}

    async def test_too_many(self, local: Takeover, directory: Path) -> None:
        """More files than a job can have are refused."""
        outcome = Outcome(artifacts=(TEXT_FILE,) * (module.MAX_FILES + 1))

        assert "it names 301 files: 300 are allowed" in await refusal(
            local.collect(outcome, RAW, nothing)
        )
        assert kept(directory) == {}


class TestFullDisk:
    """What the system lacks for a while is waited for."""

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    @pytest.mark.parametrize("name", ["write_whole", "sync"])
    async def test_waited_for(
        self,
        local: Takeover,
        worker: Path,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        name: str,
        number: int,
    ) -> None:
        """What a worker has made is kept when there is room again, or the disk is well: whole."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(TEXT)
        fill(monkeypatch, name, number)
        await local.collect(OUTCOME, RAW, nothing)

        assert kept(directory) == WHOLE

    @pytest.mark.parametrize("name", ["open_regular", "sync", "write_whole"])
    async def test_scarce_descriptors(
        self,
        local: Takeover,
        worker: Path,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        """A daemon that has no descriptors left for a moment loses nothing that was made."""
        (worker / "recording.mp4").write_bytes(VIDEO)
        (worker / "words.txt").write_bytes(TEXT)
        fill(monkeypatch, name, errno.EMFILE)
        await asyncio.wait_for(local.collect(OUTCOME, RAW, nothing), 5.0)

        assert kept(directory) == WHOLE

    async def test_other_trouble(
        self, local: Takeover, worker: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What does not pass by itself is not waited for."""
        (worker / "words.txt").write_bytes(TEXT)
        fill(monkeypatch, "write_whole", errno.EACCES)
        why = await refusal(local.collect(Outcome(artifacts=(TEXT_FILE,)), RAW, nothing))

        assert "its files cannot be taken" in why
        assert "outcome.binpb" not in kept(directory)
