# SPDX-License-Identifier: Apache-2.0
"""Whisper's tokens: prompts, text, and which tokens make up a word."""

import codecs
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from callsd_worker.speech.evidence.sentences import UNSPACED_LANGUAGES


_LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")

_CONTINUATION = range(0x80, 0xC0)
"""Bytes that do not begin a character."""

_SPECIAL = re.compile(r"(?<=<)(?=\|)")

# Punctuation that belongs to the word after it; all other belongs to the word before.
_OPENING = "\"'“‘¿¡([{-「『（"


class Tokens:
    """One model's vocabulary."""

    def __init__(self, path: Path) -> None:
        """`path` is the model's tokenizer.json. Raises ValueError if it is not one."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a bad file
            raise ValueError(f"{path.name}: {error}") from None
        self.start = self._id("<|startoftranscript|>")
        self.end = self._id("<|endoftext|>")
        self.previous = self._id("<|startofprev|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self._bytes_of = byte_alphabet()
        self.languages = frozenset(
            match[1]
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if (match := _LANGUAGE_TOKEN.fullmatch(token.content))
        )

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no {token}: not one of a Whisper model")
        return int(number)

    def prompt(self, *, language: str, task: str, hints: str, is_multilingual: bool) -> list[int]:
        """Start sequence: hints as previous text, then language and task for multilingual models.

        Raises ValueError if the model has no such language.
        """
        sequence = []
        if hints:
            # In training previous text had up to half of the text context.
            sequence = [self.previous, *self.encode(" " + hints.strip())[-223:]]
        sequence.append(self.start)
        if is_multilingual:
            sequence += [self._id(f"<|{language}|>"), self._id(f"<|{task}|>")]
        sequence.append(self.no_timestamps)
        return sequence

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, in which the name of a special token is text like any other."""
        # All special tokens begin with "<|", and none is found where that is cut.
        parts = _SPECIAL.split(text)
        return [
            token
            for part in parts
            for token in self._tokenizer.encode(part, add_special_tokens=False).ids
        ]

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode([token for token in tokens if token < self.end]))

    def words(self, tokens: Sequence[int], *, language: str) -> list[tuple[str, int, int]]:
        """See `group_words`."""
        pieces = [
            bytes(self._bytes_of.get(letter, ord("?")) for letter in piece)
            for piece in (self._tokenizer.id_to_token(token) or "" for token in tokens)
        ]
        return group_words(pieces, language=language)


def group_words(pieces: Sequence[bytes], *, language: str) -> list[tuple[str, int, int]]:
    """Words from the bytes of each token: (text with leading space, first token, token after)."""
    words: list[tuple[str, int, int]] = []
    is_open = False
    for unit, first, after in _characters(pieces):
        bare = unit.strip()
        is_mark = bool(bare) and all(unicodedata.category(letter)[0] == "P" for letter in bare)
        is_opening = is_mark and bare in _OPENING and unit.startswith(" ")
        is_new = unit.startswith(" ") or language in UNSPACED_LANGUAGES
        if not words or (is_new and not is_open and (is_opening or not is_mark)):
            words.append((unit, first, after))
        else:
            text, begin, _ = words[-1]
            words[-1] = (text + unit, begin, after)
        is_open = is_opening
    return words


def _characters(pieces: Sequence[bytes]) -> list[tuple[str, int, int]]:
    """Shortest sequences of tokens that are complete characters.

    A model may write bytes that are none: each costs one character, not what comes after it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    units = []
    text = ""
    first = 0
    for index, piece in enumerate(pieces):
        if first < index and piece and piece[0] not in _CONTINUATION:
            units.append((text + decoder.decode(b"", final=True), first, index))
            text, first = "", index
        text += decoder.decode(piece)
        has_more, _ = decoder.getstate()
        if not has_more:
            units.append((text, first, index + 1))
            text, first = "", index + 1
    if first < len(pieces):
        units.append((text + decoder.decode(b"", final=True), first, len(pieces)))
    return units


def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level vocabularies use for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    alphabet.update({chr(0x100 + offset): byte for offset, byte in enumerate(others)})
    return alphabet
