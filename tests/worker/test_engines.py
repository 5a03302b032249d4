# SPDX-License-Identifier: Apache-2.0

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jiwer
import numpy as np
import psutil
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Engine, Recognised
from callsd_worker.speech.engines.ct2 import CTranslate2Engine
from callsd_worker.speech.engines.mel import MelFilter
from callsd_worker.speech.engines.moonshine import MoonshineEngine
from callsd_worker.speech.engines.tokens import Tokens, group_words
from callsd_worker.speech.engines.whispercpp import WhisperCppEngine
from callsd_worker.speech.errors import SpeechError, SpeechReason


SAID = (
    "I will write to them today and explain what happened. Nina, please put that down as an "
    "action for me."
)
ENGLISH = DecodeOptions(language="en")


def ctranslate2(directory: Path) -> Engine:
    """Load for CTranslate2."""
    return CTranslate2Engine(directory / "ctranslate2", threads=1, compute_type="int8")


def whispercpp(directory: Path) -> Engine:
    """Load for whisper.cpp."""
    return WhisperCppEngine(directory / "ggml" / "q8_0.bin", threads=1)


def moonshine(directory: Path) -> Engine:
    """Load for onnxruntime."""
    return MoonshineEngine(directory / "onnx", threads=1)


@pytest.fixture(
    scope="module",
    params=[(ctranslate2, "tiny.en"), (whispercpp, "tiny.en"), (moonshine, "moonshine-base")],
    ids=["ctranslate2", "whispercpp", "moonshine"],
)
def engine(request: pytest.FixtureRequest, model_dir: Callable[[str], Path]) -> Engine:
    """Each engine with a model."""
    load, name = request.param
    loaded: Engine = load(model_dir(name))
    return loaded


def hear(engine: Engine, window: Samples, options: DecodeOptions = ENGLISH) -> Recognised:
    """One window, padded as the engine likes it."""
    padded_seconds = engine.padded_seconds(window.size / SAMPLE_RATE_HZ)
    (heard,) = engine.recognise([engine.encode(window, padded_seconds=padded_seconds)], options)
    return heard


def plain(text: str) -> str:
    """Lower-case words only."""
    return re.sub(r"[^a-z0-9' ]", "", text.lower())


class TestRecognition:
    """What all engines promise."""

    def test_words_are_right(self, engine: Engine, speech: Samples) -> None:
        """Six seconds of clear speech come back with at most two words wrong."""
        heard = hear(engine, speech)

        assert jiwer.wer(plain(SAID), plain(heard.text)) < 0.11
        assert heard.average_log_probability > -0.7
        assert heard.token_count >= len(SAID.split())

    def test_words_have_times(self, engine: Engine, speech: Samples) -> None:
        """Times go forward within the window, and a known word is where it is said."""
        heard = hear(engine, speech)

        assert "".join(word.text for word in heard.words).strip() == heard.text
        moments = [t for word in heard.words for t in (word.start_seconds, word.end_seconds)]
        assert moments == sorted(moments)
        assert moments[0] >= 0
        assert moments[-1] <= speech.size / SAMPLE_RATE_HZ
        # "happened" ends the first sentence, before the pause in the middle of the window.
        (happened,) = (word for word in heard.words if "happened" in word.text)
        assert 2.0 < happened.start_seconds < 3.5

    def test_windows_do_not_hear_each_other(self, engine: Engine, speech: Samples) -> None:
        """A window gives the same text alone, and among others in any order."""
        windows = [speech[: 3 * SAMPLE_RATE_HZ], speech, speech[4 * SAMPLE_RATE_HZ :]]
        padded_seconds = engine.padded_seconds(speech.size / SAMPLE_RATE_HZ)

        def texts(chosen: list[Samples]) -> list[str]:
            encoded = [engine.encode(item, padded_seconds=padded_seconds) for item in chosen]
            return [heard.text for heard in engine.recognise(encoded, ENGLISH)]

        alone = [texts([window])[0] for window in windows]

        assert texts(windows) == alone
        assert texts(windows[::-1]) == alone[::-1]

    def test_settings_do_not_stick(self, engine: Engine, speech: Samples) -> None:
        """A call with a prompt, sampling or a beam leaves nothing behind for the next one."""
        before = hear(engine, speech)
        for options in (
            DecodeOptions(language="en", hints="Gossip about Cincinnati."),
            DecodeOptions(language="en", temperature=0.8),
            DecodeOptions(language="en", beam_size=3, is_word_timed=False),
        ):
            hear(engine, speech, options)

        assert hear(engine, speech).text == before.text

    def test_english_only(self, engine: Engine) -> None:
        """A model that knows English only says so."""
        assert not engine.is_multilingual
        assert engine.languages == frozenset({"en"})


