# SPDX-License-Identifier: Apache-2.0
"""The engine that a worker is told to use."""

from dataclasses import replace
from pathlib import Path

import pytest

from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.transcription import TRANSCRIPTION, Engine, TranscriptionSpec
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.models.store import ModelStore
from callsd_daemon.workers.session import captioning
from tests.helpers import models
from tests.helpers.jobs import make_job
from tests.helpers.kinds import KINDS


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A model that whisper.cpp runs faster here, and a smaller one for CTranslate2 alone."""
    models.install(tmp_path, cpu_seconds={"ctranslate2": 0.3, "whispercpp": 0.2})
    models.install(tmp_path, "smaller", engines=("ctranslate2",))
    return ModelStore(tmp_path)


@pytest.mark.parametrize(
    ("asked", "told"),
    [(Engine.AUTO, Engine.WHISPERCPP), (Engine.CTRANSLATE2, Engine.CTRANSLATE2)],
)
def test_of_a_transcription(store: ModelStore, asked: Engine, told: Engine) -> None:
    """A job that names no engine gets the best one, any other the one that it names."""
    kind = KINDS[TRANSCRIPTION]
    assert isinstance(kind, Transcription)
    spec = TranscriptionSpec(tracks=(), model=models.NAME, engine=asked)

    found = replace(kind, models=store).assignment(make_job(spec=spec), spec, SiteSecrets(), {})

    assert found.spec.engine is told


def test_of_captions(store: ModelStore) -> None:
    """Each of a captioner's two models has its own engine."""
    kind = KINDS[CAPTIONS]
    assert isinstance(kind, Captions)

    found = replace(kind, models=store, fallback_model="smaller").captioner(models.NAME)

    told = captioning.work(found, log_kept=0).work
    assert (told.engine, told.fallback_engine) == ("whispercpp", "ctranslate2")
