# SPDX-License-Identifier: Apache-2.0
"""In which language each stretch of a track is, as speakers change between languages."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from callsd_worker.speech.engine import Encoded, Engine
from callsd_worker.speech.voice.windows import Window
from callsd_worker.transcriber.languages import CERTAIN_SECONDS, Odds


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
    engine: Engine,
    window: Window,
    encoded: Encoded,
    odds: Odds | None,
    *,
    language: str,
    padded_seconds: float,
    check: Callable[[], None],
) -> list[Stretch]:
    """The window if one language is spoken in it, else its parts.

    `odds` are those of the window if they are known, `language` is that of the speaker,
    `padded_seconds` what the window is encoded with. `check` is called before each encoding, and
    may raise.
    """
    if window.seconds < CERTAIN_SECONDS:
        return [Stretch(window=window, encoded=encoded, language=language)]
    odds = odds or engine.detect_language([encoded])[0]
    if len(window.pieces) == 1 or odds.get(language, 0.0) >= _PURE_PROBABILITY:
        return [Stretch(window=window, encoded=encoded, language=_language(odds, language))]
    languages = []
    for piece in window.unpacked():
        if piece.seconds >= CERTAIN_SECONDS:
            check()
            alone = engine.encode(
                piece.samples, padded_seconds=engine.padded_seconds(piece.seconds)
            )
            language = _language(engine.detect_language([alone])[0], language)
        languages.append(language)
    changes = [at for at in range(1, len(languages)) if languages[at] != languages[at - 1]]
    if not changes:
        return [Stretch(window=window, encoded=encoded, language=language)]
    found = []
    for first, after in pairwise([0, *changes, len(languages)]):
        part = window.part(first, after)
        check()
        # With the padding of the window, as it is recognised beside whole ones.
        again = engine.encode(part.samples, padded_seconds=padded_seconds)
        found.append(Stretch(window=part, encoded=again, language=languages[first]))
    return found


def _language(odds: Odds, before: str) -> str:
    """The language of enough speech, after `before`."""
    leader = max(odds, key=odds.__getitem__)
    is_other = odds[leader] >= max(_CHANGE_PROBABILITY, _CHANGE_RATIO * odds.get(before, 0.0))
    return leader if is_other else before
