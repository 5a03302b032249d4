# SPDX-License-Identifier: Apache-2.0
"""What `callsd doctor` looks at where workers are units of systemd."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from callsd_daemon import rules
from callsd_daemon.cli.doctor.finding import Finding, Status
from callsd_daemon.cli.install.installation import Installation
from callsd_daemon.config import Config


SYSTEMCTL_TIMEOUT_SECONDS = 5.0


def check_units(config: Config) -> Iterator[Finding]:
    """Units and polkit's rule, or what is weaker without them."""
    if weakness := rules.weakness(config):
        yield Finding(name="workers", status=Status.ADVICE, found=weakness)
        return
    installation = Installation(Path("/"))
    outdated = installation.outdated()
    remedy = "apt reinstall callsd" if installation.is_packaged else "callsd install"
    yield Finding(
        name="units",
        status=Status.PROBLEM if outdated else Status.OK,
        found=f"not as this version has them: {', '.join(map(str, outdated))}"
        if outdated
        else "as this version has them",
        fix=remedy if outdated else "",
    )
    state = _state_of("callsd.service")
    yield Finding(
        name="service",
        status=Status.OK if state == "active" else Status.PROBLEM,
        found=f"callsd.service is {state}",
        fix="" if state == "active" else "systemctl start callsd; journalctl --unit callsd",
    )


def _state_of(unit: str) -> str:
    try:
        done = subprocess.run(
            ["/usr/bin/systemctl", "is-active", unit],
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"unknown ({problem})"
    return done.stdout.strip() or done.stderr.strip()
