# SPDX-License-Identifier: Apache-2.0
"""Generate the Python code of `proto/`: messages, gRPC stubs and their types.

    make gen                                 renew the committed code
    .venv-gen/bin/python tools/gen.py --check    exit 1, naming each file that is not current

Each proto package path is a Python import path (`callsd/v1/job.proto` → `callsd.v1.job_pb2`),
so that the output is used as it comes. Runs in the environment of `gen-requirements.txt`.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet


ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"

# Proto package directory → directory on the Python path that receives it. The package directory
# there holds generated files only: whatever else lies in it is removed.
TARGETS = {
    Path("callsd/v1"): ROOT / "clients" / "python",
    Path("callsd_ipc/v1"): ROOT / "daemon",
}

PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
PROTOC_TIMEOUT_SECONDS = 60

INIT = '''\
# SPDX-License-Identifier: Apache-2.0
"""Generated from `proto/{package}/*.proto` by `make gen`: do not edit."""
'''


def _google_rpc_include() -> Path:
    """The include directory under which `google/rpc/*.proto` lie."""
    spec = importlib.util.find_spec("google.rpc")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("gen: googleapis-common-protos is not installed; run this by `make gen`")
    return Path(spec.submodule_search_locations[0]).parent.parent


def _protoc(files: Sequence[str], *outputs: str) -> None:
    """Run protoc on `files` (relative to `proto/`); its own words explain a failure."""
    # grpc_tools.protoc adds the include directory of google/protobuf/*.proto by itself.
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"--proto_path={PROTO}", f"--proto_path={_google_rpc_include()}"),
        *(f"--plugin={Path(sys.executable).parent / plugin}" for plugin in PLUGINS),
        *outputs,
        *files,
    ]
    done = subprocess.run(command, check=False, timeout=PROTOC_TIMEOUT_SECONDS)
    if done.returncode != 0:
        sys.exit("gen: protoc failed, see above")


def _generate(package: Path, out: Path) -> None:
    """Write the whole Python package of one proto package below `out`."""
    files = sorted(str(path.relative_to(PROTO)) for path in (PROTO / package).glob("*.proto"))
    target = out / package
    target.mkdir(parents=True)
    (target / "__init__.py").write_text(INIT.format(package=package), encoding="utf-8")
    if not files:
        return
    descriptors = out / "descriptors.binpb"
    _protoc(
        files,
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--descriptor_set_out={descriptors}",
    )
    found = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    # Stubs only for files with a service: for the others they would be empty modules.
    if services := [file.name for file in found if file.service]:
        _protoc(services, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")


def _tree(directory: Path) -> dict[str, bytes]:
    """Contents of the files of a package directory by name, without Python's caches."""
    return {path.name: path.read_bytes() for path in directory.glob("*") if path.is_file()}


def _differences(package: Path, new: dict[str, bytes], old: dict[str, bytes]) -> list[str]:
    """One line for each file of `package` that is missing, superfluous or differs."""
    return [
        *(f"{package / name}: missing" for name in sorted(new.keys() - old.keys())),
        *(f"{package / name}: superfluous" for name in sorted(old.keys() - new.keys())),
        *(
            f"{package / name}: not current"
            for name in sorted(new.keys() & old.keys())
            if new[name] != old[name]
        ),
    ]


def _renew(target: Path, new: dict[str, bytes]) -> None:
    """Make `target` hold exactly the files `new`; what is current keeps its time stamp."""
    target.mkdir(parents=True, exist_ok=True)
    old = _tree(target)
    for name in old.keys() - new.keys():
        (target / name).unlink()
    for name, content in new.items():
        if old.get(name) != content:
            (target / name).write_bytes(content)


def main() -> int:
    """Generate, or compare with what is committed; returns the exit status."""
    parser = argparse.ArgumentParser(description="Generate the Python code of proto/.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    check: bool = parser.parse_args().check
    stale: list[str] = []
    for package, parent in TARGETS.items():
        with tempfile.TemporaryDirectory(prefix="callsd-gen-") as scratch:
            _generate(package, Path(scratch))
            new, target = _tree(Path(scratch) / package), parent / package
            changes = _differences(target.relative_to(ROOT), new, _tree(target))
            stale += changes
            if changes and not check:
                _renew(target, new)
    for line in stale:
        print(f"gen: {line}")
    if check and stale:
        print("gen: run `make gen` and commit the result")
        return 1
    print(f"gen: {'current' if not stale else f'{len(stale)} files renewed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
