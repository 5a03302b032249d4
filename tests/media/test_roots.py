# SPDX-License-Identifier: Apache-2.0

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.media.roots import MediaRoots


NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A media root with one call in it, and a secret beside it."""
    (tmp_path / "secret.wav").write_bytes(b"secret")
    root = tmp_path / "calls"
    (root / "monday").mkdir(parents=True)
    (root / "monday" / "maya.ogg").write_bytes(b"sound")
    return root


@pytest.fixture
def roots(root: Path) -> MediaRoots:
    """Only this root."""
    return MediaRoots((str(root),))


def reason(roots: MediaRoots, path: object) -> Reason:
    """Why this path is refused, to who asks about it as to who reads it."""
    reasons = []
    for attempt in (roots.check, roots.open):
        with pytest.raises(CallsdError) as refused:
            attempt(str(path))
        assert refused.value.metadata == {"path": str(path)}
        reasons.append(refused.value.reason)
    assert reasons[0] is reasons[1]
    return reasons[0]


def opened(roots: MediaRoots, path: object) -> Path:
    """Which file this path is read from."""
    roots.check(str(path))
    descriptor = roots.open(str(path))
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)


class TestAllowed:
    """Files inside the roots."""

    def test_inside(self, roots: MediaRoots, root: Path) -> None:
        """A file below a root is itself."""
        assert opened(roots, f"{root}/monday/maya.ogg") == root / "monday" / "maya.ogg"

    def test_detour(self, roots: MediaRoots, root: Path) -> None:
        """A path that comes back into the root is where it ends."""
        path = f"{root}/monday/../../calls//monday/./maya.ogg"

        assert opened(roots, path) == root / "monday" / "maya.ogg"

    def test_link_inside(self, roots: MediaRoots, root: Path) -> None:
        """A link that stays inside leads to the real file."""
        (root / "latest").symlink_to("monday")

        assert opened(roots, f"{root}/latest/maya.ogg") == root / "monday" / "maya.ogg"

    def test_root_is_a_link(self, root: Path, tmp_path: Path) -> None:
        """A root may be a link: what it leads to is meant."""
        (tmp_path / "media").symlink_to(root)

        roots = MediaRoots((str(tmp_path / "media"),))

        assert opened(roots, tmp_path / "media/monday/maya.ogg") == root / "monday" / "maya.ogg"

    def test_link_between_roots(self, root: Path, tmp_path: Path) -> None:
        """A link from one root into another one is allowed."""
        other = tmp_path / "archive"
        other.mkdir()
        (other / "old.ogg").write_bytes(b"sound")
        (root / "old.ogg").symlink_to(other / "old.ogg")

        roots = MediaRoots((str(root), str(other)))

        assert opened(roots, root / "old.ogg") == other / "old.ogg"


class TestForbidden:
    """Everything else: whether it exists is nobody's business."""

    @pytest.mark.parametrize(
        "path",
        [
            "{root}/../secret.wav",
            "{root}/monday/../../secret.wav",
            "{root}/../nothing.wav",
            "{root}/nothing/../../secret.wav",
            "{root}.wav",
            "{root}2/maya.ogg",
            "/etc/passwd",
            "/etc/nothing-such",
            "/proc/self/environ",
            "/",
            "",
            "monday/maya.ogg",
            "file://{root}/monday/maya.ogg",
            "{root}/monday/maya.ogg\0.wav",
            "\0",
        ],
    )
    def test_outside(self, roots: MediaRoots, root: Path, path: str) -> None:
        """What lies outside has one reason, there or not."""
        assert reason(roots, path.format(root=root)) is Reason.PATH_FORBIDDEN

    @pytest.mark.parametrize("target", ["../secret.wav", "/etc/passwd", "/etc/nothing-such", ".."])
    def test_link_out(self, roots: MediaRoots, root: Path, target: str) -> None:
        """A link that leads out is what it leads to, absolute or relative, there or not."""
        (root / "link").symlink_to(target)

        assert reason(roots, root / "link") is Reason.PATH_FORBIDDEN

    def test_links_out_by_a_directory(self, roots: MediaRoots, root: Path) -> None:
        """A link in the middle of the path is followed as well, and one behind another."""
        (root / "first").symlink_to("second")
        (root / "second").symlink_to("..")

        assert reason(roots, root / "first" / "secret.wav") is Reason.PATH_FORBIDDEN

    def test_no_roots(self, root: Path) -> None:
        """Without roots no path is allowed, and the message says what to do."""
        with pytest.raises(CallsdError) as refused:
            MediaRoots(()).open(f"{root}/monday/maya.ogg")

        assert refused.value.reason is Reason.PATH_FORBIDDEN
        assert "(none): upload the file, or add its directory to media.roots" in str(refused.value)


