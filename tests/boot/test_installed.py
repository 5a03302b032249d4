# SPDX-License-Identifier: Apache-2.0
"""What systemd makes of callsd, and what it lets the daemon do."""

import re

import pytest

from callsd_daemon.workers.slot import captioner_name
from tests.boot.service import Service


NAME = captioner_name("x")
"""As workers are named."""

WORKERS = [
    f"callsd-{role}@{NAME}.service" for role in ("transcriber", "captioner", "recorder", "capturer")
]
UNITS = ["callsd.service", "callsd-workers.slice", *WORKERS]


class TestInstalled:
    """What `callsd install` has made."""

    def test_it_is_up(self, service: Service) -> None:
        """The service is active once it serves, and finds nothing wrong with the machine."""
        assert service.machine.show("callsd.service", "ActiveState") == "active"
        status = service.machine.show("callsd.service", "StatusText")
        assert "listening on unix:/run/callsd/callsd.sock" in status
        assert "✗" not in service.callsd("doctor")

    @pytest.mark.parametrize("unit", UNITS)
    def test_units_are_without_fault(self, service: Service, unit: str) -> None:
        """There is nothing that systemd has to say about the units."""
        done = service.machine.attempt("systemd-analyze", "verify", unit)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize(
        ("unit", "most"),
        list(zip(["callsd.service", *WORKERS], [1.4, 1.6, 1.6, 2.3, 2.0], strict=True)),
    )
    def test_units_are_shut_in(self, service: Service, unit: str, most: float) -> None:
        """By systemd's own measure there is little that the units are exposed to."""
        said = service.machine.run("systemd-analyze", "security", unit, "--no-pager")
        exposure = float(re.findall(r"exposure level for .*: ([0-9.]+)", said)[0])
        assert exposure <= most, said

    @pytest.mark.parametrize(
        "arguments",
        [
            # Other units, and other verbs.
            "start systemd-ask-password-console.service",
            "stop callsd.service",
            "kill --signal=WINCH callsd.service",
            "set-property --runtime callsd.service MemoryMax=1G",
            "set-property --runtime callsd-workers.slice MemoryMax=1G",
            f"stop {WORKERS[0]}",
            f"restart {WORKERS[0]}",
            f"freeze {WORKERS[0]}",
            f"clean {WORKERS[0]}",
            # Names that are no worker's.
            "start callsd-transcriber@x.service",
            f"start callsd-transcriber@{NAME}x.service",
            f"start callsd-transcriber@{NAME.upper()}.service",
            f"start callsd-other@{NAME}.service",
            # What the release before had may be ended, not begun.
            f"start callsd-worker@jobs-{NAME}.service",
            "daemon-reload",
            "poweroff",
        ],
    )
    def test_the_daemon_may_do_nothing_else(self, service: Service, arguments: str) -> None:
        """The daemon's user may start workers, signal and limit them: no other unit or verb."""
        done = service.systemctl_as_daemon(*arguments.split())
        assert done.returncode != 0
        assert re.search("authentication|denied", done.stderr), done.stderr
