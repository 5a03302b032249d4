# SPDX-License-Identifier: Apache-2.0
"""The SFU: one session per bot, with its signalling; what goes wrong there goes wrong for good."""

import asyncio
import json
import logging
import secrets
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from aiortc.rtcdtlstransport import RTCCertificate
from aiortc.sdp import SessionDescription, candidate_from_sdp

from tests.mattermost import offers
from tests.mattermost.offers import Section, Transport
from tests.mattermost.peer import Peer
from tests.mattermost.tracks import Copy, Track


FIRST_OFFER_SECONDS = 10.0
"""From joining to the bot's offer; then its session is closed."""

ANSWER_SECONDS = 10.0
"""For an answer; if there is none, no later track is ever offered."""

LOCK_SECONDS = 5.0
MAX_SDP_BYTES = 64 * 1024

PING, PONG, SDP, LOSS, ROUND_TRIP, JITTER, LOCK, UNLOCK, MEDIA_MAP = range(1, 10)
"""The types of messages on the data channel."""

SendSignal = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends an event `signal` to the bot; it is lost when the bot is not there."""

_log = logging.getLogger(__name__)


class Trickle(StrEnum):
    """When the bot is told the server's candidate."""

    NEVER = "never"
    """It stands in the answer."""
    BEFORE = "before"
    """Before the answer, which has none."""
    AFTER = "after"


@dataclass(slots=True, kw_only=True)
class Timing:
    """What tests may change."""

    first_offer_seconds: float = FIRST_OFFER_SECONDS
    answer_seconds: float = ANSWER_SECONDS
    trickle: Trickle = Trickle.NEVER


class RefusedSignalError(Exception):
    """What the bot has signalled is not taken; it is not told."""


def message(message_type: int, payload: Any = None) -> bytes:
    """A message of the data channel."""
    head = bytes([0xCC, message_type])
    return head if payload is None else head + msgspec.msgpack.encode(payload)


def unpack(data: object) -> dict[str, Any]:
    """A description of the bot. RefusedSignalError: as the real one refuses it."""
    if not isinstance(data, bytes):
        raise RefusedSignalError("unexpected type: it must be bin")
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(data, MAX_SDP_BYTES + 1)
        if len(text) > MAX_SDP_BYTES:
            raise RefusedSignalError("too large")
        document = json.loads(text)
    except (zlib.error, ValueError) as error:
        raise RefusedSignalError(f"no zlib or no JSON: {error}") from error
    if (
        not isinstance(document, dict)
        or document.get("type") not in {"offer", "answer"}
        or not isinstance(document.get("sdp"), str)
    ):
        raise RefusedSignalError("no session description")
    return document


