# SPDX-License-Identifier: Apache-2.0
"""Who can reach what: people of the group callsd, and the modes of files."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests.boot.service import CALL, RUNTIME, STATE, Service
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.timeout(240)

SIDE_BY_SIDE = 4

MARY = "mary"
TOKEN = "/home/mary/token"

NOT_ALLOWED, USAGE = 6, 2
"""Exit codes of `callsd`: the token is missing or lacks a scope; no such command."""

TRACK = f"--track=nina={CALL}/nina.ogg"

ASKING = [
    "capacity",
    "jobs list",
    "jobs get {job}",
    "jobs logs {job}",
    "jobs fetch {job}",
    "jobs watch",
    "models list",
    "captions watch {job}",
]
"""What asks the daemon, and changes nothing."""

CHANGING = [
    f"jobs create {TRACK}",
    "jobs stop {job}",
    "jobs delete {job}",
    "captions create",
    f"captions stream --call {CALL}/nina.ogg",
    "record http://127.0.0.1/",
    "models pull tiny.en",
    "models verify tiny.en",
]

OWNING = [
    "tokens create eve --scope admin",
    "tokens list",
    "tokens revoke mary",
    "backup /home/mary/copy",
    "serve",
    "install",
    "uninstall --purge",
]
"""What works on the daemon's own files."""


@pytest.fixture(scope="module")
def mary(service: Service) -> str:
    """A member of the group callsd; she has no token."""
    service.machine.run("useradd", "--create-home", "--groups", "callsd", MARY)
    return MARY


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    """A transcription that has ended."""
    job = service.transcribe(tracks=(f"nina={CALL}/nina.ogg",))
    service.wait(job)
    return job


@pytest.fixture
def worker(service: Service) -> Iterator[str]:
    """The directory of a worker that is at work, beside a captioner."""
    job, call = service.transcribe(), service.caption()
    directory = f"{STATE}/workers/{job}"
    log = service.machine.path(f"{directory}/log.txt")
    eventually(log.exists, "its log is there", seconds=30)
    yield directory
    service.stop(job)
    service.stop(call)


class TestMember:
    """Whoever is in the group callsd reaches the socket, and nothing else."""

    def test_without_a_token_every_command_is_refused(
        self, service: Service, mary: str, job: str
    ) -> None:
        """The group opens the socket; only a token opens the daemon."""
        for done in _try(service, mary, [one.format(job=job) for one in ASKING + CHANGING]):
            assert done.returncode == NOT_ALLOWED, done
            assert "token" in done.stderr, done
        for done in _try(service, mary, OWNING):
            assert done.returncode not in (0, USAGE), done
        assert service.job(job).state == JOB_STATE_SUCCEEDED

    def test_no_file_can_be_reached(
        self, service: Service, mary: str, job: str, worker: str
    ) -> None:
        """Of state and runtime directory there is only the socket that can be used, or found."""
        find = "find {} ( -readable -o -writable -o -executable )"
        reached = {
            path: _as(service, mary, *find.format(path).split()) for path in (STATE, RUNTIME)
        }
        assert reached[STATE] == []
        assert reached[RUNTIME] == [RUNTIME, f"{RUNTIME}/callsd.sock"]
        assert _as(service, mary, "find", RUNTIME, "-writable") == [f"{RUNTIME}/callsd.sock"]
        # By names that are known, too.
        names = service.machine.run("find", STATE, RUNTIME).splitlines()
        assert f"{STATE}/jobs/{job}/artifacts/transcript.vtt" in names
        assert {f"{RUNTIME}/workers/door.sock", f"{worker}/log.txt"} <= set(names)
        tests = 'for n; do [ -r "$n" ] || [ -w "$n" ] || [ -x "$n" ] && echo "$n"; done; true'
        assert set(_as(service, mary, "sh", "-c", tests, "sh", *names)) == set(reached[RUNTIME])

    def test_a_token_opens_what_it_says(self, service: Service, mary: str, job: str) -> None:
        """With jobs.read she reads jobs and changes nothing, nor does she become the owner."""
        token = service.callsd("tokens", "create", mary, "--scope=jobs.read")
        (service.machine.root / TOKEN.lstrip("/")).write_text(token)
        service.machine.run("chown", f"{mary}:", TOKEN)
        service.machine.run("chmod", "0600", TOKEN)
        listed = json.loads(
            service.callsd("--json", "--token-file", TOKEN, "jobs", "get", job, user=mary)
        )
        assert listed["state"] == "JOB_STATE_SUCCEEDED"
        service.callsd("--token-file", TOKEN, "jobs", "fetch", job, "-o/home/mary/out", user=mary)
        assert "WEBVTT" in service.machine.run("cat", "/home/mary/out/transcript.vtt")
        changing = [f"--token-file {TOKEN} {one.format(job=job)}" for one in CHANGING]
        for done in _try(service, mary, changing):
            assert done.returncode == NOT_ALLOWED, done
        assert _as(service, mary, "cat", f"{RUNTIME}/owner.token") == []
        for name in ("owner.token", "callsd.sock"):
            link = f"/home/mary/{name}"
            _as(service, mary, "ln", "-s", f"{RUNTIME}/{name}", link)
        done = service.attempt("--address=unix:/home/mary/callsd.sock", "capacity", user=mary)
        assert done.returncode != 0, done


