# SPDX-License-Identifier: Apache-2.0
"""`callsd`, on a machine that the test describes and with the limits that it shortens.

Admission looks at the whole machine, which a test does not own: on a busy one nothing would ever
be admitted. Here the daemon is told what the machine is like by a file that it reads at each look.
Everything else is the real program.

Environment: CALLSD_TEST_MACHINE, a file with a `Host` in JSON; CALLSD_TEST_CONSTANTS, an object
{"package.module.NAME": value} in JSON; CALLSD_TEST_DETACHED, a directory for workers that share no
disk with the daemon, with all that the daemon has in CALLSD_TEST_HIDDEN.
"""

import gc
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from callsd_daemon.domain.admission import Host
from callsd_daemon.host import probe


def _describe(machine: Path) -> None:
    def sample(self: probe.Probe, spent: Mapping[str, probe.Spent]) -> Host:
        return msgspec.json.decode(machine.read_bytes(), type=Host)

    host = msgspec.json.decode(machine.read_bytes(), type=Host)
    found = probe.Limits(cores=host.cores_total, memory_bytes=host.memory_total_bytes)
    probe.Probe.sample = sample  # type: ignore[method-assign]
    probe.limits = lambda: found


def _main() -> None:
    if sys.argv[1:2] == ["serve"]:
        # As the command does it: but what is set here is loaded before the command is.
        gc.disable()
        sys.modules["rich"] = None  # type: ignore[assignment]
    if file := os.environ.get("CALLSD_TEST_MACHINE"):
        _describe(Path(file))
    for path, value in json.loads(os.environ.get("CALLSD_TEST_CONSTANTS", "{}")).items():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
        setattr(importlib.import_module(module), name, value)
    if directory := os.environ.get("CALLSD_TEST_DETACHED"):
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from callsd_daemon import rules
        from tests.helpers.detached import DetachedLauncher

        hidden = Path(os.environ["CALLSD_TEST_HIDDEN"])
        setattr(rules, "launcher", lambda _config: DetachedLauncher(Path(directory), hidden))  # noqa: B010 - a test's own
    from callsd_daemon.cli.main import main

    main()


if __name__ == "__main__":
    _main()
