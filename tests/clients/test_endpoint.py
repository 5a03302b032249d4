# SPDX-License-Identifier: Apache-2.0
"""Addresses and where they come from."""

import os
import socket
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
        ["", "callsd", "unix:relative", "tcp:host", "tcp::1", "tls:h:0", "tls:h:70000", "http:h:1"],
    )
    def test_bad_addresses(self, address: str) -> None:
        """A malformed address is refused before anything is sent."""
        with pytest.raises(SettingsError, match=r"expected|absolute"):
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

    @pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "/run/user/7"}])
    @pytest.mark.parametrize("user", [0, 7])
    def test_client_and_daemon_agree(
        self, environ: dict[str, str], user: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client looks where the daemon listens by default."""
        monkeypatch.setattr(os, "geteuid", lambda: user)

        assert runtime_directory(environ) == default_runtime_directory(environ)
