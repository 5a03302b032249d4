# SPDX-License-Identifier: Apache-2.0
"""Addresses and where they come from."""

import os
import pwd
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd import Endpoint, SettingsError
from callsd._endpoint import runtime_directory
from callsd_daemon.config import default_runtime_directory


class TestAddress:
    """What an address may look like."""

    @pytest.mark.parametrize(
        ("address", "target", "secure", "local"),
        [
            ("unix:/run/callsd/callsd.sock", "unix:/run/callsd/callsd.sock", False, True),
            ("unix:/run/a%20b/ü.sock", "unix:/run/a%2520b/%C3%BC.sock", False, True),
            ("tcp:127.0.0.1:7411", "dns:///127.0.0.1:7411", False, True),
            ("tcp:[::1]:7411", "dns:///[::1]:7411", False, True),
            ("tcp:localhost:7411", "dns:///localhost:7411", False, True),
            ("tls:calls.example:443", "dns:///calls.example:443", True, False),
        ],
    )
    def test_good_addresses(self, address: str, target: str, *, secure: bool, local: bool) -> None:
        """Each form of address is understood."""
        endpoint = Endpoint(address=address)

        assert (endpoint.target, endpoint.secure, endpoint.local) == (target, secure, local)

    @pytest.mark.parametrize(
        "address",
        [
            *("", "callsd", "unix:relative", f"unix:/{107 * 'x'}", "tcp:host", "tcp::1"),
            *("tls:h:0", "tls:h:70000", "tls:ü:1", "http:h:1"),
        ],
    )
    def test_bad_addresses(self, address: str) -> None:
        """A malformed address is refused before anything is sent."""
        with pytest.raises(SettingsError, match=r"expected|absolute|at most"):
            Endpoint(address=address)

    def test_no_token_in_the_clear(self) -> None:
        """Plain TCP beyond this machine is refused, with the remedy."""
        with pytest.raises(SettingsError, match="tls:"):
            Endpoint(address="tcp:calls.example:7411")

    def test_ca_file_means_tls(self, tmp_path: Path) -> None:
        """With a certificate to trust, tcp: is encrypted, and so may leave the machine."""
        assert Endpoint(address="tcp:calls.example:7411", ca_file=tmp_path / "ca.pem").secure


class TestDiscover:
    """Where the address and the token come from."""

    def test_environment(self, tmp_path: Path) -> None:
        """The environment names address, token and certificates."""
        environ = {
            "CALLSD_ADDRESS": "tls:calls.example:443",
            "CALLSD_TOKEN_FILE": "/token",
            "CALLSD_CA_FILE": "/ca.pem",
        }
        assert Endpoint.discover(environ=environ) == Endpoint(
            address="tls:calls.example:443", token_file=Path("/token"), ca_file=Path("/ca.pem")
        )

    def test_arguments_come_first(self) -> None:
        """What is given wins over the environment."""
        found = Endpoint.discover(address="unix:/a", environ={"CALLSD_ADDRESS": "unix:/b"})

        assert found.address == "unix:/a"

    def test_owner_token_beside_the_socket(self, tmp_path: Path) -> None:
        """The owner needs to name no token."""
        (tmp_path / "owner.token").write_text("callsd_x")

        found = Endpoint.discover(address=f"unix:{tmp_path}/callsd.sock", environ={})

        assert found.token_file == tmp_path / "owner.token"
        assert found.metadata() == (("authorization", "Bearer callsd_x"),)

    def test_a_token_that_goes_with_its_daemon(self, tmp_path: Path) -> None:
        """A token file that is gone for a while is no mistake in the settings; a new one counts."""
        (tmp_path / "owner.token").write_text("callsd_x\n")
        found = Endpoint.discover(address=f"unix:{tmp_path}/callsd.sock", environ={})
        found.metadata()
        (tmp_path / "owner.token").unlink()
        assert found.metadata() == (("authorization", "Bearer callsd_x"),)
        (tmp_path / "owner.token").write_text("callsd_y\n")
        assert found.metadata() == (("authorization", "Bearer callsd_y"),)

    def test_no_token_at_all(self, tmp_path: Path) -> None:
        """Without a token file the call goes out without a token, and the server says so."""
        assert Endpoint.discover(address=f"unix:{tmp_path}/s", environ={}).metadata() == ()

    def test_own_daemon_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without an address, the socket of the user's own daemon is taken."""
        monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid)
        monkeypatch.setattr("callsd._endpoint.SYSTEM_RUNTIME_DIRECTORY", tmp_path / "callsd")
        (tmp_path / "callsd").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "callsd" / "callsd.sock"))

            found = Endpoint.discover(environ={"XDG_RUNTIME_DIR": str(tmp_path)})

        assert found.address == f"unix:{tmp_path}/callsd/callsd.sock"

    def test_the_systems_daemon_is_found_though_it_is_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a service is installed it is meant, also while it is stopped or closed to us."""
        monkeypatch.setattr("callsd._endpoint.SYSTEM_RUNTIME_DIRECTORY", tmp_path / "system")
        monkeypatch.setattr("callsd._endpoint.runtime_directory", lambda _: tmp_path / "own")
        before = Endpoint.discover(environ={})
        (tmp_path / "system").mkdir()

        assert before.address == f"unix:{tmp_path}/own/callsd.sock"
        assert Endpoint.discover(environ={}).address == f"unix:{tmp_path}/system/callsd.sock"

    @pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "/run/user/7"}])
    @pytest.mark.parametrize("user", [0, 7])
    def test_client_and_daemon_agree(
        self, environ: dict[str, str], user: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client looks where the daemon listens by default."""
        monkeypatch.setattr(os, "geteuid", lambda: user)

        assert runtime_directory(environ) == default_runtime_directory(environ)


