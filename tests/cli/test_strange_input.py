# SPDX-License-Identifier: Apache-2.0
"""What people bring to the command line: it is used, or refused in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from callsd_daemon.cli.root import root
from callsd_daemon.cli.shared.exit import Exit
from tests.cli.conftest import Command, StartDaemon


NOT_UTF8 = os.fsdecode(b"n\xff\xfe")
TOO_LONG = "/" + "y" * 5000
TEXTS = (NOT_UTF8, "", "a\nb", "x" * 5000, "9" * 400)

Asked = tuple[tuple[str, ...], click.Command, click.Parameter]

NO_ANSWER_NEEDED = frozenset({"serve", "install", "uninstall", "bench", "top", "doctor"})
"""These start something, or look at this machine: their files are tried one by one below."""


def commands(
    command: click.Command, *names: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands below one, with their names."""
    if not isinstance(command, click.Group):
        yield names, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is not None and not (not names and name in NO_ANSWER_NEEDED):
            yield from commands(found, *names, name)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Things that are no files as one expects them."""
    top = tmp_path_factory.mktemp("strange")
    os.mkfifo(top / "pipe")
    (top / NOT_UTF8).write_bytes(b"\xef\xbb\xbf\xff")
    (top / f"d{NOT_UTF8}").mkdir()
    return {
        "pipe": str(top / "pipe"),
        "not UTF-8": str(top / NOT_UTF8),
        "a directory": str(top / f"d{NOT_UTF8}"),
        "too long": TOO_LONG,
        "no such file": str(top / "none"),
        "a file as a directory": f"{top / NOT_UTF8}/x",
    }


def values(parameter: click.Parameter, places: dict[str, str]) -> list[str]:
    """What is tried for a parameter."""
    if isinstance(parameter.type, click.Path):
        return list(places.values())
    if isinstance(parameter.type, click.File):
        # A pipe is what secrets come by: it is waited for.
        return [path for what, path in places.items() if what != "pipe"]
    if "FILE" in str(parameter.metavar) or parameter.name == "call":
        return [f"ada={path}" for path in places.values()] + list(places.values())
    return list(TEXTS)


def needed(command: click.Command, but: click.Parameter) -> Iterator[str]:
    """Something for each argument that the command cannot be without."""
    for parameter in command.params:
        if parameter.required and parameter is not but:
            prefix = parameter.opts[-1:] if isinstance(parameter, click.Option) else []
            yield from (*prefix, "/nowhere/none" if isinstance(parameter.type, click.Path) else "x")


@contextmanager
def at(directory: Path) -> Iterator[None]:
    """Whatever a command writes into its directory is written here."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


ALL = [
    pytest.param((names, command, parameter), id=f"{' '.join(names)} {parameter.opts[-1]}")
    for names, command in commands(root)
    for parameter in command.params
    if not getattr(parameter, "is_flag", False)
]


@pytest.mark.parametrize("asked", ALL)
def test_every_command_takes_or_refuses_it(
    callsd_up: Command, places: dict[str, str], tmp_path: Path, asked: Asked
) -> None:
    """Each option and argument of each command: no traceback, whatever is given for it."""
    names, command, parameter = asked
    option = parameter.opts[-1:] if isinstance(parameter, click.Option) else ["--"]
    extra = (
        ["--validate-only"] if any(one.name == "validate_only" for one in command.params) else []
    )
    for value in values(parameter, places):
        given = [*names, *extra, *needed(command, parameter), *option, value]
        with at(tmp_path):
            result = CliRunner(env=callsd_up.env).invoke(root, given)
        assert result.exit_code in set(Exit) - {Exit.INTERNAL}, (value[:80], result.output[-800:])
        assert "Traceback" not in result.output, (value[:80], result.output[-800:])


class TestConfiguration:
    """The daemon's file."""

    def test_byte_order_mark(self, callsd: Command, tmp_path: Path) -> None:
        """A file that an editor has marked as UTF-8 is read."""
        path = tmp_path / "callsd.toml"
        path.write_bytes(b"\xef\xbb\xbf[jobs]\nmax_concurrent_jobs = 3\n")

        assert "max_concurrent_jobs = 3" in callsd("config", "show", "--config", path).stdout

    @pytest.mark.parametrize("content", [b"[jobs]\nx = '\xff'", "[jobs]\n".encode("utf-16")])
    def test_not_utf8(self, callsd: Command, tmp_path: Path, content: bytes) -> None:
        """What is no UTF-8 is no TOML: one line says so, and it is the configuration's fault."""
        path = tmp_path / "callsd.toml"
        path.write_bytes(content)

        said = callsd("config", "show", "--config", path, exit_code=Exit.CONFIG).stderr
        assert "is not valid TOML" in said.splitlines()[0]

    @pytest.mark.parametrize("command", ["serve", "doctor"])
    def test_a_pipe(self, callsd: Command, places: dict[str, str], command: str) -> None:
        """It could not be read again: it is refused, and not waited for."""
        said = callsd(command, "--config", places["pipe"], exit_code=Exit.USAGE)

        assert "is not a file" in said.output


class TestAddresses:
    """Where a daemon is said to be."""

    @pytest.mark.parametrize(
        "address",
        [f"unix:/tmp/{'x' * 200}", "unix:x", f"tls:{NOT_UTF8}:1", "tcp:a..b:1"],
    )
    def test_impossible(self, callsd: Command, address: str) -> None:
        """One line says what is wrong with it."""
        said = callsd("--address", address, "capacity", exit_code=Exit.USAGE).stderr

        assert len(said.splitlines()) == 1

    def test_per_cent_signs_stand_for_nothing(self, daemon: StartDaemon) -> None:
        """A daemon whose directories have such names is found there, by clients and workers."""
        server = daemon(is_started=False)
        server.state, server.runtime = server.root / "%2Fstate", server.root / "r%41"
        server.settings["state"] = {
            "directory": str(server.state),
            "runtime_directory": str(server.runtime),
        }
        server.start()
        said = Command(server.address).json(
            *("jobs", "create", "--track", f"Ada={server.track}", "--prompt", "succeed", "--wait"),
        )

        assert said["state"] == "JOB_STATE_SUCCEEDED"
        assert (server.runtime / "callsd.sock").is_socket()


class TestFiles:
    """Names of files."""

    def test_any_bytes(self, callsd_up: Command, tmp_path: Path) -> None:
        """A track may have any name: the server is sent what it cannot be told of."""
        path = tmp_path / f"{NOT_UTF8}.wav"
        path.write_bytes(b"RIFF" * 1000)
        job = callsd_up.json(
            *("jobs", "create", "--track", f"Ada={path}", "--prompt", "succeed", "--wait"),
        )

        assert job["state"] == "JOB_STATE_SUCCEEDED"

    def test_results_go_into_any_directory(self, callsd_up: Command, tmp_path: Path) -> None:
        """The directory of results may have any name, too, and is told so that it can be read."""
        target: Any = tmp_path / NOT_UTF8
        source = tmp_path / "a.wav"
        source.write_bytes(b"RIFF" * 1000)
        callsd_up(
            *("jobs", "create", "--track", f"Ada={source}", "--prompt", "succeed", "-o", target)
        )

        assert (target / "transcript.vtt").is_file()