OWN = re.compile("(d 700|f 600) callsd:callsd .*")
SHARED = [
    re.compile(one)
    for one in (
        "d 2700 callsd:callsd-worker workers",
        # A worker's directory, which nobody else can enter, and what it makes there.
        "d 770 callsd:callsd-worker workers/[0-9a-f]{20}",
        "[dfl] [2-7]?[67][0-7][0-7] callsd-[0-9a-f]{20}:callsd-worker workers/[0-9a-f]{20}/.*",
        # The files of a model are handed to workers, who open them once more by their descriptors.
        "f 644 callsd:callsd models/[^/]+/(ctranslate2|ggml)/[^/]+",
        # Finished files are moved, not copied: they stay their worker's, who is no more.
        "f 660 [0-9]+:callsd-worker jobs/[0-9a-f]{20}/artifacts/[^/]+",
    )
]
"""What is not the daemon's alone, as find prints it."""


class TestModes:
    """What lies on the disk is the daemon's alone, but for what it shares with workers."""

    def test_all_is_the_daemons_own(self, service: Service, job: str, worker: str) -> None:
        """State is 0700 and 0600, but for what workers write, or have written.

        Nobody but the daemon can enter the directory of all that, whatever the modes in there.
        """
        listed = service.machine.run(
            *("find", STATE, "-path", f"{STATE}/trash/*", "-prune", "-o"),
            *("-printf", "%y %m %u:%g %P\\n"),
        )
        odd = [line for line in listed.splitlines() if not OWN.fullmatch(line)]
        assert [line for line in odd if not any(one.fullmatch(line) for one in SHARED)] == []
        for one in SHARED:
            assert any(one.fullmatch(line) for line in odd), one
        assert f"d 770 callsd:callsd-worker {worker.removeprefix(STATE)[1:]}" in odd

    def test_the_runtime_directory_is_shared_by_name(self, service: Service) -> None:
        """There is one socket for the group, one directory of sockets for workers: no more.

        What a worker was told, and where, is gone when it has ended.
        """
        find = ("find", RUNTIME, "-printf", "%m %u:%g %y %p\\n")
        expected = {
            f"750 callsd:callsd d {RUNTIME}",
            f"2700 callsd:callsd-worker d {RUNTIME}/bootstrap",
            f"660 callsd:callsd s {RUNTIME}/callsd.sock",
            f"600 callsd:callsd f {RUNTIME}/lock",
            f"600 callsd:callsd f {RUNTIME}/owner.token",
            f"2710 callsd:callsd-worker d {RUNTIME}/workers",
            f"660 callsd:callsd-worker s {RUNTIME}/workers/door.sock",
            f"660 callsd:callsd-worker s {RUNTIME}/workers/files.sock",
        }
        units = ("systemctl", "list-units", "--plain", "--no-legend", "callsd-*@*")
        eventually(lambda: not service.machine.run(*units), "all have ended", seconds=30)
        eventually(
            lambda: set(service.machine.run(*find).splitlines()) == expected,
            service.machine.run(*find),
            seconds=10,
        )


def _try(
    service: Service, user: str, commands: list[str]
) -> list["subprocess.CompletedProcess[str]"]:
    """Have somebody run these commands, some side by side."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return list(threads.map(lambda one: service.attempt(*one.split(), user=user), commands))


def _as(service: Service, user: str, *command: str) -> list[str]:
    """Run a command as somebody; the lines that it prints."""
    return service.machine.attempt("runuser", "-u", user, "--", *command).stdout.splitlines()
