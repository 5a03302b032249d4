# SPDX-License-Identifier: Apache-2.0
"""nginx as docs/proxy.md configures it, as an ordinary process on a high port."""

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.helpers.daemon import ROOT, Daemon
from tests.helpers.ports import free_port
from tests.helpers.waiting import eventually


PAGE = ROOT / "docs" / "proxy.md"
TLS = ROOT / "tests" / "rpc" / "tls"
CA_FILE = TLS / "cert.pem"
END_SECONDS = 10.0

MAIN = """
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/callsd.conf;
}}
"""


def documented() -> str:
    """The configuration in docs/proxy.md."""
    (found,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def without_b(config: str) -> str:
    """The same for one daemon."""
    config = re.sub(r"upstream b\..*?\n}\n", "", config, flags=re.DOTALL)
    return re.sub(r"^ +b\.calls.*\n| b\.calls\.example(?=;)", "", config, flags=re.MULTILINE)


class Nginx:
    """nginx in front of two daemons: `a` is reached as localhost, `b` as 127.0.0.1.

    These are the two names in the certificate of the tests, as the two daemons have names in the
    page. `a` is passed on to by its unix socket, `b` by TLS over TCP.
    """

    def __init__(self, directory: Path, config: str, a: Daemon, b_port: int = 0) -> None:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.fail("no nginx: apt-get install nginx-light", pytrace=False)
        self._program, self._directory = program, directory
        self._port = free_port()
        for documented_, here in (
            ("/run/callsd/callsd.sock", str(a.runtime / "callsd.sock")),
            ("192.0.2.2:7411", f"127.0.0.1:{b_port}"),
            ("b.internal.example", "localhost"),
            ("a.calls.example", "localhost"),
            ("b.calls.example", "127.0.0.1"),
            ("listen 443", f"listen 127.0.0.1:{self._port}"),
            ("/etc/ssl/calls.example.pem", str(CA_FILE)),
            ("/etc/ssl/calls.example.key", str(TLS / "key.pem")),
            ("/etc/ssl/callsd-ca.pem", str(CA_FILE)),
        ):
            config = config.replace(documented_, here)
        (directory / "callsd.conf").write_text(config)
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(MAIN.format(user=user, directory=directory))
        self.process: subprocess.Popen[bytes] | None = None

    def address(self, name: str) -> str:
        """The address of a daemon, by its name for clients."""
        return f"tls:{name}:{self._port}"

    def start(self) -> Self:
        """Start, and wait until it listens."""
        log = self._directory / "error.log"
        self.process = subprocess.Popen(
            [
                *(self._program, "-p", str(self._directory), "-e", str(log)),
                *("-c", str(self._directory / "nginx.conf")),
            ],
            stdin=subprocess.DEVNULL,
        )
        eventually(self._is_listening, "nginx listens")
        return self

    def _is_listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self._directory / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        """End it at once, with all connections."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(END_SECONDS)

    def reload(self) -> None:
        """Read the configuration anew."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
