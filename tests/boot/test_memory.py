# SPDX-License-Identifier: Apache-2.0
"""Limits of memory that hold, on a kernel that accounts for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import uml
from tests.boot.machine import Machine
from tests.boot.service import CALL, MODEL, PROGRAMS, STATE


pytestmark = pytest.mark.timeout(480)

SECONDS = 420.0

HOG = """\
import sys
from pathlib import Path
from callsd_worker.session.bootstrap import read_bootstrap
from callsd_worker.session.client import Session

told = Path("/run/callsd/bootstrap", sys.argv[1], "bootstrap")
bootstrap = read_bootstrap(told.read_bytes())
session = Session(bootstrap)
if session.start(60):
    held = [b"x" * 2**20 for _ in range(10**6)]
"""
"""A worker that reports for duty, as others do, and then takes all memory that there is."""

DROP_IN = f"""\
[Service]
ExecStart=
ExecStart={PROGRAMS}/python /opt/hog.py %i
"""

SCRIPT = f"""\
mount -t tmpfs none /tmp
mkdir -p {STATE}
mount -t tmpfs none {STATE}
{PROGRAMS}/callsd install --no-start >/dev/null
sed -i 's/# model = "base"/model = "{MODEL}"/; s/# enforced = true/enforced = false/' \\
    /etc/callsd/callsd.toml
mkdir -p {STATE}/models
cp -r /opt/models/{MODEL} {STATE}/models
chown -R callsd: {STATE}
systemctl start callsd.service
daemon=$(systemctl show --value -p MainPID callsd.service)
create() {{
    runuser -u callsd -- callsd --json jobs create --track=nina={CALL}/nina.ogg >$1
}}
create /first.json
until systemctl is-active 'callsd-transcriber@*' >/dev/null; do sleep 0.1; done
mkdir -p /run/systemd/system/callsd-transcriber@.service.d
cp /opt/hog.conf /run/systemd/system/callsd-transcriber@.service.d
systemctl daemon-reload
create /second.json
for number in second first; do
    job=$(sed 's,.*"name": "jobs/\\([0-9a-f]*\\)".*,\\1,' /$number.json)
    runuser -u callsd -- callsd --json jobs watch $job >/$number.watch || [ $? = 1 ]
done
[ "$daemon" = "$(systemctl show --value -p MainPID callsd.service)" ]
"""


@pytest.fixture
def machine(installed: Path) -> Iterator[Machine]:
    """With callsd in /opt/callsd; not booted."""
    if not uml.PROGRAM.exists():
        pytest.skip("takes user-mode-linux: see tools/packages.sh")
    with Machine(installed) as one:
        yield one


class TestMemory:
    """What a worker takes beyond its limit is its own loss."""

    def test_a_worker_that_takes_too_much_is_killed(self, machine: Machine) -> None:
        """The kernel ends it, its job says why; another job and the daemon are unharmed."""
        (machine.root / "opt/hog.py").write_text(HOG)
        (machine.root / "opt/hog.conf").write_text(DROP_IN)
        uml.run(machine, SCRIPT, seconds=SECONDS)
        ended = {}
        for name in ("first", "second"):
            last = (machine.root / f"{name}.watch").read_text().splitlines()[-1]
            ended[name] = json.loads(last)["job_changed"]
        assert ended["first"]["state"] == "JOB_STATE_SUCCEEDED"
        assert ended["first"]["attempt"] == 1
        assert ended["second"]["state"] == "JOB_STATE_FAILED"
        assert ended["second"]["attempt"] == 1
        assert ended["second"]["failure"]["reason"] == "ERROR_REASON_OUT_OF_MEMORY"
