# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest
from click.testing import CliRunner, Result

from callsd_bench.cli import bench
from callsd_bench.repetition.bench import times_in
from callsd_bench.repetition.sound import MAX_SECONDS, repeated, said_once
from callsd_worker.media.sound import SAMPLE_RATE_HZ
from tests.weights import MODELS_DIRECTORY


def run(*words: str) -> Result:
    """The command, with one utterance of each kind."""
    models = ("--models-dir", str(MODELS_DIRECTORY), "--model", "tiny.en")
    return CliRunner().invoke(bench, ["repetition", "--utterances", "1", *models, *words])


@pytest.mark.timeout(480)
def test_what_is_said_again_is_judged() -> None:
    """Of a repetition it is told how much is kept, and a loop is provoked for each."""
    result = run("--json")

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["repeated"], report["provoked"]) == (1, 1)
    # Which words are kept is a matter of the processor and, in retries, of chance.
    assert 0.5 <= report["kept_in_transcripts"] <= 1.0
    assert 0.5 <= report["kept_in_captions"] <= 1.0


def test_an_engine_without_its_files() -> None:
    """It is an error that says so, for each engine that there is."""
    result = run("--engine", "onnx")

    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert "onnx" in result.stderr


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("The edge one is easy.", 1),
        ("The edge one is easy. The edge one is easy.", 2),
        ("The H1 is easy, the H1 is easy, the H1 is easy, the H1 is easy.", 4),
        ("The H1 is easy, the H1 is easy, the", 2),
        ("The edge one is easy. The H1 one is easy.", 2),
        ("", 0),
    ],
)
def test_a_phrase_is_counted_in_the_words_it_is_heard_in(text: str, times: int) -> None:
    """One that is misheard with a word less each time is there as often as it is there."""
    assert times_in(text, phrase_words=5) == times


@pytest.mark.parametrize("make", [repeated, said_once])
def test_a_seed_is_a_sound(make: type) -> None:
    """The same seed gives the same utterance, another one another."""
    assert np.array_equal(make(1).samples, make(1).samples)
    assert not np.array_equal(make(1).samples[:1000], make(2).samples[:1000])


def test_repetitions_fit_into_a_segment() -> None:
    """Each is said at least twice and ends in time."""
    for seed in range(20):
        utterance = repeated(seed)

        assert 2 <= utterance.times <= 7
        assert utterance.samples.size <= MAX_SECONDS * SAMPLE_RATE_HZ
