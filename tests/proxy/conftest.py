# SPDX-License-Identifier: Apache-2.0
"""nginx in front of two daemons."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from callsd import Client
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.ports import free_port
from tests.proxy.nginx import CA_FILE, TLS, Nginx, documented


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Two daemons and what stands before them."""

    nginx: Nginx
    a: Daemon
    b: Daemon

    def client(self, name: str) -> Client:
        """A client of a daemon, by its name; the caller closes it."""
        daemon = self.a if name == "localhost" else self.b
        address = self.nginx.address(name)
        return Client(address, token_file=daemon.token_file, ca_file=CA_FILE)


@pytest.fixture
def front(daemon: StartDaemon, tmp_path: Path, models_directory: Path) -> Iterator[Front]:
    """`a` has the real engine, `b` scripted workers."""
    a = daemon(is_real=True, machine=None, config={"admission": {"enforced": False}})
    b, port = daemon(is_started=False), free_port()
    b.settings["server"] = {
        "listen": [b.address, f"tcp:127.0.0.1:{port}"],
        "tls_certificate": str(CA_FILE),
        "tls_key": str(TLS / "key.pem"),
    }
    b.start()
    with Nginx(tmp_path, documented(), a, port) as nginx:
        yield Front(nginx=nginx, a=a, b=b)
