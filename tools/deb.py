# SPDX-License-Identifier: Apache-2.0
"""Build the Debian package of this machine's architecture and Python: build/callsd_*.deb.

usage: python tools/deb.py
"""

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from callsd_daemon.cli.install.installation import Installation


ROOT = Path(__file__).parents[1]
PARTS = ROOT / "tools" / "debian"
BUILD = ROOT / "build"
TREE = BUILD / "deb"
BACKEND = BUILD / "deb-backend"
BUILDS = {"hatchling", "pathspec", "pluggy", "trove-classifiers"}
"""What callsd is built by, and does not need to run."""
BUILDS_AND_RUNS = {"packaging", "tomlkit"}
HOME = Path("/usr/lib/callsd")
"""Where the package lives. It has the shape of a virtual environment, which Python recognises by
its pyvenv.cfg; nothing in it names the place where it was built."""
PYTHON = "/usr/bin/python3"
TIMEOUT_SECONDS = 600
SCRIPT = f"""\
#!{HOME}/bin/python
from callsd_daemon.cli.main import main
main()
"""


def run(*command: str | Path) -> str:
    """Run a command; what it prints. Ends the program when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        sys.exit(f"deb: {command[0]} ended with exit code {done.returncode}")
    return done.stdout.strip()


def install_into(target: Path) -> list[str]:
    """The command that installs what follows it."""
    pip = [sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet"]
    return [*pip, "--no-compile", "--target", str(target)]


def install_locked(target: Path, options: str, packages: list[str]) -> None:
    """Install packages of the lock; pip ends with an error when they need one that is left out."""
    lock = target.with_suffix(".txt")
    target.mkdir(parents=True, exist_ok=True)
    lock.write_text("\n".join([options, *packages]))
    run(*install_into(target), "--require-hashes", "--requirement", lock)
    lock.unlink()


def put_programs(minor: int) -> None:
    """Libraries, interpreter and command."""
    home = TREE / HOME.relative_to("/")
    site = home / f"lib/python3.{minor}/site-packages"
    options, *packages = re.split(r"\n(?=\S+==)", (ROOT / "requirements.txt").read_text())
    builds = [one for one in packages if one.partition("==")[0] in BUILDS | BUILDS_AND_RUNS]
    runs = [one for one in packages if one.partition("==")[0] not in BUILDS]
    install_locked(BACKEND, options, builds)
    install_locked(site, options, runs)
    # Built by what has just been checked; nothing more is fetched.
    build = ("--no-deps", "--no-build-isolation", ROOT)
    run("env", f"PYTHONPATH={BACKEND}", *install_into(site), *build)
    shutil.rmtree(site / "bin", ignore_errors=True)
    (home / "bin").mkdir()
    (home / "bin/python").symlink_to("../../../bin/python3")
    (home / "bin/callsd").write_text(SCRIPT)
    (home / "bin/callsd").chmod(0o755)
    (home / "pyvenv.cfg").write_text(f"home = {Path(PYTHON).parent}\n")
    (TREE / "usr/bin").mkdir()
    (TREE / "usr/bin/callsd").symlink_to("../lib/callsd/bin/callsd")


def put_documents(version: str) -> None:
    """What Debian wants to be there to read."""
    documents = TREE / "usr/share/doc/callsd"
    documents.mkdir(parents=True)
    shutil.copy(PARTS / "copyright", documents)
    date = run("git", "-C", ROOT, "log", "-1", "--format=%aD")
    entry = (
        f"callsd ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        f" -- callsd maintainers <maintainers@callsd.dev>  {date}\n"
    )
    compress(documents / "changelog.gz", entry)
    manual = (PARTS / "callsd.1").read_text().replace("@VERSION@", version)
    compress(TREE / "usr/share/man/man1/callsd.1.gz", manual)
    overrides = TREE / "usr/share/lintian/overrides/callsd"
    overrides.parent.mkdir(parents=True)
    shutil.copy(PARTS / "lintian-overrides", overrides)


def compress(path: Path, text: str) -> None:
    """Write a file that says the same whenever it is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def put_control(version: str, minor: int) -> None:
    """What dpkg reads."""
    control = TREE / "DEBIAN"
    control.mkdir()
    files = [path for path in TREE.rglob("*") if path.is_file() and not path.is_symlink()]
    values = {
        "VERSION": version,
        "ARCHITECTURE": run("dpkg", "--print-architecture"),
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
        "PYTHON": f"3.{minor}",
        "NEXT_PYTHON": f"3.{minor + 1}",
    }
    text = (PARTS / "control").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (control / "control").write_text(text)
    (control / "conffiles").write_text("/etc/callsd/callsd.toml\n")
    for name in ("preinst", "postinst", "prerm", "postrm"):
        shutil.copy(PARTS / name, control)
        (control / name).chmod(0o755)
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        f"  {path.relative_to(TREE)}\n"
        for path in sorted(files)
    ]
    (control / "md5sums").write_text("".join(sums))


def main() -> None:
    """Build it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    minor = int(run(PYTHON, "-c", "import sys; print(sys.version_info.minor)"))
    for directory in (TREE, BACKEND):
        shutil.rmtree(directory, ignore_errors=True)
    TREE.mkdir(parents=True)
    put_programs(minor)
    for step in Installation(TREE, programs=HOME / "bin").files():
        step.do()
    put_documents(version)
    # Whatever umask this was made under.
    run("chmod", "--recursive", "u=rwX,go=rX", TREE)
    for library in TREE.rglob("*.so*"):
        if not library.is_symlink():
            library.chmod(0o644)
    put_control(version, minor)
    print(run("dpkg-deb", "--root-owner-group", "-Zxz", "-z2", "--build", TREE, BUILD))


if __name__ == "__main__":
    main()
