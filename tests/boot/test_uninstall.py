# SPDX-License-Identifier: Apache-2.0
"""Taking callsd out of systemd: after this, nothing is left to test."""

import pytest

from tests.boot.service import Service


pytestmark = pytest.mark.timeout(240)


class TestUninstalled:
    """What `callsd uninstall` leaves."""

    def test_it_is_gone(self, service: Service) -> None:
        """Nothing runs, and no file is left but what was recorded and configured."""
        service.transcribe()
        service.machine.run("callsd", "uninstall")
        listed = service.machine.run("systemctl", "list-units", "--plain", "--no-legend", "callsd*")
        assert listed == ""
        left = service.machine.run("sh", "-c", "find /etc /usr/local -name '*callsd*'").split()
        assert left == ["/etc/callsd", "/etc/callsd/callsd.toml"]
        assert service.machine.run("ls", "/var/lib/callsd/jobs")
