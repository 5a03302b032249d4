# SPDX-License-Identifier: Apache-2.0
"""Who is in the call, whose track is which, and where a packet belongs."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from callsd_worker.capture.call import Listener, Packet, SenderReport, Speaker
from callsd_worker.mattermost.events import MAX_SESSIONS, Session
from callsd_worker.mattermost.rest import Profile
from callsd_worker.mattermost.rtp import RtcpSenderReport, RtpPacket
from callsd_worker.mattermost.sdp import Voice
from callsd_worker.mattermost.settings import Clock


log = logging.getLogger(__name__)

MAX_TRACKS = 256
"""At once."""


@dataclass(slots=True)
class _Person:
    user_id: str
    is_unmuted: bool


class Roster:
    """Keeps sessions and tracks, and tells the listener of them."""

    def __init__(
        self, listener: Listener, clock: Clock, on_new_speaker: Callable[[str, str], None]
    ) -> None:
        self._listener = listener
        self._clock = clock
        self._on_new_speaker = on_new_speaker
        self._people: dict[str, _Person] = {}
        self._tracks: dict[str, Speaker] = {}
        """Those that have not ended."""
        self._ended: dict[str, Speaker] = {}
        """Those of the newest offer that have: they do not begin again, but may get a name."""
        self._by_ssrc: dict[int, tuple[str, int]] = {}
        self._profiles: dict[str, Profile] = {}
        self._changed_seconds = time.monotonic()

    def is_present(self, session_id: str) -> bool:
        """Whether a session is in the call."""
        return session_id in self._people

    @property
    def should_hear(self) -> bool:
        """Whether the server should send something: sound, or reports of its clock."""
        return bool(self._tracks) or any(person.is_unmuted for person in self._people.values())

    @property
    def changed_seconds(self) -> float:
        """When somebody last came, left, or was muted or unmuted (monotonic)."""
        return self._changed_seconds

    # Who is there

    def replace(self, sessions: Iterable[Session]) -> None:
        """Take the server's list of everybody."""
        present = {session.session_id: session for session in sessions}
        for session_id in [known for known in self._people if known not in present]:
            self.leave(session_id)
        for session in present.values():
            self.join(session.session_id, session.user_id)
            self.mute(session.session_id, is_muted=not session.unmuted)
        for speaker in list(self._tracks.values()):
            if speaker.session_id not in present:
                self._end_tracks(speaker.session_id)

    def join(self, session_id: str, user_id: str) -> None:
        """Somebody is there."""
        if session_id in self._people or not session_id or len(self._people) >= MAX_SESSIONS:
            return
        self._people[session_id] = _Person(user_id, is_unmuted=False)
        self._changed_seconds = time.monotonic()

    def leave(self, session_id: str) -> None:
        """Somebody has left. Their tracks end without a word from the media server."""
        self._people.pop(session_id, None)
        self._profiles.pop(session_id, None)
        self._changed_seconds = time.monotonic()
        self._end_tracks(session_id)

    def mute(self, session_id: str, *, is_muted: bool) -> None:
        """Somebody is muted, or no longer."""
        person = self._people.get(session_id)
        if person is None or person.is_unmuted != is_muted:
            return
        person.is_unmuted = not is_muted
        self._changed_seconds = time.monotonic()
        if is_muted:
            self._listener.muted(session_id)

    # What they say

    def offer(self, voices: Sequence[Voice]) -> None:
        """Take all voices of the server's newest offer."""
        offered = {voice.track_id for voice in voices}
        for track_id in [known for known in self._tracks if known not in offered]:
            self._end(track_id)
        self._ended = {key: value for key, value in self._ended.items() if key in offered}
        self._by_ssrc = {}
        for voice in voices:
            if voice.track_id in self._ended:
                continue
            if voice.track_id not in self._tracks and not self._begin(voice):
                continue
            for ssrc in voice.ssrcs:
                self._by_ssrc[ssrc] = (voice.track_id, voice.payload_type)

    def packet(self, packet: RtpPacket) -> None:
        """Hand over a packet of a track; those of no track are dropped."""
        track_id, payload_type = self._by_ssrc.get(packet.ssrc, ("", -1))
        if packet.payload_type == payload_type and track_id in self._tracks:
            self._listener.packet(
                track_id,
                Packet(
                    sequence=packet.sequence,
                    timestamp=packet.timestamp,
                    payload=packet.payload,
                    arrival_seconds=self._clock(),
                ),
            )

    def report(self, report: RtcpSenderReport) -> None:
        """Hand over a report of a track; likewise."""
        track_id, _ = self._by_ssrc.get(report.ssrc, ("", -1))
        if track_id in self._tracks:
            self._listener.sender_report(
                track_id,
                SenderReport(
                    timestamp=report.timestamp,
                    ntp_seconds=report.unix_seconds,
                    arrival_seconds=self._clock(),
                ),
            )

    def named(self, session_id: str, profile: Profile) -> None:
        """Tell who a speaker is, who may have left meanwhile."""
        if self.is_present(session_id):
            self._profiles[session_id] = profile
        for tracks in (self._tracks, self._ended):
            for track_id, speaker in list(tracks.items()):
                if speaker.session_id == session_id:
                    tracks[track_id] = Speaker(
                        session_id=session_id,
                        user_id=speaker.user_id or profile.user_id,
                        name=profile.name,
                    )
                    self._listener.track(track_id, tracks[track_id])

    def _begin(self, voice: Voice) -> bool:
        if len(self._tracks) >= MAX_TRACKS:
            log.warning("more than %d people speak; a track is not captured", MAX_TRACKS)
            return False
        speaker = self._speaker(voice.session_id)
        self._tracks[voice.track_id] = speaker
        log.info("a track of session %s has begun", voice.session_id)
        self._listener.track(voice.track_id, speaker)
        if not speaker.name:
            self._on_new_speaker(voice.session_id, speaker.user_id)
        return True

    def _speaker(self, session_id: str) -> Speaker:
        person = self._people.get(session_id)
        profile = self._profiles.get(session_id, Profile(user_id="", name=""))
        return Speaker(
            session_id=session_id,
            user_id=person.user_id if person else profile.user_id,
            name=profile.name,
        )

    def _end_tracks(self, session_id: str) -> None:
        for track_id, speaker in list(self._tracks.items()):
            if speaker.session_id == session_id:
                self._end(track_id)

    def _end(self, track_id: str) -> None:
        speaker = self._tracks.pop(track_id)
        self._ended[track_id] = speaker
        log.info("a track of session %s has ended", speaker.session_id)
        self._listener.track_ended(track_id)
