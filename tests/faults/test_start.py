# SPDX-License-Identifier: Apache-2.0
"""Starts that cannot succeed, or only after some tidying up."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd_daemon.startup import StartError, own_state
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants


NOBODY = 65534
PAGE_BYTES = 4096

STATE_UNUSABLE = 73
ALREADY_RUNNING = 75
CONFIG = 78

CERTIFICATE_IS_MISSING = {
    "listen": ["tcp:127.0.0.1:0"],
    "tls_certificate": "/no/such/cert.pem",
    "tls_key": __file__,  # is read first
}


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that runs; a test that ends it starts it again."""
    return shared_daemon()


class TestSecondInstance:
    """One daemon for one state directory, and for one runtime directory."""

    @pytest.mark.scenario(41, "second instance: exit code 75, the first does not notice")
    def test_refused(self, running: Daemon) -> None:
        """The second one leaves with 75 and a hint; the first one does not notice."""
        code, message = running.fail_to_start()

        assert code == ALREADY_RUNNING
        assert str(running.state) in message
        api = running.api()
        assert running.wait(api, running.create(api).job.name).state == JOB_STATE_SUCCEEDED
        assert_invariants(running)

    @pytest.mark.scenario(41, "second instance: exit code 75, the first does not notice")
    def test_same_runtime_directory(self, daemon: StartDaemon) -> None:
        """One that shares the runtime directory alone leaves as well, and all of it untouched."""
        one, two = daemon(), daemon(is_started=False)
        before = _named(one.runtime)
        two.runtime = one.runtime
        two.settings["state"]["runtime_directory"] = str(two.runtime)
        code, message = two.fail_to_start()

        assert code == ALREADY_RUNNING
        assert f"another callsd is running with {one.runtime}" in message
        assert "state.runtime_directory" in message
        assert _named(one.runtime) == before
        api = one.api()
        assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
        assert_invariants(one)
        one.stop()
        two.start()

    @pytest.mark.parametrize("where", ["state", "runtime"])
    def test_lock_is_not_followed(self, tmp_path: Path, where: str) -> None:
        """What was planted in the place of a lock is neither followed nor locked nor changed."""
        other = tmp_path / "other"
        other.write_bytes(b"precious")
        lock = tmp_path / where / "lock"
        lock.parent.mkdir()
        lock.symlink_to(other)
        with (
            pytest.raises(StartError, match=str(lock)) as refusal,
            own_state(tmp_path / "state", tmp_path / "runtime"),
        ):
            pass

        assert refusal.value.exit_code == STATE_UNUSABLE
        assert lock.readlink() == other
        assert other.read_bytes() == b"precious"

    def test_lock_is_its_own(self, running: Daemon) -> None:
        """Who may come to the socket cannot open the locks, so that nobody else can hold them."""
        for directory in (running.state, running.runtime):
            status = (directory / "lock").stat()
            assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())

    @pytest.mark.scenario(41, "a stale socket is replaced, a used one is not")
    def test_stale_sockets_are_replaced(self, running: Daemon) -> None:
        """What a killed daemon left behind is in nobody's way."""
        running.kill()
        assert (running.runtime / "callsd.sock").exists()
        assert (running.runtime / "workers" / "door.sock").exists()
        running.start()

        api = running.api()
        assert running.wait(api, running.create(api).job.name).state == JOB_STATE_SUCCEEDED

    @pytest.mark.scenario(41, "a stale socket is replaced, a used one is not")
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

    @pytest.mark.scenario(41, "a stale socket is replaced, a used one is not")
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


