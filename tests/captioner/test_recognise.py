# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from callsd_worker.captioner.decoding import DecodeWindow
from callsd_worker.captioner.recognise import recognise
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import TRAINED_SECONDS, DecodeOptions, Encoded, Recognised
from callsd_worker.speech.engines.ct2 import CTranslate2Engine
from tests.captioner.sound import MAYA_SECONDS, MAYA_TEXT, cut, decoded
from tests.helpers.syllables import murmur, syllables
from tests.weights import MODELS_DIRECTORY


ONCE = syllables(9, seconds=2.5, of_seconds=7.0)
"""A voice of as many syllables as "and so my fellow Americans" has."""


@pytest.fixture(scope="module")
def engine() -> CTranslate2Engine:
    """The smallest real one, for two threads."""
    return CTranslate2Engine(
        MODELS_DIRECTORY / "tiny.en" / "ctranslate2", threads=1, compute_type="int8", workers=2
    )


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Seven seconds of Maya."""
    return cut(decoded("maya"), MAYA_SECONDS)


def window(samples: Samples, *, is_final: bool = False, language: str = "en") -> DecodeWindow:
    """A pass over all of the samples."""
    return DecodeWindow(
        samples=samples,
        start_sample=0,
        end_sample=samples.size,
        voiced_seconds=0.8 * samples.size / SAMPLE_RATE_HZ,
        is_final=is_final,
        language=language,
        needs_language=not language,
    )


class ScriptedEngine:
    """Says what it is told to, however it is asked; keeps how it was asked."""

    name = "scripted"
    is_multilingual = True
    languages = frozenset({"en", "de"})
    detects_from_encoding = True
    usual_beam_size = 1
    batch_windows = 4

    def __init__(self, *texts: str, log_probability: float = -0.1) -> None:
        self._texts = list(texts)
        self._log_probability = log_probability
        self.paddings: list[float] = []
        self.asked: list[DecodeOptions] = []

    def padded_seconds(self, window_seconds: float) -> float:
        return window_seconds

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        self.paddings.append(padded_seconds)
        return Encoded(payload=None, seconds=window.size / SAMPLE_RATE_HZ)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        return [{"de": 0.9, "en": 0.1} for _ in encoded]

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        self.asked.append(options)
        return [self._said(self._texts.pop(0)) for _ in encoded]

    def _said(self, text: str) -> Recognised:
        return Recognised(
            text=text,
            words=(),
            token_count=len(text.split()) + 1,
            average_log_probability=self._log_probability,
            no_speech_probability=0.1,
        )


class TestRealEngine:
    """With weights and speech."""

    def test_hears_what_is_said(self, engine: CTranslate2Engine, speech: Samples) -> None:
        """A final pass gives the sentence, word by word."""
        (result,) = recognise(engine, [window(speech, is_final=True)])

        assert result.recognised is not None
        assert result.recognised.text == MAYA_TEXT

    def test_two_windows_in_one_call_are_heard_as_alone(
        self, engine: CTranslate2Engine, speech: Samples
    ) -> None:
        """Sharing a call changes no words and mixes nothing up."""
        passes = [window(speech[:48_000]), window(speech[48_000:])]

        together = [result.recognised for result in recognise(engine, passes)]
        alone = [recognise(engine, [one])[0].recognised for one in passes]

        assert [heard.text for heard in together if heard] == [
            heard.text for heard in alone if heard
        ]
        assert None not in together

    def test_threads_do_not_disturb_each_other(
        self, engine: CTranslate2Engine, speech: Samples
    ) -> None:
        """Two threads on one model get what one thread gets."""
        passes = [window(speech[: 16_000 * seconds]) for seconds in (2, 3, 4, 5, 6)]
        expected = [recognise(engine, [one])[0].recognised for one in passes]

        with ThreadPoolExecutor(2) as threads:
            results = list(
                threads.map(lambda one: recognise(engine, [one])[0].recognised, passes * 4)
            )

        assert results == expected * 4


class TestBelief:
    """What looks wrong is not shown."""

    def test_a_loop_is_tried_again_at_once(self) -> None:
        """The second result is taken when it is sound; the window is not encoded anew for it."""
        loop = "and so my fellow Americans " * 3
        engine = ScriptedEngine(loop, "and so my fellow Americans")

        (result,) = recognise(engine, [window(ONCE)])

        assert result.recognised is not None
        assert result.recognised.text == "and so my fellow Americans"
        assert len(engine.paddings) == 1
        assert [options.repetition_penalty > 1 for options in engine.asked] == [False, True]

    @pytest.mark.parametrize("kind", ["is_final", "was_rejected"])
    def test_what_matters_more_is_tried_again_with_the_safest_padding(self, kind: str) -> None:
        """Final words, and interim ones after a pass that was not believed, are worth the time."""
        loop = "and so my fellow Americans " * 3
        engine = ScriptedEngine(loop, "and so my fellow Americans")
        changes: dict[str, Any] = {kind: True}

        (result,) = recognise(engine, [replace(window(ONCE), **changes)])

        assert result.recognised is not None
        assert result.recognised.text == "and so my fellow Americans"
        assert engine.paddings[-1] == TRAINED_SECONDS

    def test_a_real_loop_is_left(self, engine: CTranslate2Engine, speech: Samples) -> None:
        """With the penalty a real decoder does not say the same again and again."""
        samples = np.tile(speech[:25_600], 3)
        encoded = engine.encode(samples, padded_seconds=10.24)
        plain = DecodeOptions(language="en", is_word_timed=False, max_tokens=80)

        said, again = (
            engine.recognise([encoded], replace(plain, repetition_penalty=penalty))[0].text
            for penalty in (1.0, 1.5)
        )

        assert len(again.split()) < len(said.split())

    def test_a_loop_that_stays_is_not_believed(self) -> None:
        """After one retry there is no result; there is no ladder of further ones."""
        loop = "and so my fellow Americans " * 3
        engine = ScriptedEngine(loop, loop)

        (result,) = recognise(engine, [window(ONCE)])

        assert result.recognised is None
        assert len(engine.asked) == 2

    @pytest.mark.parametrize("is_final", [False, True])
    def test_what_is_said_again_is_shown_again(self, *, is_final: bool) -> None:
        """Words for which there is sound stay, however often they are repeated."""
        said = " ".join(["five"] * 7)
        engine = ScriptedEngine(said, said, said)
        sound = syllables(7, seconds=3.5, of_seconds=4.0)

        (result,) = recognise(engine, [window(sound, is_final=is_final)])

        assert result.recognised is not None
        assert result.recognised.text == said

    def test_final_words_are_in_a_loop_as_often_as_they_have_sound(self) -> None:
        """Where both attempts loop, the phrase stays, and what nobody said goes."""
        loop = "and so my fellow Americans " * 3

        (result,) = recognise(ScriptedEngine(loop, loop), [window(ONCE, is_final=True)])

        assert result.recognised is not None
        assert result.recognised.text == "and so my fellow Americans"

    def test_final_words_that_look_wrong_in_a_crowd_are_none(self) -> None:
        """Of many voices at once nothing is believed that looks wrong twice."""
        loop = "and so my fellow Americans " * 3

        (result,) = recognise(
            ScriptedEngine(*[loop] * 3), [window(murmur(9, seconds=7), is_final=True)]
        )

        assert result.recognised is not None
        assert result.recognised.text == ""

    def test_repeated_final_words_are_told_with_their_times(self) -> None:
        """Final words have none, and these tell what was not said again: they are asked for."""
        said = " ".join(["five"] * 7)
        engine = ScriptedEngine(said, said, said)

        recognise(engine, [window(syllables(7, seconds=3.5, of_seconds=4.0), is_final=True)])

        assert [options.is_word_timed for options in engine.asked] == [False, True, True]
        assert engine.paddings == [10.24, TRAINED_SECONDS]

    def test_words_in_noise_become_no_words(self, speech: Samples) -> None:
        """Final words that the model itself does not believe are none."""
        engine = ScriptedEngine("Thank you all", "Thank you all", log_probability=-3.0)

        (result,) = recognise(engine, [window(speech[:16_000], is_final=True)])

        assert result.recognised is not None
        assert result.recognised.text == ""

    def test_words_that_a_second_pass_does_not_hear_are_none(self) -> None:
        """Final words without sound, of which the retry hears nothing, are no failure: no words."""
        silent = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
        engine = ScriptedEngine("and so my fellow Americans", "")

        (result,) = recognise(engine, [window(silent, is_final=True)])

        assert len(engine.asked) == 2
        assert result.recognised is not None
        assert result.recognised.text == ""

    def test_decoding_is_bounded_by_the_window(self, speech: Samples) -> None:
        """A second of sound has few tokens: a loop ends there."""
        engine = ScriptedEngine("Yes.")

        recognise(engine, [window(speech[:16_000])])

        assert 0 < engine.asked[0].max_tokens <= 16


class TestLanguage:
    """Each window is recognised in its speaker's language."""

    def test_unknown_language_is_detected(self, speech: Samples) -> None:
        """The window's own leader is used, and told to the track."""
        engine = ScriptedEngine("Ja, das ist alles gut so.")

        (result,) = recognise(engine, [window(speech, language="")])

        assert result.language == "de"
        assert result.languages["de"] == 0.9
        assert engine.asked[0].language == "de"

    def test_windows_of_two_languages_keep_their_own(self, speech: Samples) -> None:
        """Due at the same moment, each is asked for in its language, and answers stay in order."""
        engine = ScriptedEngine("Good morning all.", "Guten Morgen alle.")

        results = recognise(engine, [window(speech, language="en"), window(speech, language="de")])

        assert [options.language for options in engine.asked] == ["en", "de"]
        assert [result.recognised.text for result in results if result.recognised] == [
            "Good morning all.",
            "Guten Morgen alle.",
        ]
