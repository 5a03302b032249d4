# SPDX-License-Identifier: Apache-2.0
"""What all commands share: the options before the command's name, and the way to the daemon."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click


if TYPE_CHECKING:
    from callsd import Client, Endpoint

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True, kw_only=True)
class Cli:
    """The global options, as given."""

    address: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    json: bool = False

    def endpoint(self) -> "Endpoint":
        """The daemon that the options, the environment or the defaults name."""
        from callsd import Endpoint

        return Endpoint.discover(
            address=self.address, token_file=self.token_file, ca_file=self.ca_file
        )

    def client(self) -> "Client":
        """A client for the daemon of `endpoint`."""
        from callsd import Client

        return Client(self.address, token_file=self.token_file, ca_file=self.ca_file)


pass_cli = click.make_pass_decorator(Cli)


def json_option(command: Command) -> Command:
    """Let `--json` also stand behind the command, where people write it."""

    def remember(context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value:
            context.ensure_object(Cli).json = True

    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Print JSON for programs.",
    )(command)
