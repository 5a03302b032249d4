# SPDX-License-Identifier: Apache-2.0
"""What an administrator does to the service."""

import time

import pytest

from tests.boot.service import Service, transcriber


pytestmark = pytest.mark.timeout(240)

DROP_IN = "/run/systemd/system/callsd.service.d/watchdog.conf"


class TestOperation:
    """Reload, watchdog, stop."""

    def test_a_wrong_configuration_changes_nothing(self, service: Service) -> None:
        """Reload reports the mistake and goes on as before; put right, it takes effect."""
        path = service.machine.root / "etc/callsd/callsd.toml"
        text = path.read_text()
        path.write_text(text + "\n[jobs]\nmax_concurrent_jobs = 'many'\n")
        service.machine.run("systemctl", "reload", "callsd.service")
        assert "reload_failed" in service.machine.journal("callsd.service")
        assert service.json("capacity").get("max_concurrent_jobs", 0) == 0
        path.write_text(text.replace("# max_concurrent_jobs = 0", "max_concurrent_jobs = 7"))
        service.machine.run("systemctl", "reload", "callsd.service")
        assert service.json("capacity")["max_concurrent_jobs"] == 7
        path.write_text(text)
        service.machine.run("systemctl", "reload", "callsd.service")

    def test_a_stalled_event_loop_is_noticed(self, service: Service) -> None:
        """A daemon that hangs is killed by the watchdog and started again; its jobs go on."""
        machine = service.machine
        machine.run("install", "-D", "/dev/null", DROP_IN)
        machine.path(DROP_IN).write_text("[Service]\nWatchdogSec=2\n")
        machine.run("systemctl", "daemon-reload")
        service.restart()
        job = service.transcribe()
        worker, hung = service.process(transcriber(job)), service.process()
        machine.run("kill", "-STOP", str(hung))
        service.wait_for_another(hung)
        assert service.process(transcriber(job)) == worker
        assert not service.wait(job).notices
        machine.path(DROP_IN).unlink()
        machine.run("systemctl", "daemon-reload")
        service.restart()

    def test_stopping_lets_go_of_jobs(self, service: Service) -> None:
        """`systemctl stop` is quick; what runs goes on, and is taken up at the next start."""
        job = service.transcribe()
        worker = service.process(transcriber(job))
        began = time.monotonic()
        service.machine.run("systemctl", "stop", "callsd.service")
        assert time.monotonic() - began < 30
        assert service.process(transcriber(job)) == worker
        service.machine.run("systemctl", "start", "callsd.service")
        assert not service.wait(job).notices
