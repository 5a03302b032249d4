# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest
from click.testing import CliRunner

from callsd_bench.cli import bench
from callsd_bench.repetition.sound import MAX_SECONDS, repeated, said_once
from callsd_worker.speech.mel import SAMPLE_RATE_HZ
from tests.weights import MODELS_DIRECTORY


@pytest.mark.timeout(480)
def test_what_is_said_again_stays() -> None:
    """Of a few utterances every repetition is kept, and as many loops are provoked and judged."""
    result = CliRunner().invoke(
        bench,
        [
            *("repetition", "--utterances", "2", "--models-dir", str(MODELS_DIRECTORY)),
            *("--model", "tiny.en", "--json"),
        ],
    )

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["kept_in_transcripts"] == report["kept_in_captions"] == 1.0
    assert (report["repeated"], report["provoked"]) == (2, 2)


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
