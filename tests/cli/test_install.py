# SPDX-License-Identifier: Apache-2.0
"""What is put where; tests/boot installs on a machine that is running."""

import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from callsd_daemon.cli.install import installation
from callsd_daemon.cli.install.command import install, uninstall
from callsd_daemon.cli.install.installation import Installation
from callsd_daemon.cli.shared.exit import Problem


FILES = {
    "etc/callsd/callsd.toml",
    "etc/polkit-1/rules.d/50-callsd.rules",
    "etc/systemd/system/callsd-captioner@.service",
    "etc/systemd/system/callsd-capturer@.service",
    "etc/systemd/system/callsd-recorder@.service",
    "etc/systemd/system/callsd-transcriber@.service",
    "etc/systemd/system/callsd-workers.slice",
    "etc/systemd/system/callsd.service",
    "etc/sysusers.d/callsd.conf",
    "etc/tmpfiles.d/callsd.conf",
    "usr/local/bin/callsd",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system in a directory, as a bare Debian has it; this callsd may lie anywhere."""
    monkeypatch.setattr(installation, "HIDDEN", ())
    for path in ("usr/bin/systemctl", "usr/lib/polkit-1/polkitd"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("")
    return tmp_path


def run(command: object, *arguments: str | Path) -> Result:
    """Run a command; what it raises is raised."""
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)  # type: ignore[arg-type]


def files(root: Path) -> set[str]:
    """All files of callsd's."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if "callsd" in path.name} - {
        "etc/callsd"
    }


def modes(root: Path) -> tuple[set[int], set[int]]:
    """Modes of all of callsd's files, and of the directories above them."""
    paths = [root / name for name in FILES if not (root / name).is_symlink()]
    above = {one for name in FILES for one in (root / name).parents if one.is_relative_to(root)}
    directories = above - {root}
    return (
        {path.stat().st_mode & 0o777 for path in paths},
        {path.stat().st_mode & 0o777 for path in directories},
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as installing does")


class TestInstall:
    """Setting a system up."""

    def test_dry_run(self, root: Path) -> None:
        """A dry run needs no privilege, names every file and does nothing."""
        said = run(install, "--root", root, "--dry-run").output
        assert files(root) == set()
        assert all(f"{root}/{name}" in said for name in FILES)

    @needs_root
    def test_everything_is_there(self, root: Path) -> None:
        """Units lead to this callsd, the user exists, the service is enabled, workers are units."""
        run(install, "--root", root)
        enabled = "etc/systemd/system/multi-user.target.wants/callsd.service"
        assert files(root) == {*FILES, enabled}
        unit = (root / "etc/systemd/system/callsd.service").read_text()
        assert f"ExecStart={Path(sys.executable).parent}/callsd serve" in unit
        assert "@BIN@" not in unit
        assert "callsd:" in (root / "etc/passwd").read_text()
        assert re.search(
            "^callsd-worker:.*:callsd$", (root / "etc/group").read_text(), re.MULTILINE
        )
        settings = tomllib.loads((root / "etc/callsd/callsd.toml").read_text())
        assert settings["workers"] == {"launcher": "systemd"}
        assert settings["state"]["directory"] == "/var/lib/callsd"

    @needs_root
    def test_again(self, root: Path) -> None:
        """Installing again changes nothing but units of another version, least of all settings."""
        run(install, "--root", root)
        settings = root / "etc/callsd/callsd.toml"
        settings.write_text("# mine\n")
        unit = root / "etc/systemd/system/callsd.service"
        text = unit.read_text()
        unit.write_text("old")
        said = run(install, "--root", root).output
        assert settings.read_text() == "# mine\n"
        assert unit.read_text() == text
        assert f"write {unit}" in said
        assert f"keep {root}/etc/polkit-1" in said

    @needs_root
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
    def test_any_umask(self, root: Path, umask: int) -> None:
        """Whatever umask root has, the service's user can read all of it and write nothing."""
        before = os.umask(umask)
        try:
            run(install, "--root", root)
        finally:
            os.umask(before)

        assert modes(root) == ({0o644}, {0o755})

    @needs_root
    def test_over_one_that_was_shut(self, root: Path) -> None:
        """What an earlier version has made under umask 077 is opened; who else may is kept."""
        run(install, "--root", root)
        directory, unit = root / "etc/callsd", root / "etc/systemd/system/callsd.service"
        directory.chmod(0o700)
        unit.chmod(0o600)
        said = run(install, "--root", root).output
        assert f"chmod 0755 {directory}" in said
        assert f"write {unit}" in said
        assert modes(root) == ({0o644}, {0o755})
        directory.chmod(0o750)
        run(install, "--root", root)

        assert directory.stat().st_mode & 0o777 == 0o750

    @needs_root
    def test_former_units(self, root: Path) -> None:
        """What earlier versions had is taken away, and counts as outdated while it is there."""
        run(install, "--root", root)
        former = root / "etc/systemd/system/callsd-worker@.service"
        former.write_text("old")
        assert Installation(root).outdated() == [former]
        assert f"remove {former}" in run(install, "--root", root).output
        assert Installation(root).outdated() == []

    @needs_root
    def test_former_units_of_a_running_system(self, root: Path) -> None:
        """Where instances may run they keep their unit until the next boot."""
        run(install, "--root", root)
        former = root / "etc/systemd/system/callsd-worker@.service"
        former.write_text("old")
        installation = Installation(root, is_live=True)
        for step in installation.files():
            step.do()
        assert not former.exists()
        assert (root / "run/systemd/system/callsd-worker@.service").read_text() == "old"
        run(uninstall, "--root", root)
        assert files(root) == {"etc/callsd/callsd.toml"}

    def test_without_root(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who may not is told so before anything is done."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(Problem, match="takes root"):
            run(install, "--root", root)
        assert files(root) == set()

    def test_where_services_cannot_see(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A callsd in a home directory is not installed: its service would find nothing."""
        monkeypatch.setattr(installation, "HIDDEN", ("/",))
        with pytest.raises(Problem, match="which services cannot see") as caught:
            run(install, "--root", root, "--dry-run")
        assert "/opt/callsd" in caught.value.to_do

    @pytest.mark.parametrize(
        ("path", "package"),
        [("usr/bin/systemctl", "systemd"), ("usr/lib/polkit-1/polkitd", "polkitd")],
    )
    def test_what_is_missing(self, root: Path, path: str, package: str) -> None:
        """What the service needs and is not there is named, with the package that brings it."""
        (root / path).unlink()
        with pytest.raises(Problem, match="is not installed") as caught:
            run(install, "--root", root, "--dry-run")
        assert caught.value.to_do == f"apt install {package}"


@needs_root
class TestUninstall:
    """Taking it out again."""

    def test_what_is_kept(self, root: Path) -> None:
        """Everything goes but configuration and recordings; again there is nothing to do."""
        run(install, "--root", root)
        recording = root / "var/lib/callsd/jobs/x"
        recording.mkdir(parents=True)
        assert "kept: /etc/callsd, /var/lib/callsd" in run(uninstall, "--root", root).output
        assert files(root) == {"etc/callsd/callsd.toml", "var/lib/callsd"}
        assert run(uninstall, "--root", root).exit_code == 0

    def test_purged(self, root: Path) -> None:
        """With --purge these go as well."""
        run(install, "--root", root)
        (root / "var/lib/callsd/jobs/x").mkdir(parents=True)
        run(uninstall, "--root", root, "--purge")
        assert files(root) == set()
        assert not (root / "etc/callsd").exists()
