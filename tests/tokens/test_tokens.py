# SPDX-License-Identifier: Apache-2.0

import contextlib
import errno
import fcntl
import hmac
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from callsd_daemon import tokens as module
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.tokens import (
    OWNER,
    SCOPES,
    Token,
    TokenError,
    TokenFile,
    TokenFileError,
    digest,
    write_owner_token,
)


READ = ("jobs.read",)

CREATE_MANY = """
import sys; from pathlib import Path; from callsd_daemon.tokens import TokenFile
tokens = TokenFile(Path(sys.argv[1]))
for number in range(20):
    tokens.create(f"{sys.argv[2]}{number}", ("jobs.read",))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens lie."""
    return tmp_path / "tokens.json"


@pytest.fixture
def tokens(path: Path) -> TokenFile:
    """No tokens yet."""
    return TokenFile(path)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as callsd tokens may have")


def assert_unusable(tokens: TokenFile, says: str) -> None:
    """Nobody is let in, nothing is changed, and who may know is told why."""
    for attempt in (
        lambda: tokens.look_up("callsd_secret"),
        lambda: tokens.create("plugin", READ),
        lambda: tokens.revoke("plugin"),
        tokens.list,
    ):
        with pytest.raises(TokenFileError, match=says):
            attempt()
    with pytest.raises(CallsdError, match="its log says why") as refused:
        tokens.find("callsd_secret")
    assert refused.value.reason is Reason.TOKEN_INVALID
    assert str(tokens._path) not in refused.value.message


def _link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def _second_name(path: Path, precious: Path) -> None:
    path.hardlink_to(precious)


def _pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, precious: Path) -> None:
    path.mkdir()


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


class TestLife:
    """Tokens are made, found, listed, and worthless in the end."""

    def test_made_and_found(self, tokens: TokenFile) -> None:
        """Whoever has the secret has the token's name and scopes, and nobody else."""
        secret = tokens.create("plugin", ("jobs.read", "jobs.write"))

        found = tokens.find(secret)

        assert found is not None
        assert (found.name, found.scopes) == ("plugin", ("jobs.read", "jobs.write"))
        assert found.expire_time is None
        assert tokens.find(secret + "x") is None
        assert tokens.find(secret[:-1]) is None
        assert tokens.find("") is None
        assert tokens.find(found.sha256) is None

    def test_no_file(self, tokens: TokenFile) -> None:
        """Without a file there are no tokens."""
        assert tokens.list() == []
        assert tokens.find("callsd_secret") is None

    def test_secrets_are_long_and_differ(self, tokens: TokenFile) -> None:
        """Secrets cannot be guessed, and can be told from other strings."""
        one, two = tokens.create("one", READ), tokens.create("two", READ)

        assert one != two
        assert all(secret.startswith("callsd_") and len(secret) == 50 for secret in (one, two))

    def test_the_secret_is_not_kept(self, tokens: TokenFile, path: Path) -> None:
        """The file holds a hash only, and nobody but its owner can read even that."""
        secret = tokens.create("plugin", READ)

        assert secret not in path.read_text()
        assert digest(secret) in path.read_text()
        assert mode(path) == 0o600
        assert [file.name for file in path.parent.iterdir()] == ["tokens.json"]

    def test_listed_by_name(self, tokens: TokenFile) -> None:
        """All tokens, in the order of their names."""
        for name in ("mattermost", "alice", "zoe"):
            tokens.create(name, READ)

        assert [token.name for token in tokens.list()] == ["alice", "mattermost", "zoe"]

    def test_revoked(self, tokens: TokenFile) -> None:
        """A revoked token is worthless at once, and its name free."""
        secret, other = tokens.create("plugin", READ), tokens.create("other", READ)
        tokens.revoke("plugin")

        assert tokens.find(secret) is None
        assert tokens.find(other) is not None
        assert tokens.find(tokens.create("plugin", READ)) is not None
        assert tokens.find(secret) is None

    def test_expired(self, tokens: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
        """A token is good until its time, and worthless from then on."""
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now)
        secret = tokens.create("guest", READ, expires_in_seconds=60)

        monkeypatch.setattr(time, "time", lambda: now + 59.9)
        assert tokens.find(secret) is not None
        monkeypatch.setattr(time, "time", lambda: now + 60)
        assert tokens.find(secret) is None

        assert [token.expire_time for token in tokens.list()] == [now + 60]


