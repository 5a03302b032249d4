# SPDX-License-Identifier: Apache-2.0
"""How the command ends: its exit codes."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    REFUSED = 5
    NOT_ALLOWED = 6
    DEADLINE = 7
    INTERNAL = 70
    CONFIG = 78
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the job failed or was cancelled, or a check found problems",
    Exit.USAGE: "wrong usage, or an invalid request",
    Exit.UNREACHABLE: "no daemon answers, or it is shutting down",
    Exit.NOT_FOUND: "no such job, artifact, upload or model",
    Exit.REFUSED: "refused: no capacity, not in a state that allows it, or the database is damaged",
    Exit.NOT_ALLOWED: "the token is missing, invalid, or lacks a scope",
    Exit.DEADLINE: "no answer in time",
    Exit.INTERNAL: "a bug in callsd",
    Exit.CONFIG: "the configuration is wrong",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


class Problem(Exception):  # noqa: N818 - it is the user's, not the program's
    """Something is wrong that the user can put right."""

    def __init__(
        self, message: str, *, exit_code: Exit = Exit.FAILED, reason: str = "", to_do: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.reason = reason
        self.to_do = to_do
