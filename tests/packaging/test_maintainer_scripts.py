# SPDX-License-Identifier: Apache-2.0
"""What the Debian package does with the service, called as dpkg calls its scripts."""

import os
import subprocess
from pathlib import Path

import pytest


SCRIPTS = Path(__file__).parents[2] / "tools" / "debian"
PROGRAMS = ("systemctl", "systemd-sysusers", "systemd-tmpfiles")


class Machine:
    """A system in a directory, whose systemctl only notes what it is told."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._said = root / "said"
        self._bin = root / "bin"
        self._bin.mkdir()
        self.is_running = root / "run/systemd/system"
        self.is_running.mkdir(parents=True)
        python = root / "usr/lib/callsd/bin/python"
        python.parent.mkdir(parents=True)
        for path in (python, *(self._bin / name for name in PROGRAMS)):
            path.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {self._said}\n')
            path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> list[str]:
        """Run one of the scripts; what it has told systemctl, but for reloading."""
        text = (SCRIPTS / script).read_text()
        for top in ("/usr/lib", "/run/", "/var/lib"):
            text = text.replace(top, f"{self._root}{top}")
        self._said.write_text("")
        subprocess.run(
            ["/bin/sh", "-c", text, script, *arguments],
            env={"PATH": f"{self._bin}:{os.environ['PATH']}"},
            check=True,
            timeout=10,
        )
        said = [line for line in self._said.read_text().splitlines() if "systemctl" in line]
        return [line.removeprefix("systemctl ") for line in said if "reload" not in line]

    def install(self, *versions: str) -> list[str]:
        """As `apt install` does: `versions` is the one that was removed and not purged, if any."""
        assert self.run("preinst", "install", *versions) == []
        return self.run("postinst", "configure", *versions)

    def upgrade(self) -> list[str]:
        """As `apt upgrade` does."""
        assert self.run("preinst", "upgrade", "0.1") == []
        return self.run("postinst", "configure", "0.1")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that runs, without callsd."""
    return Machine(tmp_path)


ENABLED = ["enable --now callsd.service"]


class TestService:
    """When it is enabled, and when it is left as it is."""

    def test_installed(self, machine: Machine) -> None:
        """The first installation enables and starts it."""
        assert machine.install() == ENABLED

    def test_again(self, machine: Machine) -> None:
        """So does one after a removal, whether it was purged or not."""
        machine.install()
        for action, versions in (("remove", ("0.1",)), ("purge", ())):
            assert machine.run("prerm", "remove")[0] == "disable --now callsd.service"
            machine.run("postrm", "remove")
            if action == "purge":
                machine.run("postrm", "purge")
            assert machine.install(*versions) == ENABLED

    def test_upgraded(self, machine: Machine) -> None:
        """An upgrade restarts what runs, and enables nothing that was disabled."""
        machine.install()
        assert machine.upgrade() == ["try-restart callsd.service"]

    def test_broken_off(self, machine: Machine) -> None:
        """An installation that is configured later, by `dpkg --configure`, is one all the same."""
        machine.run("preinst", "install", "0.1")
        assert machine.run("postinst", "configure", "0.1") == ENABLED
        assert machine.upgrade() == ["try-restart callsd.service"]

    def test_taken_back(self, machine: Machine) -> None:
        """One that was given up leaves nothing that a later upgrade could take for one."""
        machine.run("preinst", "install")
        machine.run("postrm", "abort-install")
        assert machine.upgrade() == ["try-restart callsd.service"]

    def test_without_systemd(self, machine: Machine) -> None:
        """In an image that is being built it is enabled, for the first boot."""
        machine.is_running.rmdir()
        assert machine.install("0.1") == ["enable callsd.service"]
        assert machine.upgrade() == []
