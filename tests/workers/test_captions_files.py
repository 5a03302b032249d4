# SPDX-License-Identifier: Apache-2.0
"""A call's captions as files: whole or not at all, and the same whoever makes them."""

import asyncio
import errno
import hashlib
import json
import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from callsd_daemon.domain.captions import SAMPLE_RATE_HZ, Words
from callsd_daemon.workers.captions.files import write_files
from callsd_daemon.workers.captions.journal import Final, Journal, Position


LONG_CALL = 20_000
"""Final captions of a call of many hours."""

FEWEST_TURNS = 5
"""Of the event loop while they are written. It would have none if it did that itself."""


def final(
    sequence: int, text: str, start_seconds: int, speaker: str = "a", name: str = ""
) -> Final:
    """Two seconds of somebody's words."""
    end = (start_seconds + 2) * SAMPLE_RATE_HZ
    position = Position(
        speaker=speaker,
        display_name=name,
        processed_sample=end,
        processed_sequence=sequence,
        received_samples=end,
        skipped_samples=0,
    )
    words = Words(
        segment=start_seconds * SAMPLE_RATE_HZ,
        text=text,
        start_sample=start_seconds * SAMPLE_RATE_HZ,
        end_sample=end,
        heard_sample=end,
        language="en",
    )
    return Final(sequence=sequence, position=position, words=words)


def keep(directory: Path, *finals: Final) -> Path:
    """What is kept of a call with these captions."""
    with closing(Journal(directory)) as journal:
        for one in finals:
            assert journal.append(one)
    return directory


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """A call of two, of whom the one who spoke first was understood last."""
    return keep(
        tmp_path / "call",
        final(1, "Hello!", 5, speaker="bo"),
        final(2, "Hi <there>", 1, name="Ann"),
    )


def contents(call: Path) -> dict[str, bytes]:
    """All that lies among the artifacts."""
    return {file.name: file.read_bytes() for file in (call / "artifacts").iterdir()}


class TestContent:
    """What is in the files."""

    def test_in_the_order_of_speech(self, call: Path) -> None:
        """Each kind of file has all captions with their speakers, in the order of the call."""
        written = write_files(call, engine="ctranslate2")
        found = contents(call)

        assert found["captions.vtt"].decode() == (
            "WEBVTT\n"
            "\n00:00:01.000 --> 00:00:03.000\n<v Ann>(Ann) Hi &lt;there&gt;\n"
            "\n00:00:05.000 --> 00:00:07.000\n<v bo>(bo) Hello!\n"
        )
        assert found["captions.txt"].decode() == (
            "00:00:01 -> 00:00:03\nAnn\nHi <there>\n\n00:00:05 -> 00:00:07\nbo\nHello!\n"
        )
        document = json.loads(found["captions.json"])
        assert [segment["speaker"] for segment in document["segments"]] == ["Ann", "bo"]
        assert [segment["words"] for segment in document["segments"]] == [[], []]
        assert [track["speech_seconds"] for track in document["tracks"]] == [2, 2]
        assert (document["language"], document["engine"]) == ("en", "ctranslate2")
        assert (written.caption_count, written.word_count) == (2, 3)

    def test_vouched_for(self, call: Path) -> None:
        """Length and hash of each file are known, and nobody else can read it."""
        written = write_files(call, engine="")
        found = contents(call)

        assert [artifact.file_name for artifact in written.artifacts] == [
            "captions.vtt",
            "captions.txt",
            "captions.json",
        ]
        for artifact in written.artifacts:
            content = found[artifact.file_name]
            assert artifact.size_bytes == len(content)
            assert artifact.sha256 == hashlib.sha256(content).hexdigest()
            mode = (call / "artifacts" / artifact.file_name).stat().st_mode
            assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE((call / "artifacts").stat().st_mode) == 0o700

    def test_nothing_said(self, tmp_path: Path) -> None:
        """A call without a word has files that are valid."""
        written = write_files(keep(tmp_path), engine="")
        found = contents(tmp_path)

        assert found["captions.vtt"] == b"WEBVTT\n"
        assert found["captions.txt"] == b""
        assert json.loads(found["captions.json"])["segments"] == []
        assert (written.caption_count, written.word_count) == (0, 0)


class TestWhole:
    """Each file is there whole or not at all."""

    def test_again(self, call: Path) -> None:
        """Who writes them a second time, over a half one too, writes the same bytes."""
        first = write_files(call, engine="ctranslate2")
        before = contents(call)
        (call / "artifacts" / ".captions.vtt.part").write_bytes(b"WEB")
        again = write_files(call, engine="ctranslate2")

        assert again == first
        assert contents(call) == before

    @pytest.mark.parametrize("full_at", range(1, 8))
    def test_full_disk(self, call: Path, full_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a disk that is full at any step no half file stays, and what was there is whole."""
        write_files(call, engine="ctranslate2")
        before = contents(call)
        with closing(Journal(call)) as journal:
            journal.append(final(3, "Bye.", 9))
        synced, fsync = 0, os.fsync

        def fills_up(descriptor: int) -> None:
            nonlocal synced
            synced += 1
            if synced == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fills_up)
            with pytest.raises(OSError, match="No space left"):
                write_files(call, engine="ctranslate2")
        found = contents(call)
        write_files(call, engine="ctranslate2")
        after = contents(call)

        assert set(found) == set(before)
        assert all(content in (before[name], after[name]) for name, content in found.items())
        assert b"Bye." in after["captions.txt"]

    def test_never_through_a_link(self, call: Path, tmp_path: Path) -> None:
        """What somebody has put into the place of a file is replaced, not followed."""
        theirs = tmp_path / "theirs"
        theirs.write_text("untouched")
        (call / "artifacts").mkdir()
        for name in ("captions.vtt", ".captions.vtt.part"):
            (call / "artifacts" / name).symlink_to(theirs)
        write_files(call, engine="")

        assert theirs.read_text() == "untouched"
        assert not (call / "artifacts" / "captions.vtt").is_symlink()


async def test_a_long_call(tmp_path: Path) -> None:
    """While the files of a call of many hours are written, the event loop goes on."""
    text = "If either of them goes above the normal range, somebody should get a message."
    finals = (
        final(number, text, 2 * number, speaker=f"u{number % 8}")
        for number in range(1, LONG_CALL + 1)
    )
    keep(tmp_path, *finals)
    writing = asyncio.create_task(asyncio.to_thread(write_files, tmp_path, engine="ctranslate2"))
    turns = 0
    while not writing.done():
        await asyncio.sleep(0.001)
        turns += 1
    written = await writing

    assert written.caption_count == LONG_CALL
    assert turns > FEWEST_TURNS
