# SPDX-License-Identifier: Apache-2.0
"""What the handbook says is what the code does."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest
from google.rpc import code_pb2

from callsd.v1 import caption_pb2, job_pb2, media_pb2, model_pb2, server_pb2
from callsd.v1.error_pb2 import ErrorReason
from callsd_daemon.config import SETTINGS
from callsd_daemon.rpc.status import CODES
from callsd_daemon.usecases.access import SCOPE_OF
from tests.conftest import StartDaemon
from tests.helpers.daemon import ROOT


DOCS = ROOT / "docs"
PAGES = (*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")))
TIMEOUT_SECONDS = 60

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
ROW = re.compile(r"^\| `([A-Z_]+)` \| (\S+) \| (job)? ?\|", re.MULTILINE)
SOURCE = re.compile(r"`([\w/]+\.py)`")
PROOF = re.compile(r"`(tests/[\w/]+\.py::[\w:]+)`")
TOML = re.compile(r"^ *```toml\n(.*?)```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def page(name: str) -> str:
    """The text of a page of the handbook."""
    return (DOCS / name).read_text(encoding="utf-8")


def _is_test(path: str, *names: str) -> bool:
    """Whether a file of ours has a test of these names: classes, then the function."""
    if not (ROOT / path).is_file():
        return False
    node: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for name in names:
        inner = {getattr(child, "name", ""): child for child in ast.iter_child_nodes(node)}
        if name not in inner:
            return False
        node = inner[name]
    return names[-1].startswith("test_") and not isinstance(node, ast.ClassDef)


class TestErrors:
    """What docs/errors.md lists."""

    def test_every_reason_once(self) -> None:
        """Each value of ErrorReason has one row, and nothing else has."""
        reasons = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()[1:]]

        rows = [reason for reason, _, _ in ROW.findall(page("errors.md"))]

        assert sorted(rows) == sorted(reasons)

    def test_codes(self) -> None:
        """The gRPC code of each reason is the one it is sent with; a dash if it never is."""
        codes = {reason.value: code_pb2.Code.Name(code) for reason, code in CODES.items()}

        rows = {reason: code for reason, code, _ in ROW.findall(page("errors.md"))}

        assert rows == {reason: codes.get(reason, "—") for reason in rows}

    def test_a_reason_goes_somewhere(self) -> None:
        """A reason that refuses no call ends a job."""
        rows = ROW.findall(page("errors.md"))

        assert [reason for reason, code, job in rows if code == "—" and not job] == []


class TestGenerated:
    """The parts that tools/gen_docs.py writes."""

    def test_current(self) -> None:
        """They are what the code yields now."""
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "gen_docs.py", "--check"],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )

        assert done.stdout == "gen_docs: current\n"

    def test_every_setting(self) -> None:
        """Each setting is there, with its environment variable."""
        variables = {f"CALLSD_{key.upper().replace('.', '_')}" for key in SETTINGS}

        assert set(re.findall(r"`(CALLSD_[A-Z_]+)` \|", page("configuration.md"))) == variables

    def test_every_method(self) -> None:
        """Each method of the public services has a scope, and a row that tells it."""
        modules = (caption_pb2, job_pb2, media_pb2, model_pb2, server_pb2)
        methods = {
            (service.name, method.name)
            for module in modules
            for service in module.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }

        rows = re.findall(r"^\| (\w+Service) \| `(\w+)` \|", page("api.md"), re.MULTILINE)

        assert set(rows) == methods
        assert len(rows) == len(methods)
        # The last one is gRPC's own.
        assert {*(method for _, method in methods), "ServerReflectionInfo"} == set(SCOPE_OF)


class TestPages:
    """All pages."""

    @pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_links_lead_somewhere(self, path: Path) -> None:
        """Each link to a file of the repository leads to one."""
        links = LINK.findall(path.read_text(encoding="utf-8"))

        dead = [link for link in links if not (path.parent / link).exists()]
        assert dead == []

    def test_configuration(self) -> None:
        """Keys of examples exist; none goes behind the installed file, which has all sections."""
        text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
        for block in TOML.findall(text):
            for section, values in tomllib.loads(dedent(block)).items():
                assert {f"{section}.{key}" for key in values} <= SETTINGS.keys()

        assert not re.search(r">> \S*callsd\.toml", text)

    def test_architecture_names_files(self) -> None:
        """Each Python file that the page on architecture names is there, under that path."""
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "daemon").rglob("*.py")]
        names = set(SOURCE.findall(page("architecture.md")))

        lost = [
            name for name in names if not any(f"/{file}".endswith(f"/{name}") for file in files)
        ]
        assert lost == []

    def test_proofs_exist(self) -> None:
        """Each row of what is proved in SECURITY.md names tests, and each test is there."""
        text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
        table = text.partition("## What is proved")[2].partition("\n## ")[0]
        rows = [PROOF.findall(row) for row in table.splitlines() if row.startswith("| ")][1:]

        assert [number for number, proofs in enumerate(rows) if not proofs] == []
        lost = [proof for proofs in rows for proof in proofs if not _is_test(*proof.split("::"))]
        assert lost == []

    def test_index_is_complete(self) -> None:
        """The handbook's index names each of its pages."""
        names = {path.name for path in DOCS.glob("*.md")} - {"README.md"}

        assert names <= set(LINK.findall(page("README.md")))

    def test_decisions_are_short(self) -> None:
        """A decision has context, decision and consequences, in at most 40 lines."""
        for path in sorted((DOCS / "adr").glob("*.md")):
            text = path.read_text(encoding="utf-8")
            headings = re.findall(r"^## (.*)$", text, re.MULTILINE)

            assert headings == ["Context", "Decision", "Consequences"], path.name
            assert len(text.splitlines()) <= 40, path.name


class TestReadme:
    """What README.md shows."""

    def test_python_example(
        self, daemon: StartDaemon, tmp_path: Path, models_directory: Path
    ) -> None:
        """The example in Python runs as it stands, on real speech."""
        (example,) = PYTHON.findall((ROOT / "README.md").read_text(encoding="utf-8"))
        one = daemon(is_real=True)
        (tmp_path / "daemon").symlink_to(ROOT / "daemon")

        done = subprocess.run(
            [sys.executable, "-c", example],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"CALLSD_ADDRESS": one.address},
            timeout=TIMEOUT_SECONDS,
        )

        assert done.stderr == ""
        assert re.fullmatch(r"jobs/\w+: \d\d words\n", done.stdout)
        assert (tmp_path / "maya.vtt").read_text(encoding="utf-8").startswith("WEBVTT")
