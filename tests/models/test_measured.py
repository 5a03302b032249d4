# SPDX-License-Identifier: Apache-2.0
"""What was measured of models, the engine that is chosen by it, and the advice."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from callsd_daemon.models import advice, measured
from callsd_daemon.models.advice import Load, best, choices
from callsd_daemon.models.catalogue import CATALOGUE
from callsd_daemon.models.measured import MEASURED, Hearing, Measured, engine_for, slowness_here
from callsd_daemon.models.store import ModelStore
from tests.helpers import models


Figures = Mapping[tuple[str, str], Measured]


def figures(errors: float, cpu_seconds: float) -> Measured:
    """Of one engine that hears equally well in all ways."""
    return Measured(
        word_errors=dict.fromkeys(Hearing, errors),
        cpu_seconds=cpu_seconds,
        memory_bytes=500_000_000,
        trial_cpu_seconds=0.1,
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty models directory."""
    return ModelStore(tmp_path)


def use(monkeypatch: pytest.MonkeyPatch, found: Figures) -> None:
    """Have these figures instead of the real ones."""
    for module in (measured, advice):
        monkeypatch.setattr(module, "MEASURED", MappingProxyType(dict(found)))


class TestFigures:
    """The table."""

    def test_of_the_catalogue(self) -> None:
        """All of it is of models that the catalogue has, with figures that can be."""
        for (model, _), figure in MEASURED.items():
            assert model in CATALOGUE
            assert Hearing.CLOSE in figure.word_errors
            assert all(0 < rate < 1 for rate in figure.word_errors.values())
            assert 0 < figure.cpu_seconds < 1
            assert figure.trial_cpu_seconds > 0
            assert 100e6 < figure.memory_bytes < 4e9


class TestEngine:
    """The engine of jobs that name none."""

    def test_fewest_seconds_for_as_many_words(self, store: ModelStore) -> None:
        """CTranslate2 has the same errors as whisper.cpp, and takes less processor time."""
        models.install(store.directory, "base", cpu_seconds={"ctranslate2": 0.3, "whispercpp": 1.4})

        assert engine_for(store.get("base"), "en") == "ctranslate2"

    def test_a_machine_that_differs(self, store: ModelStore) -> None:
        """Where a trial shows that an engine is slow, the other one is taken."""
        models.install(store.directory, "base", cpu_seconds={"ctranslate2": 5.0, "whispercpp": 0.5})

        assert engine_for(store.get("base"), "en") == "whispercpp"

    def test_only_what_can_run(self, store: ModelStore) -> None:
        """An engine for which the model has no files is not taken, however good it is."""
        models.install(store.directory, "base", engines=("whispercpp",))

        assert engine_for(store.get("base"), "") == "whispercpp"

    @pytest.mark.parametrize(
        ("language", "expected"), [("en", "whispercpp"), ("", "whispercpp"), ("de", "ctranslate2")]
    )
    def test_accuracy_counts_where_it_was_measured(
        self, store: ModelStore, monkeypatch: pytest.MonkeyPatch, language: str, expected: str
    ) -> None:
        """Half of the words right outweigh a tenth of the time, in the language of the clips."""
        use(
            monkeypatch,
            {
                ("base", "ctranslate2"): figures(0.5, 0.1),
                ("base", "whispercpp"): figures(0.1, 0.11),
            },
        )
        models.install(store.directory, "base")

        assert engine_for(store.get("base"), language) == expected

    def test_of_a_model_of_ones_own(self, store: ModelStore) -> None:
        """What nobody has measured is chosen by the trials alone."""
        models.install(store.directory, cpu_seconds={"ctranslate2": 0.4, "whispercpp": 0.2})

        assert engine_for(store.get(models.NAME), "en") == "whispercpp"


class TestAdvice:
    """Which model is best at a load."""

    LOAD = Load(calls=1, hours=24)

    @pytest.fixture(autouse=True)
    def _figures(self, monkeypatch: pytest.MonkeyPatch, store: ModelStore) -> None:
        """A better model that takes more; one of them is here, on a machine as it was measured."""
        use(
            monkeypatch,
            {
                ("tiny.en", "ctranslate2"): figures(0.2, 0.05),
                ("base", "ctranslate2"): figures(0.1, 0.1),
                ("moonshine-base", "onnx"): figures(0.098, 0.4),
            },
        )
        models.install(store.directory, "base", engines=("ctranslate2",))

    def best(self, store: ModelStore, language: str = "en", **limits: float) -> str | None:
        """The name of the best one."""
        found = choices(store.list(), language, self.LOAD, Hearing.CLOSE)
        choice = best(found, **{"cores": 2.0, "memory_bytes": 8e9, **limits})  # type: ignore[arg-type]
        return None if choice is None else choice.model

    def test_takes_all_of_the_load(self, store: ModelStore) -> None:
        """A day of speech in a day takes its seconds, a call what is reserved for one."""
        found = {
            choice.model: choice for choice in choices(store.list(), "en", self.LOAD, Hearing.CLOSE)
        }

        assert found["base"].cores == pytest.approx(0.1 + 2 * 0.085)
        assert found["base"].memory_bytes == pytest.approx(500e6 + (450 + 32) * 2**20)
        assert found["base"].is_present
        assert not found["tiny.en"].is_present

    def test_best_that_is_carried(self, store: ModelStore) -> None:
        """Fewest errors within cores and memory; what is hardly better is not worth its price."""
        assert self.best(store) == "base"
        assert self.best(store, cores=0.2) == "tiny.en"
        assert self.best(store, cores=0.1) is None
        assert self.best(store, memory_bytes=500e6) is None

    def test_language(self, store: ModelStore) -> None:
        """Models that know English only are none for another language."""
        assert [
            choice.model for choice in choices(store.list(), "de", self.LOAD, Hearing.CLOSE)
        ] == ["base"]

    def test_a_slower_machine(self, store: ModelStore) -> None:
        """What the models here took for their trial tells of all how long they take."""
        models.install(
            store.directory, "base", engines=("ctranslate2",), cpu_seconds={"ctranslate2": 0.3}
        )
        found = {
            choice.model: choice for choice in choices(store.list(), "en", self.LOAD, Hearing.CLOSE)
        }

        assert slowness_here(store.list()) == pytest.approx(3.0)
        assert found["tiny.en"].cpu_seconds == pytest.approx(0.15)
        assert found["base"].cpu_seconds == pytest.approx(0.3)

    def test_how_it_is_heard(self, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Errors are those of the way that is asked for; who was not measured so is left out."""
        use(
            monkeypatch,
            {
                ("tiny.en", "ctranslate2"): figures(0.2, 0.05),
                ("base", "ctranslate2"): replace(
                    figures(0.1, 0.1), word_errors={Hearing.CLOSE: 0.1}
                ),
            },
        )

        def names(hearing: Hearing) -> list[str]:
            return [choice.model for choice in choices(store.list(), "en", self.LOAD, hearing)]

        assert names(Hearing.CLOSE) == ["base", "tiny.en"]
        assert names(Hearing.FAR) == ["tiny.en"]
