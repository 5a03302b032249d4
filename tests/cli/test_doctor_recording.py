# SPDX-License-Identifier: Apache-2.0
"""What `callsd doctor` says of recordings, on machines that lack this or that."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from callsd_daemon.cli.doctor import checks_recording
from callsd_daemon.cli.doctor.checks_recording import (
    NAMESPACE_SETTINGS,
    RECORDING_PROGRAMS,
    check_recording,
)
from callsd_daemon.cli.doctor.finding import Finding, Status, first_line
from callsd_daemon.cli.shared.exit import Exit
from tests.cli.conftest import Command


PACKAGES = {
    "Xvfb": "xvfb",
    "xrandr": "x11-xserver-utils",
    "pulseaudio": "pulseaudio",
    "chromium": "chromium",
    "libyuv.so.0": "libyuv0",
    "libpulse-simple.so.0": "libpulse0",
    "libxcb.so.1": "libxcb1",
}


@pytest.fixture(autouse=True)
def _open_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with every program and library, whose kernel says nothing against namespaces."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(checks_recording, "_has_library", lambda name: True)
    monkeypatch.setattr(checks_recording, "first_line", lambda path: "")
    said = SimpleNamespace(returncode=0, stdout=b"/usr/share/fonts/one.ttf: ")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)


def findings() -> dict[str, Finding]:
    """What is found, by name."""
    return {finding.name: finding for finding in check_recording()}


class TestPrograms:
    """What must be installed."""

    def test_all_there(self) -> None:
        """Each program is shown with what it is for and where it is."""
        found = findings()

        assert {finding.status for finding in found.values()} == {Status.OK}
        assert found["Xvfb"].found == "display: /usr/bin/Xvfb"
        assert found["libyuv.so.0"].found == "colours: there"
        assert list(found) == [*PACKAGES, "fonts", "user namespaces"]

    def test_nothing_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each that is missing comes with its package; whoever records nothing needs none."""
        monkeypatch.setattr(shutil, "which", lambda name: None)
        monkeypatch.setattr(checks_recording, "_has_library", lambda name: False)
        found = findings()

        assert {name: found[name].fix for name in PACKAGES} == {
            name: f"apt install {package}" for name, package in PACKAGES.items()
        }
        assert {found[name].status for name in PACKAGES} == {Status.ADVICE}
        assert found["Xvfb"].found == "display: not installed, for recordings"

    @pytest.mark.parametrize("name", list(RECORDING_PROGRAMS[-1][1]))
    def test_any_browser(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """A browser is found under each of the names that distributions give it."""
        monkeypatch.setattr(shutil, "which", lambda one: f"/opt/{one}" if one == name else None)

        assert findings()["chromium"].found == f"browser: /opt/{name}"


class TestFonts:
    """Whether what is written in a page can be read."""

    @pytest.mark.parametrize(
        ("lacking", "expected"),
        [
            ("", (Status.OK, "for all 10 scripts", "")),
            (
                "ท한会",
                (
                    Status.ADVICE,
                    "none for Chinese, Korean, Thai: recordings show boxes instead",
                    "apt install fonts-noto-cjk fonts-noto-core",
                ),
            ),
        ],
    )
    def test_glyphs_are_looked_for(
        self, monkeypatch: pytest.MonkeyPatch, lacking: str, expected: tuple[Status, str, str]
    ) -> None:
        """Scripts without a glyph are named with packages that have some, each of these once."""
        codes = {f":charset={ord(character):x}" for character in lacking}

        def run(command: list[str], **_: object) -> SimpleNamespace:
            is_lacking = bool(codes.intersection(command))
            return SimpleNamespace(returncode=0, stdout=b"" if is_lacking else b"one.ttf: \n")

        monkeypatch.setattr(subprocess, "run", run)
        finding = findings()["fonts"]

        assert (finding.status, finding.found, finding.fix) == expected

    def test_nobody_to_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without fontconfig's list nothing is claimed."""
        monkeypatch.setattr(shutil, "which", lambda name: None)

        assert findings()["fonts"].fix == "apt install fontconfig"

    @pytest.mark.parametrize(
        "problem",
        [
            OSError("too many processes"),
            subprocess.TimeoutExpired("fc-list", 10),
            subprocess.CalledProcessError(1, "fc-list"),
        ],
    )
    def test_no_answer(self, monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
        """A list that fails or takes too long is asked once, and no glyph counts as missing."""
        asked = []

        def run(command: list[str], **_: object) -> SimpleNamespace:
            if command[0] == "fc-list":
                asked.append(command)
                raise problem
            return SimpleNamespace(returncode=0)

        monkeypatch.setattr(subprocess, "run", run)
        finding = findings()["fonts"]

        assert finding.status is Status.ADVICE
        assert "is not known" in finding.found
        assert len(asked) == 1


class TestNamespaces:
    """Whether the kernel lets a browser shut itself in."""

    @pytest.mark.parametrize(
        "setting", NAMESPACE_SETTINGS, ids=[one[0] for one in NAMESPACE_SETTINGS]
    )
    def test_settings(self, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str, str]) -> None:
        """Each setting that stands in the way is named as sysctl has it, with what to do."""
        file, bad, fix = setting
        monkeypatch.setattr(
            checks_recording,
            "first_line",
            lambda path: bad if path == Path("/proc/sys") / file else "",
        )
        finding = findings()["user namespaces"]

        assert (finding.status, finding.fix) == (Status.ADVICE, fix)
        assert finding.found.startswith(f"{file.replace('/', '.')} is {bad}: the browser cannot")

    @pytest.mark.parametrize("value", ["", "15000"])
    def test_other_values(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """Other values of these settings, and kernels without them, are no problem."""
        monkeypatch.setattr(checks_recording, "first_line", lambda path: value)

        assert findings()["user namespaces"].status is Status.OK

    def test_refused_by_something_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A namespace that cannot be made for another reason is seen, by making one."""
        monkeypatch.setattr(
            subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout=b"")
        )
        finding = findings()["user namespaces"]

        assert finding.status is Status.ADVICE
        assert finding.found.startswith(
            "the kernel refuses them: the browser cannot shut itself in"
        )
        assert "container" in finding.fix

    @pytest.mark.parametrize(
        "error", [FileNotFoundError("unshare"), subprocess.TimeoutExpired("unshare", 5.0)]
    )
    def test_cannot_be_tried(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        """Where it cannot be tried, nothing is claimed."""

        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(subprocess, "run", fail)

        assert findings()["user namespaces"].status is Status.OK


def test_first_line(tmp_path: Path) -> None:
    """A file of the kernel's is its first line; one that cannot be read is empty."""
    (tmp_path / "file").write_text(" 1 \n2\n")

    assert first_line(tmp_path / "file") == "1"
    assert first_line(tmp_path / "none") == ""


def test_doctor_tells(callsd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`callsd doctor` shows them among all others; whoever records nothing has no problem."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = callsd.json("doctor", exit_code=Exit.FAILED)["checks"]
    checks = {one["name"]: one for one in found}

    assert set(PACKAGES) | {"fonts", "user namespaces"} <= set(checks)
    assert checks["Xvfb"] == {
        "name": "Xvfb",
        "status": "advice",
        "found": "display: not installed, for recordings",
        "fix": "apt install xvfb",
    }
