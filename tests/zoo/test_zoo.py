# SPDX-License-Identifier: Apache-2.0
"""Whatever people bring is decoded right, or refused clearly."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from callsd_worker.media.decode import Samples
from callsd_worker.speech.loading import ModelFiles
from callsd_worker.transcriber.pipeline import Settings, Track, transcribe
from tests.weights import MODELS_DIRECTORY
from tests.zoo.cases import (
    LENGTHS_SECONDS,
    Case,
    Outcome,
    decoded,
    judge,
    make,
    source,
    usual,
    varied,
)
from tests.zoo.conftest import COUNTED
from tests.zoo.forms import FORMS, REFUSED


RecordProperty = Callable[[str, object], None]

UNWRITTEN = "not to be written by FFmpeg"


USUAL = [
    *("wav-pcm_s16le", "flac-flac", "ogg-libopus", "ogg-libvorbis", "mp4-aac", "ipod-aac"),
    *("webm-libopus", "matroska-libopus", "mp3-libmp3lame", "adts-aac", "asf-wmav2", "flv-aac"),
    *("mpegts-aac", "aiff-pcm_s16be", "caf-alac", "gsm-libgsm"),
]
"""Some of each kind; the rest is slow."""


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is said."""
    return source(tmp_path_factory.mktemp("zoo") / "source.wav")


@pytest.fixture(scope="module")
def reference(sentence: Path) -> Samples:
    """Its samples."""
    return decoded(sentence)


class Judged:
    """What has become of some cases, which is counted over all tests."""

    def __init__(
        self, cases: Iterable[Case], sentence: Path, reference: Samples, path: Path
    ) -> None:
        self.problems: list[str] = []
        self.counts = Counter[str]()
        for case in cases:
            if not make(case, sentence, path):
                self.counts[UNWRITTEN] += 1
                continue
            outcome, why = judge(case, path, reference)
            self.counts[outcome.value] += 1
            if outcome is not expected(case):
                self.problems.append(f"{case}: {outcome.value}, {why}")


def expected(case: Case) -> Outcome:
    """What is to become of it."""
    return Outcome.REFUSED if case.container in REFUSED else Outcome.RIGHT


@pytest.mark.parametrize("form", USUAL)
def test_usual_forms(form: str, sentence: Path, reference: Samples, tmp_path: Path) -> None:
    """The form in which a recorder or a phone writes is decoded: the right sound, all of it."""
    case = usual(*form.split("-"))
    assert make(case, sentence, tmp_path / "a")
    outcome, why = judge(case, tmp_path / "a", reference)

    assert outcome is expected(case), why


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("container", FORMS)
def test_every_codec(
    container: str,
    sentence: Path,
    reference: Samples,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    """What docs/media.md lists is decoded, what it calls headerless is refused."""
    cases = [usual(container, codec) for codec in FORMS[container].split()]
    judged = Judged(cases, sentence, reference, tmp_path / "a")
    record_property(COUNTED, dict(judged.counts))

    assert judged.problems == []
    assert not judged.counts[UNWRITTEN]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "form",
    [
        *("wav-pcm_s16le", "wav-pcm_f32le", "flac-flac", "ogg-libopus", "ogg-libvorbis", "mp4-aac"),
        *("matroska-ac3", "mp3-libmp3lame", "asf-wmav2", "mpegts-mp2", "wv-wavpack", "caf-alac"),
    ],
)
def test_every_rate_layout_and_length(
    form: str,
    sentence: Path,
    reference: Samples,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    """Of those that a codec has."""
    cases = varied(*form.split("-"))
    judged = Judged(cases, sentence, reference, tmp_path / "a")
    record_property(COUNTED, dict(judged.counts))

    assert judged.problems == []
    assert judged.counts.total() - judged.counts[UNWRITTEN] > len(LENGTHS_SECONDS)


def test_what_is_said_in_odd_forms(sentence: Path, tmp_path: Path) -> None:
    """Speech comes out of the whole way, of a telephone's rate, and of eight channels."""
    for number, case in enumerate(
        (
            usual("wav", "libgsm_ms"),
            replace(usual("mp4", "aac"), channels=8),
            replace(usual("voc", "pcm_u8"), rate_hz=8_000),
        )
    ):
        assert make(case, sentence, tmp_path / str(number))
    model = ModelFiles(name="tiny.en", directory=MODELS_DIRECTORY / "tiny.en")
    transcript = transcribe(
        [Track(source=tmp_path / str(number), speaker=str(number)) for number in range(3)],
        Settings(model=model),
        on_progress=lambda progress: None,
        should_stop=lambda: False,
    )

    said = defaultdict[str, str](str)
    for segment in transcript.segments:
        said[segment.speaker] += segment.text.lower()
    assert ["explain what happened" in said[str(number)] for number in range(3)] == [True] * 3, said
