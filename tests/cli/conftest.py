# SPDX-License-Identifier: Apache-2.0
"""Running commands."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from callsd_daemon.cli.root import root
from tests.helpers.daemon import Daemon


StartDaemon = Callable[..., Daemon]


class Command:
    """`callsd`, run in this process, with or without a daemon to talk to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.env: dict[str, str | None] = {
            "CALLSD_ADDRESS": address,
            "CALLSD_TOKEN_FILE": None,
            "CALLSD_CA_FILE": None,
            "CALLSD_SOCKET_OWNER": None,
        }

    def __call__(self, *arguments: object, exit_code: int = 0) -> Result:
        """Run a command that must end with this code."""
        result = CliRunner(env=self.env).invoke(root, [str(one) for one in arguments])
        assert result.exit_code == exit_code, result.output
        return result

    def json(self, *arguments: object, exit_code: int = 0) -> Any:
        """Run a command with --json; what it prints on stdout."""
        return json.loads(self(*arguments, "--json", exit_code=exit_code).stdout)


@pytest.fixture
def callsd() -> Command:
    """The command, with nobody at its address."""
    return Command("unix:/tmp/callsd-nobody.sock")


@pytest.fixture(scope="module")
def running(shared_daemon: StartDaemon) -> Daemon:
    """A daemon with the scripted worker."""
    return shared_daemon()


@pytest.fixture
def callsd_up(running: Daemon) -> Command:
    """The command, with a daemon."""
    return Command(running.address)
