# SPDX-License-Identifier: Apache-2.0
"""In which language each stretch of a track is, as speakers change between languages."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from callsd_worker.speech.engine import Encoded, Engine
from callsd_worker.speech.windows import Window
from callsd_worker.transcriber.languages import CERTAIN_SECONDS


_CHANGE_PROBABILITY = 0.3
_CHANGE_RATIO = 10.0
"""Another language is taken only if it is far more probable than the one spoken so far: of what is
hard to hear the network makes any language."""

_PURE_PROBABILITY = 0.9
"""In a window whose language is less certain there may be two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Speech in one language, ready to be recognised."""

    window: Window
    encoded: Encoded
    language: str


def stretches(
    engine: Engine, window: Window, encoded: Encoded, *, language: str, padded_seconds: float
) -> list[Stretch]:
    """The window if one language is spoken in it, else its parts.

    `language` is that of the speaker, `padded_seconds` what the window is encoded with.
    """

    def encode(part: Window) -> Encoded:
        return engine.encode(part.samples, padded_seconds=padded_seconds)

    odds = engine.detect_language([encoded])[0]
    if len(window.pieces) == 1 or odds.get(language, 0.0) >= _PURE_PROBABILITY:
        spoken = _language(odds, window.seconds, language)
        return [Stretch(window=window, encoded=encoded, language=spoken)]
    languages = []
    for piece in window.unpacked():
        odds = engine.detect_language([encode(piece)])[0]
        language = _language(odds, piece.seconds, language)
        languages.append(language)
    changes = [at for at in range(1, len(languages)) if languages[at] != languages[at - 1]]
    if not changes:
        return [Stretch(window=window, encoded=encoded, language=language)]
    parts = [
        (window.part(first, after), languages[first])
        for first, after in pairwise([0, *changes, len(languages)])
    ]
    return [Stretch(window=part, encoded=encode(part), language=spoken) for part, spoken in parts]


def _language(odds: Mapping[str, float], seconds: float, before: str) -> str:
    """The language after `before` in so many seconds of speech."""
    leader = max(odds, key=odds.__getitem__)
    is_other = odds[leader] >= max(_CHANGE_PROBABILITY, _CHANGE_RATIO * odds.get(before, 0.0))
    return leader if is_other and seconds >= CERTAIN_SECONDS else before