def _flipped(one: Daemon) -> None:
    _with_a_job(one).stop()
    database = one.state / "callsd.db"
    content = bytearray(database.read_bytes())
    for page in range(1, len(content) // PAGE_BYTES):
        content[page * PAGE_BYTES] ^= 0xFF
    database.write_bytes(content)


def _with_a_job(one: Daemon) -> Daemon:
    api = one.start().api()
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    return one


class TestState:
    """A state directory that cannot be used."""

    @pytest.mark.scenario(26, "the start refuses a damaged store: exit code 73, nothing changed")
    @pytest.mark.parametrize("spoil", [_a_file, _flipped])
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

    @pytest.mark.scenario(26, "a store whose log is missing is refused, never half of it taken")
    def test_log_is_missing(self, daemon: StartDaemon) -> None:
        """After a kill most of the jobs are in the log: without it the daemon does not start."""
        one = _with_a_job(daemon(is_started=False))
        one.kill()
        (one.state / "callsd.db-wal").unlink()
        before = _content(one.state)
        code, message = one.fail_to_start()

        assert code == STATE_UNUSABLE
        assert "callsd.db-wal is gone" in message
        assert _content(one.state) == before
        # Who knows that, and has nothing better, can have what is left.
        (one.state / "callsd.db-shm").unlink()
        one.acknowledged.clear()
        one.start()

    @pytest.mark.scenario(26, "a store on a disk that is read only: 73, with what to do")
    def test_read_only(self, running: Daemon) -> None:
        """The daemon says that the directory must be writable, and starts once it is."""
        running.stop()
        with read_only(running.state):
            code, message = running.fail_to_start()

        assert code == STATE_UNUSABLE
        assert str(running.state) in message
        assert "Traceback" not in message
        running.start()
        assert_invariants(running)

    @pytest.mark.scenario(41, "state directory of another user: 73, untouched")
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

    @pytest.mark.scenario(41, "lost and strange files are no reason not to start")
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


def _named(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that is in a directory: which file it is, since when, and what it says."""
    return {
        str(path.relative_to(directory)): (
            (status := path.stat()).st_ino,
            status.st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(directory.rglob("*"))
    }


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """A disk that the system has made read only."""
    bind = ["/bin/mount", "--bind", str(directory), str(directory)]
    if os.geteuid() or subprocess.run(bind, check=False, capture_output=True).returncode:
        pytest.skip("only root with CAP_SYS_ADMIN can make a disk read only")
    try:
        remount = ["/bin/mount", "-o", "remount,ro,bind", str(directory)]
        subprocess.run(remount, check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["/bin/umount", str(directory)], check=True, capture_output=True)


def _content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    # The lock is made by each try, and holds nothing; nor do the files of a look at the database.
    files = {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in ("lock", "callsd.db-shm")
    }
    return {name: content for name, content in files.items() if content or name != "callsd.db-wal"}


class TestConfiguration:
    """Settings that cannot be used."""

    @pytest.mark.parametrize(
        ("section", "values", "says"),
        [
            ("jobs", {"max_concurent_jobs": 1}, "jobs.max_concurrent_jobs"),
            ("server", {"socket_group": "no-such-group"}, "server.socket_group"),
            ("server", CERTIFICATE_IS_MISSING, "/no/such/cert.pem"),
            ("gateway", {"ca_file": "/no/such/ca.pem"}, "gateway.ca_file"),
        ],
    )
    def test_refused(
        self, daemon: StartDaemon, section: str, values: dict[str, object], says: str
    ) -> None:
        """The daemon leaves with 78, and names the setting or its file."""
        one = daemon(is_started=False, config={section: values})
        code, message = one.fail_to_start()

        assert code == CONFIG
        assert says in message
        assert "Traceback" not in message

    @pytest.mark.scenario(41, "port taken: 73 or 78, with the endpoint")
    def test_port_taken(self, daemon: StartDaemon) -> None:
        """Two programs never share a port; the message names the endpoint."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            endpoint = f"tcp:127.0.0.1:{port}"
            one = daemon(is_started=False, config={"server": {"listen": [endpoint]}})
            code, message = one.fail_to_start()

        assert code == STATE_UNUSABLE
        assert endpoint in message

    @pytest.mark.scenario(41, "port taken: 73 or 78, with the endpoint")
    def test_metrics_port_taken(self, daemon: StartDaemon) -> None:
        """A metrics port that is taken is a mistake in the configuration, and said so."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            endpoint = f"127.0.0.1:{other.getsockname()[1]}"
            one = daemon(is_started=False, config={"metrics": {"listen": endpoint}})
            code, message = one.fail_to_start()

        assert code == CONFIG
        assert endpoint in message
