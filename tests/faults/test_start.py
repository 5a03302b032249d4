# SPDX-License-Identifier: Apache-2.0
"""Starts that cannot succeed, or only after some tidying up."""

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants


NOBODY = 65534

STATE_UNUSABLE = 73
ALREADY_RUNNING = 75
CONFIG = 78


class TestSecondInstance:
    """One daemon for one state directory."""

    def test_refused(self, daemon: StartDaemon) -> None:
        """The second one leaves with 75 and a hint; the first one does not notice."""
        one = daemon()
        code, message = one.fail_to_start()

        assert code == ALREADY_RUNNING
        assert str(one.state) in message
        api = one.api()
        assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
        assert_invariants(one)

    def test_stale_sockets_are_replaced(self, daemon: StartDaemon) -> None:
        """What a killed daemon left behind is in nobody's way."""
        one = daemon()
        one.kill()
        assert (one.runtime / "callsd.sock").exists()
        assert (one.runtime / "workers" / "door.sock").exists()
        one.start()

        api = one.api()
        assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED

    def test_socket_in_use(self, daemon: StartDaemon) -> None:
        """A socket at which another program listens stays that program's."""
        one = daemon(is_started=False)
        one.runtime.mkdir()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(one.runtime / "callsd.sock"))
            other.listen()
            code, message = one.fail_to_start()

            assert code == ALREADY_RUNNING
            assert "another program is listening" in message
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(one.runtime / "callsd.sock"))

    def test_file_in_the_way(self, daemon: StartDaemon) -> None:
        """A file where the socket shall be is not deleted."""
        one = daemon(is_started=False)
        one.runtime.mkdir()
        (one.runtime / "callsd.sock").write_text("precious")
        code, message = one.fail_to_start()

        assert code == STATE_UNUSABLE
        assert "callsd.sock" in message
        assert (one.runtime / "callsd.sock").read_text() == "precious"


def _a_file(one: Daemon) -> None:
    one.state.write_text("no directory")


def _damaged(one: Daemon) -> None:
    one.start().stop()
    database = one.state / "callsd.db"
    for name in ("callsd.db-wal", "callsd.db-shm"):
        (one.state / name).unlink(missing_ok=True)
    database.write_bytes(b"\xa5" * database.stat().st_size)


def _empty(one: Daemon) -> None:
    one.start().stop()
    (one.state / "callsd.db").write_bytes(b"")


class TestState:
    """A state directory that cannot be used."""

    @pytest.mark.parametrize("spoil", [_a_file, _damaged, _empty])
    def test_refused(self, daemon: StartDaemon, spoil: Callable[[Daemon], None]) -> None:
        """The daemon leaves with 73, names the place, and changes nothing in it."""
        one = daemon(is_started=False)
        spoil(one)
        before = _content(one.state)
        code, message = one.fail_to_start()

        assert code == STATE_UNUSABLE
        assert message.startswith("callsd: ")
        assert str(one.state) in message
        assert "Traceback" not in message
        assert _content(one.state) == before

    def test_of_another_user(self, daemon: StartDaemon) -> None:
        """A directory that belongs to somebody else is left alone."""
        one = daemon(is_started=False)
        if os.geteuid() == 0:
            one.state.mkdir()
            os.chown(one.state, NOBODY, NOBODY)
        else:
            one.settings["state"]["directory"] = "/usr/lib"
        code, message = one.fail_to_start()

        assert code == STATE_UNUSABLE
        assert "another user" in message
        assert not one.state.exists() or list(one.state.iterdir()) == []

    def test_database_of_a_newer_release(self, daemon: StartDaemon) -> None:
        """A downgrade is refused with 78, and says what to do."""
        one = daemon()
        one.stop()
        database = sqlite3.connect(one.state / "callsd.db")
        database.execute("PRAGMA user_version = 99")
        database.close()
        code, message = one.fail_to_start()

        assert code == CONFIG
        assert "99" in message
        assert "Traceback" not in message

    def test_lost_files_do_not_stop_the_start(self, daemon: StartDaemon) -> None:
        """Directories of jobs that are gone, and strange ones, are no reason not to start."""
        one = daemon()
        api = one.api()
        job = one.create(api).job
        one.wait(api, job.name)
        one.stop()
        shutil.rmtree(one.state / "jobs" / job.name.removeprefix("jobs/"))
        (one.state / "uploads" / "strange").mkdir()
        api = one.start().api()

        assert one.job(api, job.name).state == JOB_STATE_SUCCEEDED


def _content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    # The lock is made by each try, and holds nothing.
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


class TestConfiguration:
    """Settings that cannot be used."""

    @pytest.mark.parametrize(
        ("section", "key", "value", "says"),
        [
            ("jobs", "max_concurent_jobs", 1, "jobs.max_concurrent_jobs"),
            ("jobz", "max_attempts", 1, "[jobz]"),
            ("jobs", "max_attempts", 0, "jobs.max_attempts"),
            ("jobs", "max_attempts", "three", "jobs.max_attempts"),
            ("log", "level", "loud", "log.level"),
            ("media", "roots", ["relative"], "media.roots"),
            ("server", "listen", ["tcp:0.0.0.0:7411"], "tls_certificate"),
            ("server", "listen", ["http://here"], "server.listen"),
            ("server", "tls_key", "/key.pem", "tls_certificate"),
            ("server", "socket_group", "no-such-group", "server.socket_group"),
            ("metrics", "listen", "nowhere", "metrics.listen"),
        ],
    )
    def test_refused(
        self, daemon: StartDaemon, section: str, key: str, value: object, says: str
    ) -> None:
        """The daemon leaves with 78, and names the setting."""
        one = daemon(is_started=False, config={section: {key: value}})
        code, message = one.fail_to_start()

        assert code == CONFIG
        assert says in message
        assert "Traceback" not in message

    def test_port_taken(self, daemon: StartDaemon) -> None:
        """Two programs never share a port; the message names the endpoint."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            endpoint = f"tcp:127.0.0.1:{port}"
            one = daemon(is_started=False, config={"server": {"listen": [endpoint]}})
            code, message = one.fail_to_start()

        assert code == STATE_UNUSABLE
        assert endpoint in message

    def test_metrics_port_taken(self, daemon: StartDaemon) -> None:
        """A metrics port that is taken is a mistake in the configuration, and said so."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            endpoint = f"127.0.0.1:{other.getsockname()[1]}"
            one = daemon(is_started=False, config={"metrics": {"listen": endpoint}})
            code, message = one.fail_to_start()

        assert code == CONFIG
        assert endpoint in message
