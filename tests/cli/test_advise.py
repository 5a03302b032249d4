# SPDX-License-Identifier: Apache-2.0
"""`callsd advise`."""

from pathlib import Path

import pytest

from callsd_daemon.cli import advise as module
from callsd_daemon.host.probe import Limits
from callsd_daemon.models.measured import MEASURED
from tests.cli.conftest import Command
from tests.helpers import models


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models of a machine with two cores, as fast as that on which was measured."""
    monkeypatch.setattr(module, "limits", lambda: Limits(cores=2.0, memory_bytes=8 * 10**9))
    for name in ("tiny.en", "base"):
        trial = MEASURED[name, "ctranslate2"].trial_cpu_seconds
        models.install(
            tmp_path,
            name,
            engines=("ctranslate2",),
            is_multilingual=name == "base",
            cpu_seconds={"ctranslate2": trial},
        )
    return tmp_path


class TestAdvise:
    """What it says."""

    def test_small_load(self, callsd: Command, directory: Path) -> None:
        """The best that fits, its price, and the price of the next cheaper one."""
        said = callsd("advise", "--models-dir", directory, "--heard", "voices").stdout

        assert "\n→\tbase\tctranslate2\t" in said
        assert "\ntake base: 0." in said
        assert ", of 2 cores and 8 GB that are here" in said
        assert "\nhears best of all that was measured\n" in said
        assert "fewer words of 100 would be right: tiny.en: 0." in said
        assert "a sample takes 1.00 × the time here" in said

    def test_what_the_next_better_one_costs(self, callsd: Command, directory: Path) -> None:
        """A load that only the smallest one fits: by how much the next one exceeds it."""
        said = callsd(
            "advise", "--models-dir", directory, "--heard", "voices", "--calls", 15
        ).stdout

        assert "\ntake tiny.en: 1.5" in said
        assert "more words of 100 would be right: base: 2.5" in said

    def test_too_much(self, callsd: Command, directory: Path) -> None:
        """Nothing fits: refused, with the least that it takes."""
        said = callsd("advise", "--models-dir", directory, "--calls", 100, exit_code=5).stdout

        assert "no model carries that; the least is tiny.en: 10." in said

    def test_another_language(self, callsd: Command, directory: Path) -> None:
        """Only models that know it, and a word about what the errors are of."""
        found = callsd.json("advise", "--models-dir", directory, "--language", "de")
        said = callsd("advise", "--models-dir", directory, "--language", "de").stdout

        assert [model["model"] for model in found["models"]] == ["base"]
        assert found["chosen"] == "base"
        assert "errors are those in English" in said

    def test_no_such_language(self, callsd: Command, directory: Path) -> None:
        """What is no language is refused as a usage error."""
        said = callsd("advise", "--models-dir", directory, "--language", "xx", exit_code=2)

        assert "'xx'" in said.stderr

    def test_without_models(self, callsd: Command, tmp_path: Path) -> None:
        """On a machine with none it advises by the table, and says so."""
        found = callsd.json("advise", "--models-dir", tmp_path / "none")
        said = callsd("advise", "--models-dir", tmp_path / "none").stdout

        assert found["slowness"] is None
        assert f"callsd models pull {found['chosen']}" in said
        assert "no model is here" in said
