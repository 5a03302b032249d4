# SPDX-License-Identifier: Apache-2.0
"""Files where somebody else can write, and files of our own that must be whole."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callsd_daemon import files as module
from callsd_daemon.domain.errors import Reason
from callsd_daemon.files import (
    POOL_THREADS,
    FilePool,
    open_beneath,
    open_regular,
    read_regular,
    sync,
    write_whole,
)
from tests.helpers.syncs import watch_syncs


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Whatever is refused, no descriptor of it stays open."""
    before = set(Path("/proc/self/fd").iterdir())
    yield
    assert set(Path("/proc/self/fd").iterdir()) <= before


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that is nobody's business."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory in which a stranger can write, with a file in a folder."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"words")
    return root


def make_pipe(path: Path) -> None:
    """A pipe that nobody will ever write to."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def make_second_name(path: Path) -> None:
    """A file that somebody has given a second name."""
    other = path.with_name("other")
    other.write_bytes(b"words")
    path.hardlink_to(other)


def make_link(path: Path) -> None:
    """A link to a plain file."""
    other = path.with_name("other")
    other.write_bytes(b"words")
    path.symlink_to(other)


STRANGE: dict[Callable[[Path], None], set[int]] = {
    make_pipe: {errno.EINVAL},
    make_socket: {errno.ENXIO},
    make_second_name: {errno.EINVAL},
    make_link: {errno.ELOOP},
    Path.mkdir: {errno.EINVAL, errno.EISDIR},
}


def number_of(work: Callable[[], object]) -> int | None:
    """The error that this fails with; None if it does not."""
    try:
        work()
    except OSError as problem:
        return problem.errno
    return None


class TestPlainFiles:
    """A stranger's file is a plain one, or none."""

    def test_plain(self, tmp_path: Path) -> None:
        """What is a plain file is read, whole."""
        (tmp_path / "file").write_bytes(b"words")

        assert read_regular(tmp_path / "file", 5) == b"words"

    @pytest.mark.parametrize(
        "how", [open_regular, lambda path: open_beneath(path.parent, Path(path.name))]
    )
    def test_no_status(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path], int]
    ) -> None:
        """What cannot be looked at does not stay open either."""
        (tmp_path / "file").write_bytes(b"words")

        def fail(_descriptor: int) -> os.stat_result:
            raise OSError(errno.EIO, "it fails")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fail)
            assert number_of(lambda: how(tmp_path / "file")) == errno.EIO

    @pytest.mark.parametrize("make", STRANGE, ids=lambda make: make.__name__)
    def test_anything_else(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        """A pipe, a link, a directory and a file with two names are refused, and not waited for."""
        make(tmp_path / "file")

        assert number_of(lambda: open_regular(tmp_path / "file")) in STRANGE[make]
        assert number_of(lambda: read_regular(tmp_path / "file", 100)) in STRANGE[make]

    @pytest.mark.parametrize("make", STRANGE, ids=lambda make: make.__name__)
    def test_anything_else_to_write_to(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        """They are not written to either: a pipe without a reader would not open."""
        make(tmp_path / "file")

        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        assert number_of(lambda: open_regular(tmp_path / "file", flags)) in (
            STRANGE[make] | {errno.ENXIO}
        )

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
    def test_device(self, device: str) -> None:
        """Devices are no files: one of them would never end."""
        assert number_of(lambda: read_regular(Path(device), 100)) == errno.EINVAL

    def test_too_long(self, tmp_path: Path) -> None:
        """A file that is longer than it may be is refused, and no more of it is read."""
        with (tmp_path / "file").open("wb") as file:
            file.truncate(2**40)

        assert number_of(lambda: read_regular(tmp_path / "file", 1000)) == errno.EFBIG

    def test_new_one(self, tmp_path: Path) -> None:
        """A file that is made is our user's alone, whatever the process' mask."""
        mask = os.umask(0)
        try:
            os.close(open_regular(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
        finally:
            os.umask(mask)

        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600

    def test_in_an_open_directory(self, root: Path, secret: Path) -> None:
        """A file of a directory that is open is of that one, whatever its path leads to by now."""
        folder = os.open(root / "folder", os.O_PATH | os.O_DIRECTORY)
        try:
            (root / "folder").rename(root / "moved")
            (root / "folder").symlink_to(secret.parent)
            (secret.parent / "file").write_bytes(b"secret")
            descriptor = open_regular("file", dir_fd=folder)
        finally:
            os.close(folder)

        with os.fdopen(descriptor, "rb") as file:
            assert file.read() == b"words"


class TestBeneath:
    """Files below a directory."""

    def test_plain(self, root: Path) -> None:
        """A path of plain names leads to its file."""
        with os.fdopen(open_beneath(root, Path("folder/file")), "rb") as file:
            assert file.read() == b"words"

    @pytest.mark.parametrize("target", ["{root}/real", "../root/real", "real", "/", ".."])
    @pytest.mark.parametrize("link", ["a", "a/b", "a/b/c"])
    def test_links(self, root: Path, link: str, target: str) -> None:
        """No part of a path may be a link, wherever it leads to: outside or not."""
        (root / "real" / "b").mkdir(parents=True)
        (root / "real" / "b" / "c").write_bytes(b"words")
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target.format(root=root))

        assert number_of(lambda: open_beneath(root, Path("a/b/c"))) in (errno.ELOOP, errno.ENOTDIR)

    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "../secret", "folder/../../secret", "..", "", ".", "folder/.."]
    )
    def test_ways_out(self, root: Path, secret: Path, path: str) -> None:
        """A path that is absolute, goes up or names nothing is refused before it is looked at."""
        assert number_of(lambda: open_beneath(root, Path(path))) == errno.EXDEV

    @pytest.mark.parametrize("make", [make_pipe, Path.mkdir])
    def test_no_file(self, root: Path, make: Callable[[Path], None]) -> None:
        """What is no plain file is refused at once."""
        make(root / "folder" / "strange")

        assert number_of(lambda: open_beneath(root, Path("folder/strange"))) == errno.EINVAL

    def test_file_as_folder(self, root: Path) -> None:
        """There is nothing below a file."""
        assert number_of(lambda: open_beneath(root, Path("folder/file/more"))) == errno.ENOTDIR

    @pytest.mark.parametrize("part", ["root", "folder"])
    def test_swapped_on_the_way(
        self, root: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, part: str
    ) -> None:
        """A directory that becomes a link once it was passed leads nowhere else any more."""
        real_open = os.open
        (secret.parent / "file").write_bytes(b"secret")

        def open_and_swap(path: str | Path, flags: int, *args: int, **kwargs: int) -> int:
            descriptor = real_open(path, flags, *args, **kwargs)
            if Path(path).name == part:
                swapped = root if part == "root" else root / "folder"
                swapped.rename(secret.parent / "moved")
                swapped.symlink_to(secret.parent)
            return descriptor

        monkeypatch.setattr(os, "open", open_and_swap)
        descriptor = open_beneath(root, Path("folder/file"))
        monkeypatch.undo()

        with os.fdopen(descriptor, "rb") as file:
            assert file.read() == b"words"

    def test_swapped_all_the_time(self, root: Path, secret: Path) -> None:
        """However often a directory is swapped for a link, only its own file is ever read."""
        (secret.parent / "file").write_bytes(b"secret")
        (root / "link").symlink_to(secret.parent)
        is_over = threading.Event()

        def swap() -> None:
            while not is_over.is_set():
                (root / "folder").rename(root / "aside")
                (root / "link").rename(root / "folder")
                (root / "folder").rename(root / "link")
                (root / "aside").rename(root / "folder")

        swapping = threading.Thread(target=swap)
        swapping.start()
        found: set[bytes] = set()
        try:
            for _ in range(2000):
                try:
                    descriptor = open_beneath(root, Path("folder/file"))
                except OSError:
                    continue
                with os.fdopen(descriptor, "rb") as file:
                    found.add(file.read())
        finally:
            is_over.set()
            swapping.join()

        assert found <= {b"words"}


class TestWriteWhole:
    """A file of our own is whole or not there."""

    def test_replaces(self, tmp_path: Path) -> None:
        """The new content takes the place of the old one, and is our user's alone."""
        (tmp_path / "file").write_bytes(b"old, and longer")
        write_whole(tmp_path / "file", b"new")

        assert (tmp_path / "file").read_bytes() == b"new"
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize("failing", ["fsync", "rename"])
    def test_nothing_half(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        """When the disk is full the old content stays, and nothing of the new one."""
        (tmp_path / "file").write_bytes(b"old")

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if failing == "fsync":
            monkeypatch.setattr(os, "fsync", fail)
        else:
            monkeypatch.setattr(Path, "replace", fail)

        assert number_of(lambda: write_whole(tmp_path / "file", b"new")) == errno.ENOSPC
        assert (tmp_path / "file").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_disk_has_it_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Content is on the disk before its name is, and the name before it is said to be there."""
        order = watch_syncs(monkeypatch)
        replace = Path.replace

        def rename(path: Path, target: Path) -> Path:
            order.append("rename")
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", rename)
        write_whole(tmp_path / "file", b"new")

        assert order == [".file.part", "rename", tmp_path.name]

    @pytest.mark.parametrize("name", ["file", ".file.part"])
    def test_links_are_not_followed(self, tmp_path: Path, name: str, secret: Path) -> None:
        """A link in the way is replaced; what it leads to stays as it was."""
        (tmp_path / name).symlink_to(secret)
        write_whole(tmp_path / "file", b"new")

        assert secret.read_bytes() == b"secret"
        assert (tmp_path / "file").read_bytes() == b"new"
        assert not (tmp_path / "file").is_symlink()


def test_pipe_for_a_directory(tmp_path: Path) -> None:
    """A pipe where a directory was is told at once, by its name; nobody waits for a writer."""
    make_pipe(tmp_path / "directory")

    with pytest.raises(OSError, match="Invalid argument") as problem:
        sync(tmp_path / "directory")
    assert problem.value.filename == str(tmp_path / "directory")


@pytest.mark.parametrize("number", sorted(module.SCARCE_ERRNOS))
def test_scarce(number: int) -> None:
    """Whatever the system lacks for a while, a client is told to try again."""
    refusal = module.as_refusal(OSError(number, os.strerror(number)))

    assert refusal is not None
    assert refusal.reason is Reason.SLOTS_EXHAUSTED
    assert refusal.retry_after_seconds


class TestFilePool:
    """Threads for disks that may hang."""

    async def test_hangs_alone(self) -> None:
        """A disk that hangs holds up nobody but those who wait for it, and not the end either."""
        pool, go_on = FilePool(), threading.Event()
        hanging = [asyncio.create_task(pool.run(go_on.wait)) for _ in range(POOL_THREADS)]
        await asyncio.sleep(0)
        waiting = asyncio.create_task(pool.run(lambda: "late"))
        try:
            assert await asyncio.to_thread(lambda: "others") == "others"
            pool.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not any(task.done() for task in hanging)
        finally:
            go_on.set()
        assert await asyncio.gather(*hanging) == [True] * POOL_THREADS

    async def test_hands_on(self, tmp_path: Path) -> None:
        """What is asked for comes back, errors too."""
        pool = FilePool()
        try:
            assert await pool.run(module.read_regular, Path(__file__), max_bytes=10**6)
            with pytest.raises(FileNotFoundError):
                await pool.run(open_regular, tmp_path / "nothing")
        finally:
            pool.close()

    async def test_late_descriptor(self, tmp_path: Path) -> None:
        """What a slow disk opens when nobody waits any more does not stay open."""
        pool, go_on, opened = FilePool(threads=1), threading.Event(), list[int]()
        (tmp_path / "file").write_bytes(b"words")

        def opener() -> int:
            assert go_on.wait(10)
            opened.append(open_regular(tmp_path / "file"))
            return opened[-1]

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.open(opener)
        go_on.set()
        await pool.run(lambda: None)  # behind it, on the only thread

        (descriptor,) = opened
        assert not Path(f"/proc/self/fd/{descriptor}").exists()
        pool.close()
