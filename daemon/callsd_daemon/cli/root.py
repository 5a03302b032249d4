# SPDX-License-Identifier: Apache-2.0
"""The command group `callsd`; a command's module is loaded when it is used."""

import importlib
import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from callsd_daemon.cli.shared.context import Cli
from callsd_daemon.cli.shared.exit import MEANINGS, Exit, Problem
from callsd_daemon.cli.shared.params import FILE


# Name → (module, attribute, help). The help stands here so that `callsd --help` loads nothing.
COMMANDS = {
    "serve": ("callsd_daemon.cli.serve", "serve", "Run the daemon."),
    "jobs": (
        "callsd_daemon.cli.jobs.command",
        "jobs",
        "Create, follow and stop jobs, fetch results.",
    ),
    "captions": (
        "callsd_daemon.cli.captions.command",
        "captions",
        "Caption calls while they go on, and read along.",
    ),
    "record": ("callsd_daemon.cli.record", "record", "Record a web page: its picture and sound."),
    "models": ("callsd_daemon.cli.models", "models", "List, fetch and check speech models."),
    "advise": (
        "callsd_daemon.cli.advise",
        "advise",
        "Tell which model hears best on this machine.",
    ),
    "capacity": ("callsd_daemon.cli.capacity", "capacity", "Show what the machine can carry."),
    "top": ("callsd_daemon.cli.top.command", "top", "Watch the machine and its jobs, live."),
    "config": ("callsd_daemon.cli.config", "config", "Show and check the configuration."),
    "tokens": ("callsd_daemon.cli.tokens", "tokens", "Make and revoke access tokens."),
    "gateway": (
        "callsd_daemon.cli.gateway.command",
        "gateway",
        "Move over from a container-based job service.",
    ),
    "backup": ("callsd_daemon.cli.backup", "backup", "Copy the database while the daemon runs."),
    "restore": ("callsd_daemon.cli.backup", "restore", "Put such a copy in its place."),
    "install": (
        "callsd_daemon.cli.install.command",
        "install",
        "Set callsd up as a service of systemd.",
    ),
    "uninstall": ("callsd_daemon.cli.install.command", "uninstall", "Take callsd out of systemd."),
    "doctor": (
        "callsd_daemon.cli.doctor.command",
        "doctor",
        "Tell what is missing on this machine.",
    ),
    "bench": ("callsd_bench.cli", "bench", "Measure this machine against a baseline."),
}

# The part of the distribution that brings what a command imports.
EXTRAS = {"bench": "daemon,bench"}


class RootGroup(click.Group):
    """Loads commands when they are used, and ends with our exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(cmd_name, "daemon")
            raise Problem(
                f"`callsd {cmd_name}` needs {error.name}, which is not installed",
                to_do=f"pip install 'callsd[{extra}]'",
            ) from error
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Document the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in MEANINGS.items()])
        with formatter.section("Environment"):
            formatter.write_dl(
                [
                    ("CALLSD_ADDRESS", "as --address"),
                    ("CALLSD_TOKEN_FILE", "as --token-file"),
                    ("CALLSD_CA_FILE", "as --ca-file"),
                    ("CALLSD_SOCKET_OWNER", "one more user whose socket is trusted"),
                ]
            )

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run; always ends by SystemExit with a code of `Exit`."""
        extra["standalone_mode"] = False
        cli = extra.setdefault("obj", Cli())
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names of files need not be UTF-8; stderr does so by itself.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            result = super().main(args, **extra)
        except click.exceptions.Exit as error:
            result = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            result = Exit.INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the root: `report` says what it was
            from callsd_daemon.cli.shared.report import report

            result = report(error, cli)
        sys.exit(int(result) if isinstance(result, int) else Exit.OK)


def _print_version(context: click.Context, _parameter: click.Parameter, value: object) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"callsd {version('callsd')}")
        context.exit()


@click.group(
    cls=RootGroup,
    name="callsd",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--address", metavar="ADDR", help="Daemon: unix:/path, tcp:HOST:PORT, tls:HOST:PORT.")
@click.option(
    "--token-file",
    metavar="FILE",
    type=FILE,
    help="File with the access token. Default: the owner's, beside the socket.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=FILE,
    help="Certificates to trust for TLS. Default: the system's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def root(
    context: click.Context,
    *,
    address: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Record, transcribe and caption calls on this machine.

    Run `callsd COMMAND --help` for the options of a command.
    """
    cli = context.ensure_object(Cli)
    cli.address, cli.token_file, cli.ca_file, cli.json = address, token_file, ca_file, as_json
