# SPDX-License-Identifier: Apache-2.0
"""What an engine might have heard."""

from callsd_worker.speech.engine import Recognised, TimedWord


def spoken(text: str, *, log_probability: float = -0.2, seconds: float = 9.0) -> Recognised:
    """A result of equally long words."""
    words = text.split()
    step = seconds / max(len(words), 1)
    return Recognised(
        text=text,
        words=tuple(
            TimedWord(
                text=f" {word}", start_seconds=at * step, end_seconds=(at + 1) * step, probability=1
            )
            for at, word in enumerate(words)
        ),
        token_count=len(words),
        average_log_probability=log_probability,
        no_speech_probability=0.0,
    )
