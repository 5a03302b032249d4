# SPDX-License-Identifier: Apache-2.0
"""`callsd tokens`: works on the state directory's file, whether the daemon runs or not."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import print_json, print_table
from callsd_daemon.cli.shared.params import FILE, parse_span
from callsd_daemon.startup import TOKENS_FILE
from callsd_daemon.tokens import SCOPES, TokenError, TokenFile, TokenFileError


Command = TypeVar("Command", bound=Callable[..., Any])


def _store_options(command: Command) -> Command:
    """Where the tokens are."""
    directory = click.option(
        "--state-directory",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Default: that of the configuration.",
    )
    return directory(click.option("--config", "config_file", metavar="FILE", type=FILE)(command))


@contextlib.contextmanager
def _telling(exit_code: Exit) -> Iterator[None]:
    """Tell the user what is wrong: with this code, or that the file itself cannot be used."""
    try:
        yield
    except TokenFileError as error:
        raise Problem(str(error)) from None
    except TokenError as error:
        raise Problem(str(error), exit_code=exit_code) from None


def _file(state_directory: Path | None, config_file: Path | None) -> TokenFile:
    directory = state_directory or Path(loaded(config_file).state.directory)
    if not directory.is_dir():
        raise Problem(
            f"{directory} does not exist",
            to_do="start the daemon once, or name its directory by --state-directory",
        )
    return TokenFile(directory / TOKENS_FILE)


@click.group()
def tokens() -> None:
    """Make and revoke access tokens.

    The user who runs the daemon needs none. Changes hold at once, without a restart.
    """


@tokens.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=("jobs.read", "jobs.write"),
    show_default=True,
    help="What the token allows. Repeatable.",
)
@click.option("--expires", metavar="SPAN", help="Worthless after 12h, 30d, … Default: never.")
@_store_options
@json_option
@pass_cli
def create(
    cli: Cli,
    *,
    name: str,
    scopes: tuple[str, ...],
    expires: str | None,
    state_directory: Path | None,
    config_file: Path | None,
) -> None:
    """Make a token and print it. It is shown this once; keep it in a file of mode 0600."""
    expires_in_seconds = parse_span(expires) if expires else None
    with _telling(Exit.USAGE):
        secret = _file(state_directory, config_file).create(name, scopes, expires_in_seconds)
    if cli.json:
        print_json({"name": name, "scopes": list(scopes), "token": secret})
        return
    click.echo(secret)


@tokens.command("list")
@_store_options
@json_option
@pass_cli
def list_tokens(cli: Cli, *, state_directory: Path | None, config_file: Path | None) -> None:
    """List the tokens; their secrets are not kept."""
    with _telling(Exit.FAILED):
        found = _file(state_directory, config_file).list()
    if cli.json:
        print_json(
            [
                {
                    "name": token.name,
                    "scopes": list(token.scopes),
                    "create_time": _stamp(token.create_time),
                    "expire_time": _stamp(token.expire_time),
                }
                for token in found
            ]
        )
        return
    rows = [
        (
            token.name,
            " ".join(token.scopes),
            _stamp(token.create_time) or "",
            _stamp(token.expire_time) or "never",
        )
        for token in found
    ]
    print_table(("NAME", "SCOPES", "CREATED", "EXPIRES"), rows)


@tokens.command()
@click.argument("name")
@_store_options
@json_option
@pass_cli
def revoke(cli: Cli, *, name: str, state_directory: Path | None, config_file: Path | None) -> None:
    """Make a token worthless at once."""
    with _telling(Exit.NOT_FOUND):
        _file(state_directory, config_file).revoke(name)
    if cli.json:
        print_json({"revoked": name})
        return
    click.echo(f"{name} revoked")


def _stamp(unix_seconds: float | None) -> str | None:
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
