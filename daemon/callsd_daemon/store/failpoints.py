# SPDX-License-Identifier: Apache-2.0
"""Places where a test may kill the daemon.

Armed only by the environment variable CALLSD_FAILPOINTS, a comma-separated list of `name` or
`name=N` (the N-th time it is passed). Used to prove that no acknowledged job is ever lost.
"""

import os
import signal


_armed: dict[str, int] = {}
for _entry in filter(None, os.environ.get("CALLSD_FAILPOINTS", "").split(",")):
    _name, _, _count = _entry.partition("=")
    _armed[_name] = int(_count or 1)


def failpoint(name: str) -> None:
    """Die as by `kill -9` when the failpoint `name` is armed and due."""
    if name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
