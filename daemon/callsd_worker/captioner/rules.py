# SPDX-License-Identifier: Apache-2.0
"""When a track is listened to, and where its speech is cut."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Times of the captioner's policy, in seconds."""

    min_cadence_seconds: float = 0.15
    max_cadence_seconds: float = 0.72
    """Age at which voice that no pass has heard makes the next pass due …"""
    pass_share: float = 0.16
    """… within these limits so that the passes of a speaker take this part of the time: quick ones
    come often, and on a busy server, where they take longer, they come less often."""
    spare_share: float = 0.0
    """What the passes of all who talk may take together, if that is more: while few do, they come
    more often."""
    soft_end_seconds: float = 0.25
    """How much of the newest sound an interim pass may leave for the next one at most, in order to
    end between words; when passes come often, a third of what comes between them."""
    draft_silence_seconds: float = 0.2
    """A pause this long makes a pass of final quality due: most likely it is the last one."""
    pause_patience_seconds: float = 0.1
    """How long a pass that is due at the beginning of a pause waits to see whether it is one."""
    end_silence_seconds: float = 0.4
    """A pause this long ends an utterance. Shorter ones are taken inside sentences."""
    cut_after_seconds: float = 6.0
    """From this length on a segment is cut between two words that are certain."""
    cut_pause_seconds: float = 0.12
    """How long a pause must be for such a cut; shorter ones are within words."""
    max_segment_seconds: float = 9.0
    """A segment that grows to this is cut at its softest moment; a bit below what the encoder's
    usual padding (10.24 s) holds."""
    begin_probability: float = 0.35
    end_probability: float = 0.15
    """Of voice, for the beginning and the end of speech."""
    padding_seconds: float = 0.35
    """Sound kept on either side: soft first and last consonants are below any threshold."""
    min_voiced_seconds: float = 0.09
    """Less than three frames of voice is a click."""
    floor_dbfs: float = -66.0
    """Frames below this level are silence without asking the network."""
    hangover_seconds: float = 1.0
    """After the last loud frame the network listens on for so long."""
    position_step_seconds: float = 1.0
    """Silence is told in steps of this: positions alone are no news."""


def rules_for(model: str) -> Rules:
    """The rules for a model.

    A tiny one is taken for its quickness: the machine has time to spare with it, and words that are
    there sooner are worth more than words that stay.
    """
    return Rules(spare_share=0.4) if model.partition(".")[0] == "tiny" else Rules()