@pytest.mark.parametrize("load", [ctranslate2, whispercpp], ids=["ctranslate2", "whispercpp"])
class TestMemory:
    """An engine's life."""

    def test_an_engine_that_is_dropped_gives_back_its_memory(
        self, load: Callable[[Path], Engine], model_dir: Callable[[str], Path]
    ) -> None:
        """Loading a model again and again takes no more memory than once."""
        process = psutil.Process()
        load(model_dir("tiny.en"))
        before = process.memory_info().rss
        for _ in range(4):
            load(model_dir("tiny.en"))

        # One copy that stays would be 40 MB and more.
        assert process.memory_info().rss - before < 2 * 40e6


@pytest.mark.parametrize("load", [ctranslate2, whispercpp], ids=["ctranslate2", "whispercpp"])
class TestLanguages:
    """Detection by multilingual models."""

    def test_spoken_language_is_detected(
        self,
        load: Callable[[Path], Engine],
        model_dir: Callable[[str], Path],
        speech: Samples,
    ) -> None:
        """A multilingual model hears that English is spoken, whatever it heard before."""
        engine = load(model_dir("base"))
        encoded = engine.encode(speech, padded_seconds=engine.padded_seconds(10.2))
        engine.recognise([encoded], DecodeOptions(language="de"))

        (probabilities,) = engine.detect_language([encoded])

        assert max(probabilities, key=probabilities.__getitem__) == "en"
        assert probabilities["en"] > 0.8
        assert {"en", "de", "ja"} <= engine.languages


class TestBrokenModels:
    """Files that are not the model they should be."""

    def refusal(self, load: Callable[[Path], Engine], directory: Path) -> SpeechError:
        with pytest.raises(SpeechError) as caught:
            load(directory)
        return caught.value

    @pytest.mark.parametrize("load", [ctranslate2, whispercpp], ids=["ctranslate2", "whispercpp"])
    def test_missing(self, load: Callable[[Path], Engine], tmp_path: Path) -> None:
        """No files: the path is named."""
        error = self.refusal(load, tmp_path)

        assert error.reason == SpeechReason.MODEL_MISSING
        assert str(tmp_path) in error.message

    @pytest.mark.parametrize("share", [0.0, 0.00001, 0.02, 0.5, 0.999], ids=str)
    @pytest.mark.parametrize("name", ["ctranslate2/model.bin", "ggml/q8_0.bin"])
    def test_cut_short(
        self, model_dir: Callable[[str], Path], tmp_path: Path, name: str, share: float
    ) -> None:
        """A file that ends anywhere before its end is refused; it never loads as an empty model."""
        source = model_dir("tiny.en") / name
        shutil.copytree(
            model_dir("tiny.en") / "ctranslate2",
            tmp_path / "ctranslate2",
            copy_function=lambda a, b: Path(b).symlink_to(a),
        )
        (tmp_path / "ggml").mkdir()
        (tmp_path / name).unlink(missing_ok=True)
        with source.open("rb") as file:
            (tmp_path / name).write_bytes(file.read(int(source.stat().st_size * share)))

        error = self.refusal(ctranslate2 if "ctranslate2" in name else whispercpp, tmp_path)

        assert error.reason == SpeechReason.MODEL_INVALID

    @pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
    def test_foreign(self, model_dir: Callable[[str], Path], tmp_path: Path, name: str) -> None:
        """Any of the files replaced by something else is refused."""
        shutil.copytree(
            model_dir("tiny.en") / "ctranslate2",
            tmp_path / "ctranslate2",
            copy_function=lambda a, b: Path(b).symlink_to(a),
        )
        (tmp_path / "ctranslate2" / name).unlink()
        (tmp_path / "ctranslate2" / name).write_bytes(b"something else " * 1000)

        assert self.refusal(ctranslate2, tmp_path).reason == SpeechReason.MODEL_INVALID

    def test_unsupported_type(self, model_dir: Callable[[str], Path]) -> None:
        """A compute type that the processor lacks is refused with those it has."""
        with pytest.raises(SpeechError) as caught:
            CTranslate2Engine(model_dir("tiny.en") / "ctranslate2", threads=1, compute_type="int4")

        assert caught.value.reason == SpeechReason.ENGINE_UNAVAILABLE
        assert "int8" in caught.value.message


