# SPDX-License-Identifier: Apache-2.0
"""What `callsd doctor` looks at. Each check is a generator of findings and changes nothing."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from callsd import AccessError, CallsdError, Client, SettingsError
from callsd_daemon.cli.doctor.checks_recording import check_recording
from callsd_daemon.cli.doctor.checks_units import check_units
from callsd_daemon.cli.doctor.finding import Finding, Status, first_line, problem
from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.context import Cli
from callsd_daemon.cli.shared.exit import Problem
from callsd_daemon.cli.shared.output import size
from callsd_daemon.config import Config
from callsd_daemon.models.store import ModelState, ModelStore
from callsd_daemon.startup import DATABASE_FILE, STATE_DIRECTORIES, TOKENS_FILE, user_name
from callsd_daemon.store.damage import check_database
from callsd_daemon.store.files import beside
from callsd_daemon.store.migrations import SchemaTooNewError
from callsd_daemon.tokens import TokenFile, TokenFileError


MIN_PYTHON = (3, 11)

# Module, what it is for, extra that brings it, and whether callsd transcribes nothing without it.
WORKER_MODULES = (
    ("av", "decoding media", "daemon", True),
    ("numpy", "sound as numbers", "daemon", True),
    ("onnxruntime", "finding speech", "daemon", True),
    ("ctranslate2", "engine ctranslate2", "daemon", True),
    ("faster_whisper", "engine ctranslate2", "daemon", True),
    ("tokenizers", "engine ctranslate2", "daemon", True),
    ("pywhispercpp", "engine whispercpp", "whispercpp", False),
    ("onnx", "pulling moonshine-base", "moonshine", False),
    ("onnx_asr", "models of the Parakeet kind", "parakeet", False),
    ("jiwer", "callsd bench", "bench", False),
)

# A worker's modules are imported in a process of their own: that takes seconds when cold.
IMPORT_TIMEOUT_SECONDS = 60.0
# A healthy daemon answers in milliseconds, even while jobs run.
ANSWER_TIMEOUT_SECONDS = 5.0
RESTORE = "stop callsd, copy jobs/ and workers/ away, callsd restore BACKUP, start callsd"
# Below this the next long recording fails.
MIN_FREE_BYTES = 2 * 1024**3
# 2024-01-01: a clock before that was never set, and makes certificates and retention fail.
MIN_UNIX_SECONDS = 1_704_067_200


def all_findings(cli: Cli, config_file: Path | None) -> Iterator[Finding]:
    """All checks, in the order in which to put things right."""
    yield from check_python()
    yield from check_modules()
    yield from check_host()
    yield from check_recording()
    try:
        config = loaded(config_file)
    except Problem as problem:
        yield Finding(
            name="configuration",
            status=Status.PROBLEM,
            found=problem.message,
            fix="callsd config sample shows all keys; callsd config check FILE",
        )
        return
    yield Finding(name="configuration", status=Status.OK, found="valid")
    yield from check_state(Path(config.state.directory))
    yield from check_models(config)
    yield from check_units(config)
    yield from check_daemon(cli)


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info[:2] >= MIN_PYTHON
    yield Finding(
        name="python",
        status=Status.OK if good else Status.PROBLEM,
        found=found,
        fix="" if good else "install Python 3.11 or newer (Debian 12: apt install python3.11)",
    )


def check_modules() -> Iterator[Finding]:
    """What the workers import. Tried in a process of its own: some of it can crash."""
    own = Path(sys.executable).with_name("pip")
    pip = own if own.exists() else "pip"
    for module, purpose, extra, is_required in WORKER_MODULES:
        problem = _import_problem(module)
        missing = Status.PROBLEM if is_required else Status.ADVICE
        yield Finding(
            name=module,
            status=missing if problem else Status.OK,
            found=f"{purpose}: {problem}" if problem else purpose,
            fix=f"{pip} install 'callsd[{extra}]'" if problem else "",
        )


def _import_problem(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"its import took longer than {IMPORT_TIMEOUT_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"its import died by signal {-done.returncode}"
    last_lines = done.stderr.strip().splitlines()[-1:]
    return last_lines[0] if last_lines else f"its import ended with {done.returncode}"


def check_host() -> Iterator[Finding]:
    """What the kernel tells us, and the clock."""
    own_cgroup = first_line(Path("/proc/self/cgroup"))
    cgroup = Path("/sys/fs/cgroup") / own_cgroup.partition("::")[2].lstrip("/")
    has_cgroup = (cgroup / "cgroup.controllers").is_file()
    yield Finding(
        name="control groups",
        status=Status.OK if has_cgroup else Status.ADVICE,
        found=f"version 2, {cgroup}" if has_cgroup else "version 2 is not there",
        fix="" if has_cgroup else "limits set on the service are not seen; boot with cgroup v2",
    )
    has_pressure = bool(first_line(Path("/proc/pressure/cpu")))
    yield Finding(
        name="pressure (PSI)",
        status=Status.OK if has_pressure else Status.ADVICE,
        found="readable" if has_pressure else "not there",
        fix="" if has_pressure else "boot the kernel with psi=1 to let admission see contention",
    )
    clock_is_set = time.time() > MIN_UNIX_SECONDS
    yield Finding(
        name="clock",
        status=Status.OK if clock_is_set else Status.PROBLEM,
        found=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        fix="" if clock_is_set else "set the clock: timedatectl set-ntp true",
    )


def check_state(directory: Path) -> Iterator[Finding]:
    """Where the daemon keeps everything."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            name="state directory",
            status=Status.PROBLEM,
            found=f"{directory}: {existing} is not writable by this user",
            fix=_access(directory),
        )
        return
    free_bytes = shutil.disk_usage(existing).free
    has_room = free_bytes >= MIN_FREE_BYTES
    yield Finding(
        name="state directory",
        status=Status.OK if has_room else Status.PROBLEM,
        found=f"{directory}, {size(free_bytes)} free"
        + ("" if directory.exists() else " (made at the first start)"),
        fix="" if has_room else f"make room, or move state.directory: {size(MIN_FREE_BYTES)} or so",
    )
    yield from _check_database(directory / DATABASE_FILE)
    yield from _check_files(directory)