class TestRefusals:
    """What cannot be made or revoked, and why."""

    @pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a/b", "a\n", "ä", "a" * 64])
    def test_bad_name(self, tokens: TokenFile, name: str) -> None:
        """A name that could be confused or break a line is refused."""
        with pytest.raises(TokenError, match="is no name for a token"):
            tokens.create(name, READ)

    def test_unknown_scope(self, tokens: TokenFile, path: Path) -> None:
        """A scope that does not exist is named, with those that do."""
        with pytest.raises(TokenError, match=r"unknown scope 'jobs\.rule': there are jobs\.read"):
            tokens.create("plugin", ("jobs.read", "jobs.rule"))

        assert not path.exists()

    def test_taken(self, tokens: TokenFile) -> None:
        """A name is given once; its token stays as it is."""
        secret = tokens.create("plugin", READ)

        with pytest.raises(TokenError, match="there is a token 'plugin' already"):
            tokens.create("plugin", SCOPES)

        found = tokens.find(secret)
        assert found is not None
        assert found.scopes == READ

    def test_too_many(self, tokens: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
        """The number of tokens has an end."""
        monkeypatch.setattr(module, "MAX_TOKENS", 2)
        tokens.create("one", READ)
        tokens.create("two", READ)

        with pytest.raises(TokenError, match="there are 2 tokens: revoke some first"):
            tokens.create("three", READ)

    def test_revoke_nobody(self, tokens: TokenFile) -> None:
        """Only a token that exists can be revoked."""
        with pytest.raises(TokenError, match="there is no token 'nobody'"):
            tokens.revoke("nobody")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": {"name": "a"}}', b"\xff"])
    def test_damaged_file(self, tokens: TokenFile, path: Path, content: bytes) -> None:
        """A damaged file lets nobody in, is named, and is not overwritten."""
        path.write_bytes(content)

        assert_unusable(tokens, r"tokens\.json is damaged")

        assert path.read_bytes() == content

    def test_too_long(self, tokens: TokenFile, path: Path) -> None:
        """A file that could not be one of tokens is not read to its end."""
        with path.open("wb") as file:
            file.truncate(2**40)

        assert_unusable(tokens, r"tokens\.json cannot be used \(longer than allowed\)")

    @pytest.mark.parametrize("plant", [_link, _second_name, _pipe, _directory])
    def test_planted(
        self, tokens: TokenFile, path: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
    ) -> None:
        """What is not a plain file of its own is not followed, not waited for, and told of."""
        precious = tmp_path / "precious"
        precious.write_bytes(b"{}")
        plant(path, precious)

        assert_unusable(tokens, "see who put it there, and remove it|cannot be used")

        assert precious.read_bytes() == b"{}"

    def test_held(self, tokens: TokenFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who holds the directory for ever is waited for so long, and then told of."""
        monkeypatch.setattr(module, "CHANGE_SECONDS", 0.1)
        holder = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(holder, fcntl.LOCK_EX)
            with pytest.raises(TokenFileError, match="another program has been holding"):
                tokens.create("plugin", READ)
        finally:
            os.close(holder)
        tokens.create("plugin", READ)

    def test_nothing_is_left(
        self, tokens: TokenFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that could not be written leaves the old one, and nothing beside it."""
        secret = tokens.create("plugin", READ)

        def fail(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as full:
            full.setattr(os, "fsync", fail)
            with pytest.raises(TokenFileError, match="No space left on device"):
                tokens.create("other", READ)

        assert [file.name for file in tmp_path.iterdir()] == ["tokens.json"]
        assert tokens.find(secret) is not None


class TestOthers:
    """Several programs use the same file."""

    def test_seen_at_once(self, tokens: TokenFile, path: Path) -> None:
        """What another program makes or revokes holds here from the next look on, every time."""
        other = TokenFile(path)
        for number in range(50):
            secret = other.create("plugin", READ)
            assert tokens.find(secret) is not None, number
            other.revoke("plugin")
            assert tokens.find(secret) is None, number

    def test_two_changes_between_looks(self, tokens: TokenFile, path: Path) -> None:
        """However quickly changes follow each other, none is overlooked."""
        other = TokenFile(path)
        for number in range(50):
            secret = other.create("plugin", READ)
            assert tokens.find(secret) is not None, number
            other.create("another", READ)
            other.revoke("another")
            other.revoke("plugin")
            assert tokens.find(secret) is None, number

    def test_no_change_is_lost(self, tokens: TokenFile, path: Path) -> None:
        """Programs that change the file at the same time lose nothing of each other."""
        programs = [
            subprocess.Popen([sys.executable, "-c", CREATE_MANY, str(path), name])
            for name in ("a", "b", "c")
        ]
        assert [program.wait(30) for program in programs] == [0, 0, 0]

        assert len(tokens.list()) == 60

    def test_reads_once(
        self, tokens: TokenFile, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that has not changed is not read again."""
        secret = tokens.create("plugin", READ)
        assert tokens.find(secret) is not None
        reads: list[object] = []
        monkeypatch.setattr(module, "open_regular", lambda path, **_more: reads.append(path))

        assert tokens.find(secret) is not None
        assert reads == []

    def test_file_removed(self, tokens: TokenFile, path: Path) -> None:
        """When the file is gone, so are the tokens."""
        secret = tokens.create("plugin", READ)
        assert tokens.find(secret) is not None
        path.unlink()

        assert tokens.find(secret) is None

    def test_root_makes_tokens_for_the_daemon(self, tmp_path: Path) -> None:
        """The file belongs to whom its directory belongs to, whoever wrote it last."""
        directory = tmp_path / "state"
        directory.mkdir()
        if os.geteuid() == 0:
            os.chown(directory, 12345, 12345)
        tokens = TokenFile(directory / "tokens.json")
        tokens.create("plugin", READ)
        tokens.create("other", READ)

        file, owner = (directory / "tokens.json").stat(), directory.stat()
        assert (file.st_uid, file.st_gid) == (owner.st_uid, owner.st_gid)

    @needs_root
    def test_root_is_not_led_astray(self, tmp_path: Path) -> None:
        """What the daemon's user has planted gets nothing of root's, and root says so."""
        tmp_path.chmod(0o755)
        directory, precious = tmp_path / "state", tmp_path / "shadow"
        directory.mkdir()
        os.chown(directory, 12345, 12345)
        precious.write_text("{}")
        precious.chmod(0o600)
        # As the names of new files were before: all that a process id could make of them.
        for number in range(os.getpid(), os.getpid() + 100):
            (directory / f".tokens.json.{number}").symlink_to(precious)
        file = directory / "tokens.json"
        TokenFile(file).create("plugin", READ)
        assert (file.is_symlink(), file.stat().st_uid) == (False, 12345)
        file.unlink()
        file.symlink_to(precious)
        with pytest.raises(TokenFileError, match="is a link, which is not followed"):
            TokenFile(file).create("plugin", READ)

        status = precious.stat()
        assert (status.st_uid, mode(precious), precious.read_text()) == (0, 0o600, "{}")
        assert file.is_symlink()

    @needs_root
    def test_directory_of_somebody_else(self, tmp_path: Path) -> None:
        """A link is followed to a directory of its own maker only; an administrator's always."""
        directory, link = tmp_path / "state", tmp_path / "link"
        directory.mkdir()
        link.symlink_to(directory)
        TokenFile(link / "tokens.json").create("plugin", READ)
        os.chown(link, 12345, 12345, follow_symlinks=False)
        with pytest.raises(TokenFileError, match="a link to somebody else's directory"):
            TokenFile(link / "tokens.json").create("other", READ)
        os.chown(directory, 12345, 12345)
        TokenFile(link / "tokens.json").create("other", READ)

        assert len(TokenFile(directory / "tokens.json").list()) == 2

    def test_scopes(self, tokens: TokenFile, path: Path) -> None:
        """What a token may do is known by its name, while it is there."""
        tokens.create("plugin", READ)
        asked = [("plugin", "jobs.read"), ("plugin", "admin"), ("nobody", "jobs.read")]
        assert [tokens.has_scope(*one) for one in asked] == [True, False, False]
        path.write_text("{")

        assert not tokens.has_scope("plugin", "jobs.read")

    def test_told_once(self, tokens: TokenFile, path: Path) -> None:
        """The log says once what is wrong, and again when it is wrong anew."""
        secret = tokens.create("plugin", READ)
        good = path.read_bytes()
        with capture_logs() as said:
            for content in (b"{", good, b"["):
                path.write_bytes(content)
                for _ in range(3):
                    with contextlib.suppress(CallsdError):
                        tokens.find(secret)

        assert [entry["event"] for entry in said] == ["tokens_unusable"] * 2
        assert all("tokens.json is damaged" in entry["problem"] for entry in said)
        assert secret not in str(said)

    def test_every_token_is_compared(
        self, tokens: TokenFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Time tells nothing: each token is compared, in constant time, wherever the match is."""
        secrets = [tokens.create(f"t{number}", READ) for number in range(10)]
        compared: list[str] = []
        compare = hmac.compare_digest

        def watch(one: str, two: str) -> bool:
            compared.append(one)
            return compare(one, two)

        monkeypatch.setattr(hmac, "compare_digest", watch)

        for secret in (secrets[0], secrets[-1], "callsd_wrong"):
            compared.clear()
            tokens.find(secret)
            assert compared == [digest(made) for made in secrets]


class OvertakenFile(TokenFile):
    """While it takes over what it has read, a thread that read before is just done, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before: Callable[[], object] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name != "before" and (late := self.__dict__.get("before")) is not None:
            self.before = None
            late()


class TestThreads:
    """Several threads read the file at once."""

    def test_overtaken(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that is late does not bring a revoked token back."""
        tokens = OvertakenFile(path)
        secret = tokens.create("plugin", READ)
        content, stamp = path.read_bytes(), module._stamp(path.stat())
        TokenFile(path).revoke("plugin")

        def read_before() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(module, "_read", lambda _path, _directory: content)
                patch.setattr(module, "_stamp", lambda _status: stamp)
                assert tokens.look_up(secret) is not None

        tokens.before = read_before
        tokens.find("anything")

        assert tokens.before is None
        assert tokens.look_up(secret) is None


class TestOwner:
    """The token of the user who runs the daemon."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """Where the owner's token lies."""
        return tmp_path / "owner.token"

    def test_made(self, tokens: TokenFile, file: Path) -> None:
        """The first start makes it, with all scopes, readable by nobody else."""
        write_owner_token(tokens, file)

        found = tokens.find(file.read_text())
        assert found is not None
        assert (found.name, found.scopes) == (OWNER, SCOPES)
        assert mode(file) == 0o600

    def test_survives_a_restart(self, tokens: TokenFile, path: Path, file: Path) -> None:
        """A token that is still good stays, for clients that hold it."""
        write_owner_token(tokens, file)
        secret = file.read_text()
        file.chmod(0o644)

        write_owner_token(TokenFile(path), file)

        assert file.read_text() == secret
        assert mode(file) == 0o600

    @pytest.mark.parametrize("content", ["callsd_wrong", "", None, b"\xff\xfe"])
    def test_replaced_when_worthless(
        self, tokens: TokenFile, file: Path, content: str | bytes | None
    ) -> None:
        """One that is lost or wrong is made anew, and the old one is worthless then."""
        write_owner_token(tokens, file)
        old = file.read_text()
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)

        write_owner_token(tokens, file)

        assert tokens.find(file.read_text()) is not None
        assert tokens.find(old) is None

    def test_somebody_elses(self, tokens: TokenFile, file: Path) -> None:
        """Another client's token in its place is not taken for it."""
        file.write_text(tokens.create("plugin", SCOPES))

        write_owner_token(tokens, file)

        found = tokens.find(file.read_text())
        assert found is not None
        assert found.name == OWNER

    @pytest.mark.parametrize("plant", [_link, _second_name, _pipe, _directory])
    def test_planted(
        self, tokens: TokenFile, file: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
    ) -> None:
        """In its place nothing is followed, waited for, or given another mode."""
        precious = tmp_path / "precious"
        precious.write_text("precious")
        precious.chmod(0o640)
        plant(file, precious)
        with pytest.raises(TokenFileError, match=r"owner\.token"):
            write_owner_token(tokens, file)

        assert (precious.read_text(), mode(precious)) == ("precious", 0o640)

    def test_new_scopes(self, tokens: TokenFile, path: Path, file: Path) -> None:
        """After an upgrade that brings scopes, the owner has these too."""
        old = Token(name=OWNER, sha256=digest("callsd_old"), scopes=READ, create_time=0.0)
        path.write_bytes(msgspec.json.encode({OWNER: old}))
        file.write_text("callsd_old")

        write_owner_token(tokens, file)

        found = tokens.find(file.read_text())
        assert found is not None
        assert found.scopes == SCOPES
