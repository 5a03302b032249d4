# SPDX-License-Identifier: Apache-2.0
"""What is said when something is wrong: what happened, the reason, what to do."""

import traceback
from typing import Any

import click

from callsd import (
    AccessError,
    CallsdError,
    CapacityError,
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    SettingsError,
    UnavailableError,
)
from callsd_daemon.cli.shared.context import Cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import figure, json_line


_CODES: tuple[tuple[type[CallsdError], Exit], ...] = (
    (InvalidRequestError, Exit.USAGE),
    (OutOfRangeError, Exit.USAGE),
    (UnavailableError, Exit.UNREACHABLE),
    (NotFoundError, Exit.NOT_FOUND),
    (CapacityError, Exit.REFUSED),
    (ConflictError, Exit.REFUSED),
    (AccessError, Exit.NOT_ALLOWED),
    (DeadlineError, Exit.DEADLINE),
)

MAX_SHOWN_CHARACTERS = 200

# What to do, where a command helps and the message names none. {…} are keys of the metadata.
_REMEDIES = {
    "CANNOT_FIT": "ask for less (threads, model, picture); `callsd capacity` shows the machine",
    "CPU_EXHAUSTED": "leave out --no-queue to wait; `callsd capacity` shows what is taken",
    "DISK_EXHAUSTED": "delete jobs you no longer need: callsd jobs list, callsd jobs delete JOB",
    "CAPTURE_UNAVAILABLE": "`callsd doctor` tells what is missing and how to get it",
    "DRAINING": "try again in a moment",
    "ENGINE_UNAVAILABLE": "`callsd doctor` tells which engines are missing and how to get them",
    "JOB_NOT_FOUND": "`callsd jobs list` shows the jobs there are",
    "KIND_UNAVAILABLE": "`callsd doctor` tells what this server lacks",
    "LANGUAGE_UNSUPPORTED": "choose a multilingual model: callsd models list",
    "MEMORY_EXHAUSTED": "leave out --no-queue to wait; `callsd capacity` shows what is taken",
    "MODEL_INVALID": "fetch it again: callsd models pull {model}",
    "MODEL_MISSING": "callsd models pull {model}",
    "MODEL_UNKNOWN": "`callsd models list` shows the catalogue",
    "QUEUE_FULL": "wait for jobs to end: callsd jobs list --state queued",
    "SCOPE_MISSING": "use a token with this scope: callsd tokens create NAME --scope {scope}",
    "SLOTS_EXHAUSTED": "leave out --no-queue to wait; `callsd capacity` shows the ceilings",
    "SOURCE_UNAVAILABLE": "check the network, or bring the files: callsd models pull --from PATH",
    "TOKEN_INVALID": "ask for a new token (callsd tokens create) and name it by --token-file",
    "TOKEN_MISSING": "name a file with a token: --token-file FILE or CALLSD_TOKEN_FILE; who runs "
    "the daemon makes one: callsd tokens create NAME",
}


def report(error: BaseException, cli: Cli) -> Exit:
    """Say on stderr what went wrong, and return the exit code for it."""
    match error:
        case CallsdError():
            shown, code = _from_rpc(error, cli), _code(error)
        case Problem():
            shown = {"message": error.message, "reason": error.reason, "to_do": error.to_do}
            code = error.exit_code
        case click.UsageError():
            shown, code = _from_usage(error), Exit.USAGE
        case click.ClickException():
            shown, code = {"message": error.format_message()}, Exit.USAGE
        case SettingsError():
            shown, code = {"message": str(error)}, Exit.USAGE
        case UnicodeError():
            shown, code = {"message": _not_text(error)}, Exit.USAGE
        case OSError():
            shown, code = {"message": str(error)}, Exit.FAILED
        case _:
            traceback.print_exception(error)
            shown, code = {"message": f"a bug in callsd: {error!r}"}, Exit.INTERNAL
    _say(shown, as_json=cli.json)
    return code


def _code(error: CallsdError) -> Exit:
    if error.reason == "SOURCE_UNAVAILABLE":
        # The same status as a daemon that is away, but it is the model's source that is.
        return Exit.FAILED
    if error.reason == "DATABASE_DAMAGED":
        # What did not arrive intact is a bug; this is for the administrator.
        return Exit.REFUSED
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Exit.INTERNAL


def _from_rpc(error: CallsdError, cli: Cli) -> dict[str, Any]:
    message, to_do = error.message, ""
    if isinstance(error, UnavailableError) and not error.reason:
        # gRPC's own words go through every layer; the last part is what the system said.
        cause = error.message.rpartition("error: ")[2]
        message = f"no daemon answers at {cli.endpoint().address}: {cause}"
        to_do = (
            "start it (systemctl start callsd, or callsd serve), or name another by --address or "
            "CALLSD_ADDRESS"
        )
        if "Permission denied" in cause:
            to_do = "join the group of its socket: adduser USER callsd, and log in again"
        if "CERTIFICATE_VERIFY_FAILED" in error.message:
            message = f"the certificate of {cli.endpoint().address} is not one that we trust"
            to_do = "name the certificate of its authority: --ca-file FILE or CALLSD_CA_FILE"
    elif "callsd " not in message and (remedy := _REMEDIES.get(error.reason)):
        try:
            to_do = remedy.format_map(error.metadata)
        except KeyError:  # a server that does not send this key yet
            to_do = ""
    return {
        "message": message,
        "reason": error.reason,
        "code": error.code.name,
        "metadata": dict(error.metadata),
        "retry_after_seconds": error.retry_after_seconds,
        "field_violations": [
            {"field": one.field, "description": one.description} for one in error.field_violations
        ],
        "to_do": to_do,
    }


def _not_text(error: UnicodeError) -> str:
    """What cannot be sent or read as text, for arguments and files that are not UTF-8."""
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:MAX_SHOWN_CHARACTERS]!r} is not UTF-8"
    return f"what is read is not UTF-8: {error}"


def _from_usage(error: click.UsageError) -> dict[str, Any]:
    path = error.ctx.command_path if error.ctx else "callsd"
    return {"message": error.format_message(), "to_do": f"{path} --help"}


def _say(shown: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json_line({"error": shown}), err=True)
        return
    click.secho("error: ", fg="red", nl=False, err=True)
    click.echo(shown["message"], err=True)
    for violation in shown.get("field_violations", ()):
        click.echo(f"  {violation['field']}: {violation['description']}", err=True)
    if reason := shown.get("reason"):
        click.echo(f"  reason: {reason}", err=True)
    if (seconds := shown.get("retry_after_seconds")) is not None:
        click.echo(f"  try again in {figure(seconds)} s", err=True)
    if to_do := shown.get("to_do"):
        click.echo(f"  to do:  {to_do}", err=True)
