# SPDX-License-Identifier: Apache-2.0
"""What is kept of a call's captions, through cuts and full disks."""

import resource
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from callsd_daemon.domain.captions import Words
from callsd_daemon.workers.captions.journal import FILE, Final, Journal, Position, read_finals


def position(processed_sample: int, speaker: str = "ada") -> Position:
    """A speaker's sound, worked off up to here."""
    return Position(
        speaker=speaker,
        display_name="Ada",
        processed_sample=processed_sample,
        processed_sequence=processed_sample // 1600,
        received_samples=processed_sample,
        skipped_samples=0,
    )


def final(sequence: int, speaker: str = "ada") -> Final:
    """A final caption."""
    end = sequence * 16_000
    words = Words(
        segment=sequence,
        text="hello",
        start_sample=end - 16_000,
        end_sample=end,
        heard_sample=end,
    )
    return Final(sequence=sequence, position=position(end, speaker), words=words)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Within the block no file of this process can grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(directory: Path, count: int) -> list[Final]:
    """Write finals with positions between them."""
    finals = [final(number) for number in range(1, count + 1)]
    with closing(Journal(directory)) as journal:
        for one in finals:
            assert journal.append(one)
            assert journal.append(position(one.sequence * 16_000 + 800, "eve"))
    return finals


def test_written_and_read(tmp_path: Path) -> None:
    """Finals come back whole, from any one on, in pages; positions are the last ones."""
    finals = write(tmp_path / "call", 5)
    with closing(Journal(tmp_path / "call")) as journal:
        assert journal.last_sequence == 5
        for after in range(7):
            assert journal.finals(after, 100) == finals[after:]
            assert journal.finals(after, 2) == finals[after : after + 2]
        assert journal.positions == {
            "ada": finals[-1].position,
            "eve": position(5 * 16_000 + 800, "eve"),
        }
    assert list(read_finals(tmp_path / "call", 3)) == finals[3:]


def test_the_engine(tmp_path: Path) -> None:
    """Who recognised a call is known to the next daemon, even if later captions do not say it."""
    with closing(Journal(tmp_path)) as journal:
        before = journal.engine
        journal.append(msgspec.structs.replace(final(1), engine="ctranslate2"))
        journal.append(final(2))
    with closing(Journal(tmp_path)) as journal:
        assert (before, journal.engine) == ("", "ctranslate2")


def test_an_earlier_release(tmp_path: Path) -> None:
    """Captions that were kept with times of their words, and without an engine, are read."""
    written = msgspec.to_builtins(final(1)) | {"type": "final"}
    del written["engine"]
    written["words"]["words"] = [{"text": "hello", "start_sample": 0, "end_sample": 16_000}]
    (tmp_path / FILE).write_bytes(msgspec.json.encode(written) + b"\n")

    assert list(read_finals(tmp_path, 0)) == [final(1)]


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    """What was said in a call can be read by the daemon's user only."""
    write(tmp_path / "call", 1)

    assert stat.S_IMODE((tmp_path / "call").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "call" / FILE).stat().st_mode) == 0o600


def test_nothing(tmp_path: Path) -> None:
    """A call without a caption has an empty journal, or none."""
    assert list(read_finals(tmp_path, 0)) == []
    with closing(Journal(tmp_path)) as journal:
        assert (journal.last_sequence, journal.finals(0, 10), journal.positions) == (0, [], {})


@pytest.mark.parametrize("junk", [b"\0" * 40 + b"\n", b"{}\n", b'{"type":"final"}\n', b"\xff\n"])
def test_junk_at_the_end(tmp_path: Path, junk: bytes) -> None:
    """What a power cut leaves at the end is cut off, and writing goes on there."""
    finals = write(tmp_path, 2)
    with (tmp_path / FILE).open("ab") as file:
        file.write(junk)
    with closing(Journal(tmp_path)) as journal:
        assert journal.last_sequence == 2
        assert journal.append(final(3))

    assert list(read_finals(tmp_path, 0)) == [*finals, final(3)]


def test_torn_anywhere(tmp_path: Path) -> None:
    """Cut at any byte, what was whole is there, and the next caption has the next number."""
    finals = write(tmp_path, 2)
    whole = (tmp_path / FILE).read_bytes()
    for size in range(len(whole)):
        (tmp_path / FILE).write_bytes(whole[:size])
        with closing(Journal(tmp_path)) as journal:
            last = journal.last_sequence
            assert journal.append(final(last + 1))
        assert list(read_finals(tmp_path, 0)) == [*finals[:last], final(last + 1)]
        assert (tmp_path / FILE).read_bytes().count(b"\n") >= last + 1


def test_full_disk(tmp_path: Path) -> None:
    """What cannot be written waits, keeps its number, and is written when there is room again."""
    finals = write(tmp_path, 2)
    size = (tmp_path / FILE).stat().st_size
    with closing(Journal(tmp_path)) as journal:
        with largest_file(size + 10):
            assert not journal.append(final(3))
            assert not journal.append(final(4))
            assert not journal.flush()
            assert journal.last_sequence == 4
            assert journal.finals(0, 10) == finals
            # Half a line on the disk is no line.
            assert list(read_finals(tmp_path, 0)) == finals
        assert journal.append(final(5))
        assert journal.finals(2, 10) == [final(3), final(4), final(5)]

    assert list(read_finals(tmp_path, 0)) == [final(number) for number in range(1, 6)]