class BotSession:
    """A bot in a call. It owns the task that signals, and is closed by whoever opened it."""

    def __init__(
        self,
        session_id: str,
        certificate: RTCCertificate,
        timing: Timing,
        *,
        uses_channel: bool,
        send_signal: SendSignal,
    ) -> None:
        self.session_id = session_id
        self.is_stuck = False
        """An offer was not answered in time."""
        self.offers_sent = 0
        self.first_offer = asyncio.Event()
        self.connected = asyncio.Event()
        """The data channel is open."""
        self.peer = Peer(certificate, self._on_message)
        self._certificate = certificate
        self._timing = timing
        self._uses_channel = uses_channel
        self._send_signal = send_signal
        self._queue: asyncio.Queue[tuple[Track, bool]] = asyncio.Queue(maxsize=1000)
        self._offer: SessionDescription | None = None
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=16)
        self._sections: list[Section] = []
        self._tracks: dict[str, Track] = {}
        self._copies: dict[str, Copy] = {}
        """By mid."""
        self._fmtp = offers.FIRST_FMTP
        self._unlocked = asyncio.Event()
        self._unlocked.set()
        self._is_signalling = False
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Close the transport; nothing more is sent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for mid, track in self._tracks.items():
            if mid in self._copies and self._copies[mid] in track.copies:
                track.copies.remove(self._copies[mid])
        await self.peer.close()

    async def over(self) -> None:
        """Wait until it signals no more."""
        await asyncio.wait([self._task])

    def add(self, track: Track) -> None:
        """Offer a track as soon as it is its turn."""
        self._queue.put_nowait((track, True))

    def remove(self, track: Track) -> None:
        """Stop sending it: a voice just stops, for a picture there is an offer."""
        mid = next((mid for mid, one in self._tracks.items() if one is track), None)
        if mid is None:
            return
        self._forget(mid, track)
        if track.kind == "video":
            self._queue.put_nowait((track, False))

    def drop(self, *, is_dropping: bool) -> None:
        """Let no datagram through, or let them through again."""
        self.peer.is_dropping = is_dropping

    async def describe(self, data: object) -> None:
        """Take a description of the bot. RefusedSignalError."""
        document = unpack(data)
        if document["type"] == "answer":
            if not self._answers.full():
                self._answers.put_nowait(document)
        elif self._offer is None:
            try:
                offer = offers.read(document["sdp"])
            except ValueError as error:
                raise RefusedSignalError(str(error)) from error
            kinds = [one.kind for one in offer.media]
            if kinds != ["application"] or offer.media[0].dtls is None:
                # Bots that also send sound could be served, but there is none.
                raise RefusedSignalError(f"sections that are not to be answered: {kinds}")
            self._offer = offer
            self.first_offer.set()
        else:
            raise RefusedSignalError("a second offer, without a lock")

    async def add_candidate(self, data: object) -> None:
        """Take a candidate of the bot. RefusedSignalError."""
        try:
            document = json.loads(str(data))
            candidate = candidate_from_sdp(document["candidate"].removeprefix("candidate:"))
        except offers.Error as error:
            raise RefusedSignalError(f"no candidate: {error}") from error
        candidate.sdpMid, candidate.sdpMLineIndex = document.get("sdpMid"), 0
        await self.peer.add_candidate(candidate)

    # --- the task ---

    async def _run(self) -> None:
        try:
            await self.first_offer.wait()
            await self._answer()
            await self.peer.is_open.wait()
            self.connected.set()
            while not self.is_stuck:
                track, is_new = await self._queue.get()
                if not (is_new and track.is_over):
                    await self._negotiate(track, is_new=is_new)
        except (TimeoutError, ConnectionError) as error:
            _log.info("session %s: %s", self.session_id, error)

    async def _answer(self) -> None:
        assert self._offer is not None
        (media,) = self._offer.media
        await self.peer.gather()
        self._sections.append(Section(kind="application", mid=media.rtp.muxId or "0"))
        trickle = self._timing.trickle
        text = self._describe(setup="active", has_candidates=trickle is Trickle.NEVER)
        if trickle is Trickle.BEFORE:
            await self._signal_candidates()
        answer = json.dumps({"type": "answer", "sdp": text})
        await self._send_signal({"connID": self.session_id, "data": answer})
        if trickle is Trickle.AFTER:
            await self._signal_candidates()
        await self.peer.connect(media)

    async def _signal_candidates(self) -> None:
        for candidate in self.peer.candidates():
            document = {
                "type": "candidate",
                "candidate": {
                    "candidate": f"candidate:{candidate}",
                    "sdpMid": self._sections[0].mid,
                    "sdpMLineIndex": 0,
                    "usernameFragment": self.peer.ufrag,
                },
            }
            data = {"connID": self.session_id, "data": json.dumps(document)}
            await self._send_signal(data)

    async def _negotiate(self, track: Track, *, is_new: bool) -> None:
        section = self._section(track) if is_new else None
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                await self._unlocked.wait()
        except TimeoutError:
            _log.info("session %s: the bot keeps its lock", self.session_id)
        self._is_signalling = True
        try:
            async with asyncio.timeout(self._timing.answer_seconds):
                await self._send_offer()
                document, answer = await self._next_answer()
        except TimeoutError:
            self.is_stuck = True
            return
        finally:
            self._is_signalling = False
        if self._fmtp == offers.FIRST_FMTP and any(one.kind == "audio" for one in answer.media):
            self._fmtp = offers.opus_fmtp(document["sdp"])
        if section is not None and not offers.keeps_codec(answer, section):
            # pion fails to start a track whose codec is not in the answer, and is stuck then.
            self.is_stuck = True
        elif section is not None and section.msid and offers.accepts(answer, section.mid):
            self._begin(track, section, answer)

    async def _next_answer(self) -> tuple[dict[str, Any], SessionDescription]:
        while True:
            document = await self._answers.get()
            try:
                answer = offers.read(document["sdp"])
            except ValueError:
                continue
            if [one.rtp.muxId for one in answer.media] == [one.mid for one in self._sections]:
                return document, answer

    def _section(self, track: Track) -> Section:
        free = next(
            (one for one in self._sections if one.kind == track.kind == "video" and not one.msid),
            None,
        )
        if free is None:
            numbers = [int(one.mid) for one in self._sections if one.mid.isdecimal()]
            free = Section(kind=track.kind, mid=str(max(numbers, default=-1) + 1))
            self._sections.append(free)
        free.msid, free.ssrc = track.msid, secrets.randbelow(2**32 - 1) + 1
        self._tracks[free.mid] = track
        return free

    def _begin(self, track: Track, section: Section, answer: SessionDescription) -> None:
        (media,) = (one for one in answer.media if one.rtp.muxId == section.mid)
        levels = [one.id for one in media.rtp.headerExtensions if one.uri.endswith("audio-level")]
        copy = Copy(peer=self.peer, ssrc=section.ssrc, has_levels=levels == [offers.AUDIO_LEVEL])
        self._copies[section.mid] = copy
        track.copies.append(copy)

    def _forget(self, mid: str, track: Track) -> None:
        copy = self._copies.pop(mid, None)
        if copy is not None:
            track.copies.remove(copy)
        del self._tracks[mid]
        next(one for one in self._sections if one.mid == mid).msid = ""

    async def _send_offer(self) -> None:
        while not self._answers.empty():
            self._answers.get_nowait()  # nobody waits for those
        text = self._describe(setup="actpass", has_candidates=True)
        media_map = {
            mid: {"type": track.type, "sender_id": self.session_id}
            for mid, track in self._tracks.items()
        }
        self.peer.send_message(message(MEDIA_MAP, media_map))
        offer = json.dumps({"type": "offer", "sdp": text})
        self.offers_sent += 1
        if self._uses_channel:
            self.peer.send_message(message(SDP, zlib.compress(offer.encode())))
        else:
            await self._send_signal({"connID": self.session_id, "data": offer})

    def _describe(self, *, setup: str, has_candidates: bool) -> str:
        prints = self._certificate.getFingerprints()
        transport = Transport(
            ufrag=self.peer.ufrag,
            password=self.peer.password,
            fingerprint=next(one.value for one in prints if one.algorithm == "sha-256"),
            candidates=self.peer.candidates() if has_candidates else [],
        )
        return offers.describe(
            self._sections,
            transport,
            version=self.offers_sent + 1,
            setup=setup,
            opus_fmtp=self._fmtp,
        )

    # --- the data channel ---

    def _on_message(self, data: bytes | str) -> None:
        if isinstance(data, str):
            if data == "ping":
                self.peer.send_message("pong")
            return
        kind, rest = (data[1:2], data[2:]) if data[:1] == b"\xcc" else (data[:1], data[1:])
        match kind[0] if kind else 0:
            case 1:  # ping
                self.peer.send_message(message(PONG))
            case 3:  # SDP
                self._on_channel_sdp(rest)
            case 7:  # lock
                is_free = self._unlocked.is_set() and not self._is_signalling
                if is_free:
                    self._unlocked.clear()
                self.peer.send_message(message(LOCK, is_free))
            case 8:  # unlock
                self._unlocked.set()
            case _:
                pass  # statistics

    def _on_channel_sdp(self, data: bytes) -> None:
        try:
            document = unpack(msgspec.msgpack.decode(data))
        except (RefusedSignalError, msgspec.DecodeError) as error:
            _log.info("session %s: %s", self.session_id, error)
            return
        if document["type"] == "answer" and not self._answers.full():
            self._answers.put_nowait(document)
