# SPDX-License-Identifier: Apache-2.0
"""When a track is recognised, and where its speech is cut."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The captioner's policy; times are in seconds."""

    min_cadence_seconds: float = 0.15
    max_cadence_seconds: float = 0.72
    """Age at which voice that is in no pass makes the next pass due …"""
    pass_share: float = 0.16
    """… chosen between these limits so that the passes of a speaker take this share of the time:
    the longer passes take, as on a busy server, the less often they are made."""
    spare_share: float = 0.0
    """Share of the time that the passes of all talking speakers may take together, if that is more:
    while few talk, passes come more often."""
    soft_end_seconds: float = 0.25
    """How much of the newest audio an interim pass may leave to the next one, in order to end
    between words; at most a third of the cadence."""
    doubtful_probability: float = 0.8
    """A last word of an interim pass that is less probable than this waits for the next one, which
    takes back every second of them; of more probable ones it takes back one of twelve."""
    draft_silence_seconds: float = 0.2
    """A pause this long makes a pass of final quality due: it is probably the last one."""
    pause_patience_seconds: float = 0.1
    """How long a pass that becomes due at the beginning of a pause waits for the pause to last."""
    end_silence_seconds: float = 0.4
    """A pause this long ends an utterance. Shorter ones occur inside sentences."""
    cut_after_seconds: float = 6.0
    """A segment longer than this is cut between two stable words."""
    cut_pause_seconds: float = 0.12
    """How long a pause must be for such a cut; shorter ones are within words."""
    max_segment_seconds: float = 9.0
    """A segment of this length is cut at its softest moment; a bit less than the encoder's usual
    padding (10.24 s)."""
    begin_probability: float = 0.3
    end_probability: float = 0.15
    """Probability of voice at which speech begins, and below which it ends."""
    padding_seconds: float = 0.35
    """Audio kept on either side: soft first and last consonants are below any threshold."""
    min_voiced_seconds: float = 0.09
    """Less than three frames of voice is a click."""
    floor_dbfs: float = -66.0
    """Frames below this level are silence without asking the network."""
    hangover_seconds: float = 1.0
    """For so long after the last loud frame the network is still asked."""
    position_step_seconds: float = 1.0
    """During silence positions are reported in steps of this."""


def rules_for(model: str) -> Rules:
    """The rules for a model.

    A tiny model is chosen for speed: the machine has time to spare, and early words are worth more
    than stable ones.
    """
    if model.partition(".")[0] == "tiny":
        return Rules(spare_share=0.4, doubtful_probability=0.6)
    return Rules()
