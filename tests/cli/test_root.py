# SPDX-License-Identifier: Apache-2.0
"""The command itself: help, exit codes, errors."""

import json
import os
import subprocess
import sys

import grpc
import pytest

from callsd import (
    AccessError,
    CallsdError,
    CapacityError,
    ConflictError,
    DeadlineError,
    FieldViolation,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    SettingsError,
    UnavailableError,
)
from callsd_daemon.cli.root import COMMANDS
from callsd_daemon.cli.shared.context import Cli
from callsd_daemon.cli.shared.exit import MEANINGS, Exit, Problem
from callsd_daemon.cli.shared.report import report
from tests.cli.conftest import Command


HELP_CPU_SECONDS = 0.3


class TestHelp:
    """What one sees first."""

    def test_exit_codes_and_commands_are_listed(self, callsd: Command) -> None:
        """The help documents every exit code and every command."""
        text = " ".join(callsd("--help").stdout.split())

        for code, meaning in MEANINGS.items():
            assert f"{int(code)} {meaning}" in text
        for name, (_, _, help_) in COMMANDS.items():
            assert f"{name} {help_}" in text
        assert set(MEANINGS) == set(Exit)

    @pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
    def test_every_command_has_help(self, callsd: Command, name: str) -> None:
        """Each command loads and explains itself."""
        assert "Usage:" in callsd(name, "--help").stdout

    def test_help_is_quick(self) -> None:
        """`callsd --help` costs less than 300 ms: it loads no command."""
        code = (
            "import sys, time\n"
            "from callsd_daemon.cli.main import main\n"
            "sys.argv = ['callsd', '--help']\n"
            "try: main()\n"
            "except SystemExit: print(time.process_time(), 'grpc' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
        seconds, has_grpc = done.stdout.splitlines()[-1].split()

        assert float(seconds) < HELP_CPU_SECONDS
        assert has_grpc == "False"

    def test_client_alone_explains_what_is_missing(self) -> None:
        """Without the daemon's extra the command names what to install."""
        code = (
            "import sys\n"
            "sys.modules['click'] = None\n"
            "from callsd_daemon.cli.main import main\n"
            "main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
        )

        assert done.returncode == 1
        assert "pip install 'callsd[daemon]'" in done.stderr


def _error(kind: type[CallsdError], code: grpc.StatusCode, reason: str = "X") -> CallsdError:
    return kind("what happened", code=code, reason=reason)


class TestReport:
    """From an error to a message and an exit code."""

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (_error(InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT), Exit.USAGE),
            (_error(OutOfRangeError, grpc.StatusCode.OUT_OF_RANGE), Exit.USAGE),
            (_error(UnavailableError, grpc.StatusCode.UNAVAILABLE), Exit.UNREACHABLE),
            (
                _error(UnavailableError, grpc.StatusCode.UNAVAILABLE, "SOURCE_UNAVAILABLE"),
                Exit.FAILED,
            ),
            (_error(NotFoundError, grpc.StatusCode.NOT_FOUND), Exit.NOT_FOUND),
            (_error(CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED), Exit.REFUSED),
            (_error(ConflictError, grpc.StatusCode.ABORTED), Exit.REFUSED),
            (_error(AccessError, grpc.StatusCode.UNAUTHENTICATED), Exit.NOT_ALLOWED),
            (_error(DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED), Exit.DEADLINE),
            (_error(IntegrityError, grpc.StatusCode.DATA_LOSS), Exit.INTERNAL),
            (
                _error(IntegrityError, grpc.StatusCode.DATA_LOSS, "DATABASE_DAMAGED"),
                Exit.REFUSED,
            ),
            (_error(CallsdError, grpc.StatusCode.INTERNAL), Exit.INTERNAL),
            (Problem("what happened", exit_code=Exit.CONFIG), Exit.CONFIG),
            (SettingsError("what happened"), Exit.USAGE),
            (OSError("what happened"), Exit.FAILED),
            (RuntimeError("what happened"), Exit.INTERNAL),
        ],
    )
    def test_exit_codes(
        self, error: Exception, expected: Exit, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each kind of error has its exit code, and says what happened."""
        assert report(error, Cli()) is expected
        assert "what happened" in capsys.readouterr().err

    def test_remedy_is_filled_in(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What to do names the thing at hand."""
        error = ConflictError(
            "model base is not here",
            code=grpc.StatusCode.FAILED_PRECONDITION,
            reason="MODEL_MISSING",
            metadata={"model": "base"},
        )
        report(error, Cli())

        assert capsys.readouterr().err.splitlines() == [
            "error: model base is not here",
            "  reason: MODEL_MISSING",
            "  to do:  callsd models pull base",
        ]

    def test_all_violations_are_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A user can repair all fields at once."""
        error = InvalidRequestError(
            "invalid",
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="FIELD_INVALID",
            field_violations=(FieldViolation(field="job.labels", description="too many"),),
        )
        report(error, Cli())

        assert "  job.labels: too many" in capsys.readouterr().err

    def test_json_errors(self, callsd: Command) -> None:
        """With --json an error is one JSON object on stderr, and stdout is empty."""
        result = callsd("jobs", "list", "--json", exit_code=Exit.UNREACHABLE)
        error = json.loads(result.stderr)["error"]

        assert result.stdout == ""
        assert error["code"] == "UNAVAILABLE"
        assert error["to_do"]

    def test_nobody_there_is_one_message(self, callsd: Command) -> None:
        """Without a daemon the address and the remedy are named, not gRPC's inner life."""
        text = callsd("capacity", exit_code=Exit.UNREACHABLE).stderr

        assert callsd.address in text
        assert "No such file or directory" in text
        assert "callsd serve" in text

    def test_a_socket_that_is_closed_to_us(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Who may not use the socket is told of its group, not to start another daemon."""
        error = UnavailableError(
            "failed to connect to all addresses; last error: UNKNOWN: connect: Permission denied "
            "(13)",
            code=grpc.StatusCode.UNAVAILABLE,
        )

        assert report(error, Cli(address="unix:/run/callsd/callsd.sock")) is Exit.UNREACHABLE
        said = capsys.readouterr().err
        assert "adduser" in said
        assert "serve" not in said

    def test_untrusted_certificate_is_no_absence(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A daemon whose certificate is unknown is not called absent; the remedy is a CA file."""
        error = UnavailableError(
            "Tls handshake failed: CERTIFICATE_VERIFY_FAILED", code=grpc.StatusCode.UNAVAILABLE
        )

        assert report(error, Cli(address="tls:calls.example:443")) is Exit.UNREACHABLE
        said = capsys.readouterr().err
        assert "calls.example" in said
        assert "--ca-file" in said
        assert "callsd serve" not in said

    @pytest.mark.parametrize(
        "arguments",
        [
            ["nothing"],
            ["jobs", "create"],
            ["--address", "nowhere", "jobs", "list"],
            ["capacity", "-x"],
        ],
    )
    def test_wrong_usage(self, callsd: Command, arguments: list[str]) -> None:
        """Wrong usage ends with 2 and one message."""
        result = callsd(*arguments, exit_code=Exit.USAGE)

        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr

    def test_closed_pipe_is_no_error(self) -> None:
        """`callsd … | head -1` ends quietly."""
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [
                    *(sys.executable, "-c", "from callsd_daemon.cli.main import main; main()"),
                    *("config", "sample"),
                ],
                stdout=writer,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=30,
            )
        finally:
            os.close(writer)

        assert done.stderr == ""
