# SPDX-License-Identifier: Apache-2.0
"""The real worker; a recorder alone is scripted, for tests of calls whose pictures do not matter.

The daemon runs this file as the worker when CALLSD_WORKER_PROGRAM names it. What a recorder does
is in the file `recorder` in TMPDIR: see `tests/faults/fake_worker.py`.
"""

import os
import sys
from pathlib import Path

from callsd_ipc.v1 import worker_pb2
from callsd_worker.session.bootstrap import is_recorder


SCRIPTED = Path(__file__).parents[1] / "faults" / "fake_worker.py"


def main() -> None:
    """Become the one or the other, which reads the same bootstrap."""
    data = sys.stdin.buffer.read()
    is_scripted = is_recorder(worker_pb2.Bootstrap.FromString(data))
    # Small enough for a pipe: this never blocks.
    end, begin = os.pipe()
    os.write(begin, data)
    os.close(begin)
    os.dup2(end, 0)
    os.close(end)
    what = [str(SCRIPTED)] if is_scripted else ["-m", "callsd_worker"]
    # The tag that follows is what the next daemon finds the worker by.
    os.execv(sys.executable, [sys.executable, *what, *sys.argv[1:]])  # noqa: S606 - ourselves


if __name__ == "__main__":
    main()