def test_words_that_cannot_be_aligned_are_not_lost(
    model_dir: Callable[[str], Path], speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attention gives no times, words are spread over the window, in order."""
    engine = CTranslate2Engine(model_dir("tiny.en") / "ctranslate2", threads=1, compute_type="int8")
    seconds = speech.size / SAMPLE_RATE_HZ
    unaligned = SimpleNamespace(alignments=[], text_token_probs=[])
    monkeypatch.setattr(
        engine,
        "_model",
        SimpleNamespace(
            encode=engine._model.encode,
            generate=engine._model.generate,
            align=lambda *_: [unaligned],
        ),
    )

    heard = hear(engine, speech)

    assert heard.text
    assert "".join(word.text for word in heard.words).strip() == heard.text
    starts = [word.start_seconds for word in heard.words]
    assert starts == sorted(set(starts))
    assert heard.words[-1].end_seconds == pytest.approx(seconds)


def test_features_are_those_of_training(speech: Samples) -> None:
    """Features agree with the reference extractor, for lengths that are no multiple of anything."""
    window = speech[:50_000]
    frames = 313

    features = MelFilter(80)(window, frames=frames)

    padded = np.zeros(frames * 160, dtype=np.float32)
    padded[: window.size] = window
    expected = FeatureExtractor()(padded, padding=0)
    assert features.shape == (80, frames)
    np.testing.assert_allclose(features, expected[:, :frames], atol=2e-3)


class TestWords:
    """From tokens to words."""

    def test_punctuation_stays_with_its_word(self, model_dir: Callable[[str], Path]) -> None:
        """Words keep what follows them, and opening marks stay with what they open."""
        tokens = Tokens(model_dir("tiny.en") / "ctranslate2" / "tokenizer.json")
        text = ' So, he\'s "fine" (I think) ... at $5.30!'

        words = tokens.words(tokens.encode(text), language="en")

        assert [word.strip() for word, _, _ in words] == [
            "So,",
            "he's",
            '"fine"',
            "(I",
            "think) ...",
            "at",
            "$5.30!",
        ]
        assert "".join(word for word, _, _ in words) == text
        assert [after for _, _, after in words][:-1] == [first for _, first, _ in words][1:]

    def test_scripts_without_spaces(self) -> None:
        """Characters split over tokens are put together; every whole one starts a word."""
        data = "はい、そう".encode()
        pieces = [data[:2], data[2:7], data[7:9], data[9:]]

        words = group_words(pieces, language="ja")

        assert words == [("はい、", 0, 3), ("そう", 3, 4)]

    @pytest.mark.parametrize(
        ("pieces", "expected"),
        [
            ([b" ab", b" \xff", b" cd", b" ef"], [" ab", " \ufffd", " cd", " ef"]),
            ([b" ab", b" \xe4", b" cd", b" ef"], [" ab", " \ufffd", " cd", " ef"]),
            ([b" \xe4\xbd", b"\xa0", b" \xc3\x28", b" cd"], [" \u4f60", " \ufffd(", " cd"]),
            ([b" ab", b" \xf0\x9f"], [" ab", " \ufffd"]),
        ],
    )
    def test_bytes_that_are_no_text_cost_one_character(
        self, pieces: list[bytes], expected: list[str]
    ) -> None:
        """What a model writes behind them is there, word by word."""
        words = group_words(pieces, language="en")

        assert [word for word, _, _ in words] == expected
        assert [after for _, _, after in words][:-1] == [first for _, first, _ in words][1:]
        assert words[-1][2] == len(pieces)


class TestHints:
    """Prompts and words to expect."""

    SPECIAL = "<|endoftext|> <|startoftranscript|> <|de|> <|0.00|> <|nospeech|> [_EOT_] [_BEG_]"

    @pytest.mark.parametrize("model", ["tiny.en", "base"])
    def test_names_of_special_tokens_are_text(
        self, model: str, model_dir: Callable[[str], Path]
    ) -> None:
        """They are spelled, and mean nothing to the model."""
        tokens = Tokens(model_dir(model) / "ctranslate2" / "tokenizer.json")

        ids = tokens.encode(self.SPECIAL)

        assert max(ids) < tokens.end
        assert tokens.text(ids) == self.SPECIAL

    def test_they_do_not_end_what_is_heard(self, engine: Engine, speech: Samples) -> None:
        """Speech is recognised behind such a prompt, with either engine."""
        heard = hear(engine, speech, DecodeOptions(language="en", hints=self.SPECIAL))

        assert len(heard.words) > 10
