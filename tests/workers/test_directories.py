# SPDX-License-Identifier: Apache-2.0
"""The directories of workers on this machine: a stranger can write in each of them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd_daemon.workers.launchers.local import Directories
from callsd_daemon.workers.worker_log import CUT_MARK


NAME = "a1b2"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Where the workers' directories lie."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "trash").mkdir()
    return tmp_path / "workers"


@pytest.fixture
def directories(top: Path) -> Directories:
    """They, with none yet."""
    return Directories(top, top.with_name("trash"), mode=0o770)


@pytest.fixture
def own(directories: Directories) -> Path:
    """The directory of one worker, with a finished file."""
    own = directories.make(NAME)
    (own / "artifacts").mkdir()
    (own / "artifacts" / "words.txt").write_bytes(b"words")
    (own / "log.txt").write_bytes(b"0123456789")
    return own


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory that is none of the worker's business."""
    secret = tmp_path / "secret"
    (secret / "artifacts").mkdir(parents=True)
    (secret / "artifacts" / "words.txt").write_bytes(b"secret")
    (secret / "log.txt").write_bytes(b"secret")
    return secret


def replace(path: Path, target: Path) -> None:
    """Put a link in a path's place."""
    path.rename(path.with_name("aside"))
    path.symlink_to(target)


def test_made(directories: Directories, top: Path) -> None:
    """A directory has the mode that its launcher wants, whatever our mask; once is enough."""
    mask = os.umask(0o077)
    try:
        made = [directories.make(NAME) for _ in range(2)]
    finally:
        os.umask(mask)

    assert made == [top / NAME] * 2
    assert made[0].stat().st_mode & 0o777 == 0o770
    assert directories.names() == {NAME}


def test_leftovers(directories: Directories, own: Path) -> None:
    """It is told what lies there; of who has no directory, nothing."""
    assert directories.leftovers(NAME) == frozenset({"artifacts", "log.txt"})
    assert directories.leftovers("nobody") == frozenset()


def test_take(directories: Directories, own: Path, tmp_path: Path) -> None:
    """A finished file is moved, not copied."""
    before = (own / "artifacts" / "words.txt").stat().st_ino

    assert directories.take(NAME, "words.txt", tmp_path / "taken")
    assert (tmp_path / "taken").stat().st_ino == before
    assert list((own / "artifacts").iterdir()) == []


@pytest.mark.parametrize("link", ["", "artifacts", "artifacts/words.txt"])
def test_take_through_links(
    directories: Directories, own: Path, secret: Path, tmp_path: Path, link: str
) -> None:
    """No link on the way to a file leads anywhere: nothing of somebody else's is moved."""
    replace(own / link, secret / link)

    with pytest.raises(OSError, match=r".*"):
        directories.take(NAME, "words.txt", tmp_path / "taken")
    assert not os.path.lexists(tmp_path / "taken")
    assert (secret / "artifacts" / "words.txt").read_bytes() == b"secret"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_take_no_file(
    directories: Directories, own: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """What is no plain file is left where it is."""
    make(own / "artifacts" / "strange")

    with pytest.raises(OSError, match="not a plain file"):
        directories.take(NAME, "strange", tmp_path / "taken")
    assert not os.path.lexists(tmp_path / "taken")


def test_log(directories: Directories, own: Path) -> None:
    """Any part of a log is read; of what is not there, nothing."""
    assert directories.read_log(NAME, 2, 3) == b"234"
    assert directories.read_log(NAME, 8, 100) == b"89"
    assert directories.read_log(NAME, 100, 100) == b""
    assert directories.read_log("nobody", 0, 100) == b""


def test_log_is_not_read(
    directories: Directories, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not give a log back costs the log, and not the job whose log it is."""

    def fail(*_arguments: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)

    assert directories.read_log(NAME, 0, 100) == b""


@pytest.mark.parametrize(("max_bytes", "left"), [(10, b"0123456789"), (9, CUT_MARK)])
def test_log_is_bounded(directories: Directories, own: Path, max_bytes: int, left: bytes) -> None:
    """A log that is too long is emptied but for a mark, behind which who appends to it goes on."""
    with (own / "log.txt").open("ab", buffering=0) as writer:
        directories.bound_log(NAME, max_bytes)
        writer.write(b"more")

    assert (own / "log.txt").read_bytes() == left + b"more"
    directories.bound_log("nobody", max_bytes)


@pytest.mark.parametrize("link", ["", "log.txt"])
def test_log_is_a_link(directories: Directories, own: Path, secret: Path, link: str) -> None:
    """A link in the log's place is neither read nor emptied."""
    replace(own / link, secret / link)

    assert directories.read_log(NAME, 0, 100) == b""
    with pytest.raises(OSError, match=r".*"):
        directories.bound_log(NAME, 1)
    assert (secret / "log.txt").read_bytes() == b"secret"


def test_log_is_a_pipe(directories: Directories, own: Path) -> None:
    """A pipe in the log's place holds nobody up."""
    (own / "log.txt").unlink()
    os.mkfifo(own / "log.txt")

    assert directories.read_log(NAME, 0, 100) == b""
    with pytest.raises(OSError, match=r".*"):
        directories.bound_log(NAME, 1)


def test_discard(directories: Directories, own: Path, secret: Path, top: Path) -> None:
    """A directory goes with all that lies in it, and nothing that links in it lead to.

    Its name is free at once, and one that is not there is no error.
    """
    (own / "link").symlink_to(secret)
    directories.discard(NAME)
    directories.discard(NAME)

    assert directories.names() == frozenset()
    assert list(top.with_name("trash").iterdir()) == []
    assert (secret / "log.txt").read_bytes() == b"secret"


def test_discard_what_stays(
    directories: Directories, own: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be removed now is out of the way of who bears the name next, and goes later."""
    with monkeypatch.context() as held:
        held.setattr("shutil.rmtree", lambda *_, **__: None)
        directories.discard(NAME)

    assert directories.names() == frozenset()
    assert directories.leftovers(NAME) == frozenset()
    directories.make(NAME)
    directories.discard(NAME)
    assert list(top.with_name("trash").iterdir()) == []
