# SPDX-License-Identifier: Apache-2.0
"""What `callsd doctor` looks at for recordings."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from callsd_daemon.cli.doctor.finding import Finding, Status, first_line


UNSHARE_TIMEOUT_SECONDS = 5.0
FONTS_TIMEOUT_SECONDS = 10.0
"""For one question: the first one may have fontconfig read all fonts."""

# What it is for, names under which distributions have it, Debian's package.
RECORDING_PROGRAMS = (
    ("display", ("Xvfb",), "xvfb"),
    ("refresh rate", ("xrandr",), "x11-xserver-utils"),
    ("sound", ("pulseaudio",), "pulseaudio"),
    (
        "browser",
        ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"),
        "chromium",
    ),
)

# What it is for, its name, Debian's package.
RECORDING_LIBRARIES = (
    ("colours", "libyuv.so.0", "libyuv0"),
    ("sound", "libpulse-simple.so.0", "libpulse0"),
    ("pictures", "libxcb.so.1", "libxcb1"),
)

# Scripts, a character of theirs that only fonts for them have, Debian's package of such fonts.
SCRIPTS = (
    ("Chinese", "会", "fonts-noto-cjk"),
    ("Japanese", "あ", "fonts-noto-cjk"),
    ("Korean", "한", "fonts-noto-cjk"),
    ("Devanagari", "ह", "fonts-noto-core"),
    ("Bengali", "ব", "fonts-noto-core"),
    ("Tamil", "த", "fonts-noto-core"),
    ("Thai", "ท", "fonts-noto-core"),
    ("Arabic", "ع", "fonts-noto-core"),
    ("Hebrew", "ש", "fonts-noto-core"),
    ("emoji", "👍", "fonts-noto-color-emoji"),
)

# Kernel setting, the value that keeps browsers from shutting themselves in, what to do.
NAMESPACE_SETTINGS = (
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1, and in /etc/sysctl.d to keep it",
    ),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def check_recording() -> Iterator[Finding]:
    """What recordings need: software, and a kernel that lets a browser shut itself in."""
    for purpose, names, package in RECORDING_PROGRAMS:
        found = next(filter(None, map(shutil.which, names)), "")
        yield _installed(names[0], purpose, found, package)
    for purpose, name, package in RECORDING_LIBRARIES:
        yield _installed(name, purpose, "there" if _has_library(name) else "", package)
    yield _fonts()
    problem, fix = _namespace_problem()
    yield Finding(
        name="user namespaces",
        status=Status.ADVICE if problem else Status.OK,
        found=f"{problem}: the browser cannot shut itself in, and no page can be recorded"
        if problem
        else "allowed: the browser shuts itself in",
        fix=fix,
    )


def _installed(name: str, purpose: str, found: str, package: str) -> Finding:
    return Finding(
        name=name,
        status=Status.OK if found else Status.ADVICE,
        found=f"{purpose}: {found or 'not installed, for recordings'}",
        fix="" if found else f"apt install {package}",
    )


def _fonts() -> Finding:
    """Whether what is written in a page can be read, whichever package the glyphs are from."""
    if not shutil.which("fc-list"):
        return Finding(
            name="fonts",
            status=Status.ADVICE,
            found="whether there are any is not known, as fc-list is not installed",
            fix="apt install fontconfig",
        )
    try:
        missing = [one for one in SCRIPTS if not _has_glyph(one[1])]
    except (OSError, subprocess.SubprocessError):
        return Finding(
            name="fonts",
            status=Status.ADVICE,
            found="whether there are any is not known, as fc-list fails or takes too long",
            fix="fc-cache --really-force",
        )
    if not missing:
        return Finding(name="fonts", status=Status.OK, found=f"for all {len(SCRIPTS)} scripts")
    names = ", ".join(name for name, _, _ in missing)
    packages = dict.fromkeys(package for _, _, package in missing)
    return Finding(
        name="fonts",
        status=Status.ADVICE,
        found=f"none for {names}: recordings show boxes instead",
        fix=f"apt install {' '.join(packages)}",
    )


def _has_glyph(character: str) -> bool:
    done = subprocess.run(
        ["fc-list", f":charset={ord(character):x}", "file"],  # noqa: S607 - as users have it
        check=True,
        capture_output=True,
        timeout=FONTS_TIMEOUT_SECONDS,
    )
    return bool(done.stdout.strip())


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _namespace_problem() -> tuple[str, str]:
    """Why an ordinary user cannot make a user namespace, and what to do; empty if they can.

    Source: chromium, docs/linux/suid_sandbox_development.md; Ubuntu 23.10's release notes.
    """
    for file, bad, fix in NAMESPACE_SETTINGS:
        if first_line(Path("/proc/sys") / file) == bad:
            return f"{file.replace('/', '.')} is {bad}", fix
    try:
        done = subprocess.run(
            [shutil.which("unshare") or "unshare", "--user", "true"],
            check=False,
            capture_output=True,
            timeout=UNSHARE_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    if done.returncode == 0:
        return "", ""
    return (
        "the kernel refuses them",
        "allow them in what confines callsd: container, unit, AppArmor",
    )