def _access(directory: Path) -> str:
    """What to do about a directory that is not for this user."""
    if directory.exists() and directory.stat().st_uid != 0:
        owner = user_name(directory.stat().st_uid)
        return f"look as its owner: runuser -u {owner} -- callsd doctor"
    own = user_name(os.geteuid())
    return f"install -d -o {own} {directory}, or set state.directory"


def _check_files(directory: Path) -> Iterator[Finding]:
    """Whether what the daemon needs in there is its own, and its tokens can be read."""
    if not directory.exists():
        return  # made at the first start
    owner = directory.stat().st_uid
    names = (*STATE_DIRECTORIES, "workers", DATABASE_FILE, TOKENS_FILE)
    present = [path for name in names if (path := directory / name).exists()]
    if strange := [path for path in present if path.stat().st_uid != owner]:
        # Not all that there is: what workers write is theirs, and their group's.
        fix = " ".join(["chown -R", user_name(owner), *map(str, strange)])
        yield problem("owner", f"some files are not {user_name(owner)}'s", fix)
    try:
        TokenFile(directory / TOKENS_FILE).list()
    except TokenFileError as error:
        yield problem("tokens", str(error), "callsd tokens create NAME, for each but the owner's")


def _check_database(path: Path) -> Iterator[Finding]:
    """Whether the database is whole, in use or not."""
    if not path.exists() and not beside(path, "-wal").exists():
        return  # made at the first start
    status, found, fix = Status.PROBLEM, "", RESTORE
    try:
        check_database(path, is_thorough=True)
    except SchemaTooNewError as error:
        found, fix = str(error), "install the newer release of callsd"
    except sqlite3.OperationalError as error:
        found, fix = str(error), "see that the disk works, and that no other program holds it"
    except sqlite3.DatabaseError as error:
        found = f"damaged: {error}"
    else:
        status, found, fix = Status.OK, "whole", ""
    yield Finding(name="database", status=status, found=found, fix=fix)


def check_models(config: Config) -> Iterator[Finding]:
    """Which models are here, above all those that jobs get which name none."""
    directory = Path(config.models.directory)
    try:
        statuses = {status.name: status for status in ModelStore(directory).list()}
    except PermissionError as error:
        yield problem("models", f"{error.filename}: {error.strerror}", _access(directory.parent))
        return
    present = [name for name, one in statuses.items() if one.state is ModelState.PRESENT]
    captions = config.captions
    wanted = {config.transcription.model, captions.model, captions.fallback_model} - {""}
    for name, one in statuses.items():
        if one.state is ModelState.INVALID:
            yield Finding(
                name="models",
                status=Status.PROBLEM if name in wanted else Status.ADVICE,
                found=f"{name}: {one.problem}",
                fix=f"callsd models pull {name}",
            )
    missing = sorted(wanted - set(present))
    here = ", ".join(present) or "none"
    yield Finding(
        name="models",
        status=Status.PROBLEM if missing else Status.OK,
        found=f"{here} in {directory}"
        + (f"; not {', '.join(missing)}, the default" if missing else ""),
        fix=" && ".join(
            f"callsd models pull {name} --models-dir {quote(str(directory))}" for name in missing
        ),
    )


def check_daemon(cli: Cli) -> Iterator[Finding]:
    """Whether a daemon answers, says that it is well, and knows us."""
    try:
        client = cli.client()
    except SettingsError as error:
        yield Finding(name="daemon", status=Status.PROBLEM, found=str(error), fix="see --address")
        return
    with client:
        yield from _check_answers(client)


def _check_answers(client: Client) -> Iterator[Finding]:
    address = client.endpoint.address
    try:
        is_serving = client.is_serving(timeout_seconds=ANSWER_TIMEOUT_SECONDS)
        info = client.get_server_info(timeout_seconds=ANSWER_TIMEOUT_SECONDS)
    except AccessError as error:
        yield Finding(
            name="daemon",
            status=Status.PROBLEM,
            found=f"{address} does not know us: {error}",
            fix="name a file with a token: --token-file FILE (callsd tokens create makes one)",
        )
    except (CallsdError, SettingsError) as error:
        yield Finding(
            name="daemon",
            status=Status.PROBLEM,
            found=f"{address}: {error}",
            fix="start it: callsd serve, or systemctl start callsd",
        )
    else:
        yield Finding(
            name="daemon",
            status=Status.OK if is_serving else Status.PROBLEM,
            found=f"{address}, version {info.version}"
            + ("" if is_serving else ", says that it is not well"),
            fix="" if is_serving else "read its log: journalctl -u callsd",
        )