def socket_at(path: Path, *, owner: int | None = None) -> Path:
    """A socket that nobody listens at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    if owner is not None:
        os.chown(path, owner, -1)
    return path


STRANGER = 12_345
FRIEND = 12_346


@pytest.fixture
def near() -> Iterator[Path]:
    """A directory that nobody else may write in, nor in those above it, /tmp but for its files."""
    with tempfile.TemporaryDirectory(prefix="callsd-", dir="/tmp") as path:
        yield Path(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is somebody else's")
class TestStrangers:
    """Sockets of somebody else."""

    def test_a_named_socket_of_a_stranger_gets_nothing(self, near: Path) -> None:
        """No token goes to whoever made the socket; the error says whose it is and what to do."""
        (near / "owner.token").write_text("callsd_x")
        path = socket_at(near / "callsd.sock", owner=STRANGER)
        endpoint = Endpoint.discover(address=f"unix:{path}", environ={})

        with pytest.raises(SettingsError, match=f"{STRANGER}.*CALLSD_SOCKET_OWNER={STRANGER}"):
            endpoint.metadata()

    @pytest.mark.parametrize("user", [str(FRIEND), "nobody"])
    def test_a_user_who_is_named_is_no_stranger(self, near: Path, user: str) -> None:
        """Who knows better says whose the socket may be, by name or by number."""
        owner = FRIEND if user.isdecimal() else pwd.getpwnam(user).pw_uid
        path = socket_at(near / "callsd.sock", owner=owner)
        environ = {"CALLSD_SOCKET_OWNER": user}

        assert Endpoint.discover(address=f"unix:{path}", environ=environ).metadata() == ()

    def test_each_call_looks(self, near: Path) -> None:
        """A daemon that is stopped and replaced by a stranger's gets no more calls."""
        path = socket_at(near / "callsd.sock")
        endpoint = Endpoint.discover(address=f"unix:{path}", environ={})
        endpoint.metadata()
        path.unlink()
        endpoint.metadata()
        socket_at(path, owner=STRANGER)

        with pytest.raises(SettingsError):
            endpoint.metadata()

    def test_the_services_own_user_is_trusted(
        self, near: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The socket of the installed service is good for everybody."""
        monkeypatch.setattr("callsd._owner.SERVICE_USER", "nobody")
        path = socket_at(near / "callsd.sock", owner=pwd.getpwnam("nobody").pw_uid)

        assert Endpoint.discover(address=f"unix:{path}", environ={}).metadata() == ()

    def found(self, near: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
        """What is found by default, with a token and no daemon of the system."""
        (near / "token").write_text("callsd_x")
        monkeypatch.setattr("callsd._endpoint.SYSTEM_RUNTIME_DIRECTORY", near / "system")
        monkeypatch.setattr("callsd._endpoint.runtime_directory", lambda _: near / "own" / "callsd")
        return Endpoint.discover(environ={"CALLSD_TOKEN_FILE": str(near / "token")})

    def test_a_default_socket_of_our_own_gets_the_token(
        self, near: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is ours, in directories of ours, is used; while it is away as well."""
        (near / "own" / "callsd").mkdir(parents=True)

        assert self.found(near, monkeypatch).metadata()
        socket_at(near / "own" / "callsd" / "callsd.sock")
        assert self.found(near, monkeypatch).metadata()

    def test_a_default_socket_of_a_stranger_gets_nothing(
        self, near: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stranger's socket, in a stranger's directory, is not our daemon."""
        socket_at(near / "own" / "callsd" / "callsd.sock", owner=STRANGER)
        os.chown(near / "own" / "callsd", STRANGER, -1)

        with pytest.raises(SettingsError, match=r"belongs to 12345.*CALLSD_ADDRESS"):
            self.found(near, monkeypatch).metadata()

    @pytest.mark.parametrize("mode", [0o777, 0o775])
    @pytest.mark.parametrize("place", ["own", "own/callsd"])
    def test_a_default_place_that_others_may_change_is_refused(
        self, near: Path, place: str, mode: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who may replace the socket, or its directory, may do so at any time."""
        socket_at(near / "own" / "callsd" / "callsd.sock")
        (near / place).chmod(mode)

        with pytest.raises(SettingsError, match=f"others may write in {near / place}:"):
            self.found(near, monkeypatch).metadata()

    def test_a_default_place_that_others_may_make_is_refused(
        self, near: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where there is no daemon, nobody else can become it between two looks."""
        (near / "own").mkdir()
        (near / "own").chmod(0o1777)
        endpoint = self.found(near, monkeypatch)

        with pytest.raises(SettingsError, match="others may make it"):
            endpoint.metadata()
        (near / "own" / "callsd").mkdir(mode=0o700)
        assert endpoint.metadata()

    def test_a_strangers_link_is_refused(self, near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A link to what is ours can be turned to what is not."""
        socket_at(near / "real" / "callsd.sock")
        (near / "own").mkdir()
        (near / "own" / "callsd").symlink_to(near / "real")
        assert self.found(near, monkeypatch).metadata()
        os.chown(near / "own" / "callsd", STRANGER, -1, follow_symlinks=False)

        with pytest.raises(SettingsError, match="belongs to 12345"):
            self.found(near, monkeypatch).metadata()