class TestNotFound:
    """Inside the roots, but nothing to read."""

    def test_nothing_there(self, roots: MediaRoots, root: Path) -> None:
        """A file that is not there is not found."""
        assert reason(roots, root / "monday" / "nobody.ogg") is Reason.MEDIA_NOT_FOUND

    def test_directory(self, roots: MediaRoots, root: Path) -> None:
        """A directory is no file, nor is the root itself."""
        assert reason(roots, root / "monday") is Reason.MEDIA_NOT_FOUND
        assert reason(roots, root) is Reason.MEDIA_NOT_FOUND

    def test_file_as_directory(self, roots: MediaRoots, root: Path) -> None:
        """There is nothing below a file."""
        assert reason(roots, root / "monday/maya.ogg/more.ogg") is Reason.MEDIA_NOT_FOUND

    def test_loop(self, roots: MediaRoots, root: Path) -> None:
        """Links in a circle lead nowhere."""
        (root / "a").symlink_to("b")
        (root / "b").symlink_to("a")

        assert reason(roots, root / "a") is Reason.MEDIA_NOT_FOUND
        assert reason(roots, root / "a" / "maya.ogg") is Reason.MEDIA_NOT_FOUND

    def test_pipe(self, roots: MediaRoots, root: Path) -> None:
        """A pipe, from which reading may never end, is no file."""
        os.mkfifo(root / "pipe.wav")

        assert reason(roots, root / "pipe.wav") is Reason.MEDIA_NOT_FOUND

    def test_device(self) -> None:
        """Nor is a device."""
        assert reason(MediaRoots(("/dev",)), "/dev/zero") is Reason.MEDIA_NOT_FOUND

    def test_name_too_long(self, roots: MediaRoots, root: Path) -> None:
        """A name that no file can have is not found."""
        assert reason(roots, root / ("x" * 300)) is Reason.MEDIA_NOT_FOUND

    @pytest.fixture
    def unreadable(self) -> Iterator[Path]:
        """A file that its daemon may not read, even when root runs the tests."""
        with tempfile.TemporaryDirectory() as directory:
            Path(directory).chmod(0o755)
            path = Path(directory) / "private.wav"
            path.write_bytes(b"sound")
            path.chmod(0)
            is_root = os.getuid() == 0
            if is_root:
                os.setresuid(NOBODY, NOBODY, 0)
            try:
                yield path
            finally:
                if is_root:
                    os.setresuid(0, 0, 0)

    def test_unreadable(self, unreadable: Path) -> None:
        """A file that callsd may not read is as good as none."""
        assert reason(MediaRoots((str(unreadable.parent),)), unreadable) is Reason.MEDIA_NOT_FOUND


class TestSwapped:
    """What somebody changes between the look at a path and the opening of the file."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        """A directory beside the root, with a file of the same name."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "maya.ogg").write_bytes(b"secret")
        return outside

    @pytest.mark.parametrize("swapped", ["monday", "monday/maya.ogg"])
    @pytest.mark.parametrize("is_relative", [True, False])
    def test_for_a_link(
        self,
        roots: MediaRoots,
        root: Path,
        outside: Path,
        monkeypatch: pytest.MonkeyPatch,
        swapped: str,
        *,
        is_relative: bool,
    ) -> None:
        """A directory or file that has become a link since it was looked at leads nowhere."""
        realpath = os.path.realpath
        target = outside if swapped == "monday" else outside / "maya.ogg"
        link = root / swapped

        def look_and_swap(path: str) -> str:
            real = realpath(path)
            if not link.is_symlink():
                link.rename(root / "moved")
                link.symlink_to(os.path.relpath(target, link.parent) if is_relative else target)
            return real

        monkeypatch.setattr(os.path, "realpath", look_and_swap)
        with pytest.raises(CallsdError) as refused:
            roots.open(f"{root}/monday/maya.ogg")

        assert refused.value.reason is Reason.MEDIA_NOT_FOUND

    def test_after_it_was_opened(self, roots: MediaRoots, root: Path, outside: Path) -> None:
        """What was opened stays what it was, whatever becomes of its path."""
        descriptor = roots.open(f"{root}/monday/maya.ogg")
        (root / "monday").rename(root / "moved")
        (root / "monday").symlink_to(outside)

        with os.fdopen(descriptor, "rb") as file:
            assert file.read() == b"sound"
