# SPDX-License-Identifier: Apache-2.0
"""Live captions: no sound and no final caption lost or doubled, whatever breaks."""

import time
from collections.abc import Iterator
from itertools import pairwise

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd import (
    AsyncClient,
    Client,
    ConflictError,
    DeadlineError,
    IntegrityError,
    InvalidRequestError,
    Sound,
    UnavailableError,
)
from callsd._caption_watch import CaptionWatch
from callsd._resume import Backoff
from callsd._sent_audio import MAX_BATCH_BYTES, MAX_BATCH_CHUNKS, SentAudio
from callsd._sound import MAX_CHUNK_BYTES, Piece, pieces
from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_OPUS,
    AUDIO_ENCODING_S16LE_16KHZ,
    SPEAKER_EVENT_TYPE_JOINED,
    SPEAKER_EVENT_TYPE_MUTED,
    SPEAKER_EVENT_TYPE_UNMUTED,
    AudioAck,
    WatchCaptionsResponse,
)
from tests.clients.scripted import Scripted
from tests.clients.scripted_captions import Hearing, final


SECOND = b"\1\0" * 16_000
STEP_SECONDS = 0.1


def said(number: int) -> bytes:
    """A tenth of a second that is unlike any other."""
    return number.to_bytes(4, "little") * 800


def piece(speaker: str, number: int) -> Piece:
    """The same as a piece, at its time."""
    (found,) = pieces(
        Sound(speaker=speaker, data=said(number), start_offset_seconds=number * STEP_SECONDS),
        AUDIO_ENCODING_S16LE_16KHZ,
    )
    return found


def flush(audio: SentAudio, hearing: Hearing, *, at_most: int = 1000) -> None:
    """Have the server hear what there is to send."""
    for _ in range(at_most):
        if (message := audio.next_message()) is None:
            return
        hearing.hear(message)


class TestSound:
    """Sound on its way into chunks."""

    def test_long_sound_is_cut_at_samples(self) -> None:
        """Pieces hold whole samples, are small enough, and follow each other without a gap."""
        sound = Sound(speaker="Ada", data=SECOND * 3, start_offset_seconds=1.5)
        found = list(pieces(sound, AUDIO_ENCODING_S16LE_16KHZ))

        assert b"".join(one.data for one in found) == sound.data
        assert max(len(one.data) for one in found) == MAX_CHUNK_BYTES
        assert found[0].start_sample == 24_000
        assert all(a.start_sample + a.samples == b.start_sample for a, b in pairwise(found))

    @pytest.mark.parametrize(
        ("packet", "samples"),
        [
            (b"\x08x", 320),  # SILK, one frame of 20 ms
            (b"\x60x", 160),  # hybrid, one frame of 10 ms
            (b"\xe0x", 40),  # CELT, one frame of 2.5 ms
            (b"\xf9xx", 640),  # CELT, two frames of 20 ms
            (b"\xfb\x03x", 960),  # CELT, three frames of 20 ms
        ],
    )
    def test_opus_packets_tell_their_length(self, packet: bytes, samples: int) -> None:
        """A packet lasts as long as its first bytes say."""
        sound = Sound(speaker="Ada", data=packet, start_offset_seconds=0)

        assert [one.samples for one in pieces(sound, AUDIO_ENCODING_OPUS)] == [samples]

    @pytest.mark.parametrize("packet", [b"", b"\xfb", b"\xfb\x00"])
    def test_bad_opus(self, packet: bytes) -> None:
        """What is no packet is refused before it is sent."""
        sound = Sound(speaker="Ada", data=packet, start_offset_seconds=0)

        with pytest.raises(InvalidRequestError):
            list(pieces(sound, AUDIO_ENCODING_OPUS))

    def test_half_a_sample(self) -> None:
        """So are bytes that end within a sample."""
        sound = Sound(speaker="Ada", data=b"123", start_offset_seconds=0)

        with pytest.raises(InvalidRequestError, match="within a sample"):
            list(pieces(sound, AUDIO_ENCODING_S16LE_16KHZ))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from("abc"), st.integers(1, 4)),
        st.tuples(st.just("mute"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("cut"), st.sampled_from(["kept", "lost"]), st.integers(0, 3)),
        st.tuples(st.just("ack"), st.just(""), st.just(0)),
    ),
    max_size=30,
)


class TestSentAudio:
    """What a sender keeps."""

    @given(steps=STEPS, keeps_back=st.integers(0, 5))
    def test_nothing_lost_and_nothing_doubled(
        self, steps: list[tuple[str, str, int]], keeps_back: int
    ) -> None:
        """Through cuts and restarts of the server it hears all that was said, in order."""
        audio, hearing = SentAudio(), Hearing()
        hearing.keeps_back = keeps_back
        audio.learn([], is_first=True)
        numbers = dict.fromkeys("abc", 0)
        for what, whom, count in steps:
            match what:
                case "say":
                    for _ in range(count):
                        audio.add(piece(whom, numbers[whom]))
                        numbers[whom] += 1
                case "mute":
                    audio.change(whom, SPEAKER_EVENT_TYPE_MUTED)
                case "cut":
                    flush(audio, hearing, at_most=count)
                    if whom == "lost":
                        hearing.restart()
                    audio.learn(hearing.acks(), is_first=True)
                case _:
                    flush(audio, hearing)
                    audio.learn(hearing.acks(), is_first=False)
        audio.end_speech()
        flush(audio, hearing)
        audio.learn(hearing.acks(), is_first=False)

        assert hearing.repeated == 0
        assert audio.is_worked_off
        assert audio.lag_seconds == 0.0
        for speaker, count in numbers.items():
            assert hearing.sound(speaker) == b"".join(said(number) for number in range(count))

    def test_goes_on_behind_an_earlier_sender(self) -> None:
        """Another process of the same client continues the numbers, and not the sound."""
        hearing, first, second = Hearing(), SentAudio(), SentAudio()
        first.learn([], is_first=True)
        first.add(piece("Ada", 0))
        flush(first, hearing)
        second.learn(hearing.acks(), is_first=True)
        second.add(piece("Ada", 1))
        flush(second, hearing)

        assert hearing.sound("Ada") == said(0) + said(1)

    def test_another_sender_is_noticed(self) -> None:
        """Sound that we did not send: somebody else does, and we do not fight for the call."""
        audio = SentAudio()
        audio.learn([], is_first=True)
        audio.add(piece("Ada", 0))

        with pytest.raises(ConflictError) as caught:
            audio.learn([AudioAck(speaker="Ada", received_sequence=2)], is_first=True)
        assert caught.value.reason == "STREAM_REPLACED"

    def test_room_is_bounded(self) -> None:
        """A speaker's sound fits up to the limit; one piece always does; all share the bytes."""
        audio = SentAudio(keep_seconds=0.15, max_kept_bytes=7000)
        audio.learn([], is_first=True)
        free = audio.has_room(piece("a", 0))
        audio.add(piece("a", 0))
        others = audio.has_room(piece("b", 0))
        audio.add(piece("b", 0))

        assert (free, others) == (True, True)
        assert not audio.has_room(piece("a", 1))  # too many seconds
        assert not audio.has_room(piece("c", 0))  # too many bytes

    def test_lag_is_what_waits(self) -> None:
        """The slowest speaker's sound, from the oldest that is not worked off."""
        audio, hearing = SentAudio(), Hearing()
        hearing.keeps_back = 3
        audio.learn([], is_first=True)
        for number in range(5):
            audio.add(piece("Ada", number))
        before = audio.lag_seconds
        flush(audio, hearing)
        audio.learn(hearing.acks(), is_first=False)

        assert (before, audio.lag_seconds) == (0.5, 0.3)
        assert audio.acks["Ada"].received_sequence == 5

    def test_rounded_stamps_join(self) -> None:
        """Stamps that are a little off make no holes, which would never count as worked off."""
        audio = SentAudio()
        audio.learn([], is_first=True)
        audio.add(piece("Ada", 0))
        late = piece("Ada", 1)
        audio.add(
            Piece(
                speaker="Ada",
                data=late.data,
                start_sample=late.start_sample + 160,
                samples=late.samples,
            )
        )
        message = audio.next_message()
        assert message is not None

        assert message.batch.chunks[1].start_offset.ToMilliseconds() == 100

    def test_messages_keep_to_the_limits(self) -> None:
        """However much there is, no message is larger than the server takes."""
        audio = SentAudio(keep_seconds=3600)
        audio.learn([], is_first=True)
        for number in range(2500):
            audio.add(Piece(speaker="s" * 200, data=b"12", start_sample=number, samples=1))
        for number in range(40):
            data = b"\0" * MAX_CHUNK_BYTES
            audio.add(Piece(speaker="b", data=data, start_sample=number * 16384, samples=16384))
        messages = []
        while message := audio.next_message():
            messages.append(message)

        assert sum(len(message.batch.chunks) for message in messages) == 2540
        assert max(len(message.batch.chunks) for message in messages) <= MAX_BATCH_CHUNKS
        assert max(message.ByteSize() for message in messages) <= MAX_BATCH_BYTES + 8000

    def test_names_and_the_last_mute_are_told_again(self) -> None:
        """A server that may have missed them learns who is who, and who is silent."""
        audio = SentAudio()
        audio.learn([], is_first=True)
        audio.change("a", SPEAKER_EVENT_TYPE_JOINED, display_name="Ada")
        audio.add(piece("a", 0))
        for type_ in (SPEAKER_EVENT_TYPE_MUTED, SPEAKER_EVENT_TYPE_UNMUTED):
            audio.change("a", type_)
        flush(audio, Hearing())
        again = Hearing()
        audio.learn([], is_first=True)
        flush(audio, again)

        assert [(event.type, event.display_name) for event in again.events] == [
            (SPEAKER_EVENT_TYPE_JOINED, "Ada"),
            (SPEAKER_EVENT_TYPE_UNMUTED, ""),
        ]
        assert again.sound("a") == said(0)


def send(numbers: range) -> Iterator[Sound]:
    """A tenth of a second for each number, of one speaker."""
    for number in numbers:
        start_seconds = number * STEP_SECONDS
        yield Sound(speaker="Ada", data=said(number), start_offset_seconds=start_seconds)


class TestCaptionSender:
    """Sending, with a server that breaks."""

    def test_goes_on_after_cuts_and_restarts(self, client: Client, scripted: Scripted) -> None:
        """All sound arrives once, in order, although the server forgets and is cut three times."""
        scripted.captions.hearing.keeps_back = 3
        scripted.captions.cuts = [2, 1, 1]  # the name alone is one message of each stream
        with client.stream_captions("a") as sender:
            sender.joined("Ada", display_name="Ada L.")
            for sound in send(range(50)):
                sender.send(sound.speaker, sound.data, sound.start_offset_seconds)

        hearing = scripted.captions.hearing
        assert scripted.captions.configs == ["jobs/a"] * 4
        assert hearing.sound("Ada") == b"".join(said(number) for number in range(50))
        assert sender.acks["Ada"].received_sequence == 50
        assert sender.lag_seconds == 0.0

    async def test_asyncio_goes_on_after_cuts_and_restarts(self, scripted: Scripted) -> None:
        """The same from asyncio."""
        scripted.captions.hearing.keeps_back = 3
        scripted.captions.cuts = [2, 1, 1]  # the name alone is one message of each stream
        async with (
            AsyncClient(scripted.address) as client,
            await client.stream_captions("a") as sender,
        ):
            await sender.joined("Ada", display_name="Ada L.")
            for sound in send(range(50)):
                await sender.send(sound.speaker, sound.data, sound.start_offset_seconds)

        hearing = scripted.captions.hearing
        assert scripted.captions.configs == ["jobs/a"] * 4
        assert hearing.sound("Ada") == b"".join(said(number) for number in range(50))

    def test_a_batch_is_one_message(self, client: Client, scripted: Scripted) -> None:
        """What is handed over together travels together."""
        with client.stream_captions("a") as sender:
            sender.send_batch(send(range(20)))

        assert scripted.captions.hearing.messages == 1
        assert scripted.captions.hearing.sound("Ada") == b"".join(said(n) for n in range(20))

    def test_full_sender_blocks_and_gives_up(self, scripted: Scripted) -> None:
        """A server that works nothing off holds up the sender, not for longer than its patience."""
        scripted.captions.hearing.keeps_back = 1000
        with Client(scripted.address, patience_seconds=0.3) as client:
            sender = client.stream_captions("a", keep_seconds=1.0)
            sender.send_batch(send(range(10)))
            began = time.monotonic()

            with pytest.raises(DeadlineError, match=r"1\.0 s of sound"):
                sender.send_batch(send(range(10, 11)))
            sender.abort()

        assert time.monotonic() - began >= 0.3

    def test_room_is_made_by_acknowledgements(self, client: Client, scripted: Scripted) -> None:
        """A blocked sender goes on as sound is worked off."""
        scripted.captions.hearing.keeps_back = 2
        with client.stream_captions("a", keep_seconds=0.5) as sender:
            sender.send_batch(send(range(100)))

        assert scripted.captions.hearing.sound("Ada") == b"".join(said(n) for n in range(100))

    def test_a_refusal_is_told_at_once(self, client: Client, scripted: Scripted) -> None:
        """What ends the sender is raised by whatever is called next, and nothing is tried again."""
        scripted.captions.end = grpc.StatusCode.ABORTED
        sender = client.stream_captions("a")
        sender.send("Ada", said(0), 0.0)

        with pytest.raises(ConflictError):
            sender.close()
        with pytest.raises(ConflictError):
            sender.send("Ada", said(1), 0.1)
        assert scripted.captions.configs == ["jobs/a"]

    def test_nobody_there(self) -> None:
        """A wrong address fails when the stream is begun."""
        with Client("unix:/tmp/callsd-nobody.sock") as client, pytest.raises(UnavailableError):
            client.stream_captions("a")

    def test_closed_is_closed(self, client: Client) -> None:
        """Sending after the end is a mistake that is told; closing twice is none."""
        sender = client.stream_captions("a")
        sender.close()
        sender.close()

        with pytest.raises(ValueError, match="closed"):
            sender.muted("Ada")


class TestClosedClient:
    """Streams whose client is closed under them."""

    def test_watch_ends(self, scripted: Scripted) -> None:
        """A watch does not try again for ever."""
        client = Client(scripted.address)
        scripted.captions.captions = [final(1), final(2)]
        watch = client.watch_captions("a")
        next(watch)
        client.close()

        with pytest.raises(ConflictError, match="closed"):
            list(watch)

    def test_sender_ends(self, scripted: Scripted) -> None:
        """A sender that is still open says so."""
        scripted.captions.hearing.keeps_back = 9
        client = Client(scripted.address)
        sender = client.stream_captions("a")
        sender.send("Ada", said(0), 0.0)
        client.close()

        with pytest.raises(ConflictError, match="closed"):
            sender.close()

    async def test_asyncio_sender_ends(self, scripted: Scripted) -> None:
        """The same from asyncio."""
        scripted.captions.hearing.keeps_back = 9
        client = AsyncClient(scripted.address)
        sender = await client.stream_captions("a")
        await sender.send("Ada", said(0), 0.0)
        await client.close()

        with pytest.raises(ConflictError, match="closed"):
            await sender.close()


def _watch(resume_sequence: int | None = None) -> CaptionWatch:
    return CaptionWatch(
        "jobs/a", resume_sequence=resume_sequence, finals_only=False, backoff=Backoff()
    )


class TestCaptionWatch:
    """Following captions."""

    def test_finals_once_each_over_cuts(self, client: Client, scripted: Scripted) -> None:
        """Each final caption comes once, in order; the end of the job's stream is the end."""
        scripted.captions.captions = [final(number) for number in range(1, 21)]
        scripted.captions.cuts = [3, 1, 7]

        shown = [one.caption.sequence for one in client.watch_captions("a", resume_sequence=0)]

        assert shown == list(range(1, 21))
        assert [one.resume_sequence for one in scripted.captions.watches] == [0, 3, 4, 11]

    async def test_asyncio_finals_once_each_over_cuts(self, scripted: Scripted) -> None:
        """The same from asyncio."""
        scripted.captions.captions = [final(number) for number in range(1, 21)]
        scripted.captions.cuts = [3, 1, 7]
        async with AsyncClient(scripted.address) as client:
            shown = [one.caption.sequence async for one in client.watch_captions("a")]

        assert shown == list(range(1, 21))

    def test_repeated_finals_are_left_out(self) -> None:
        """What was seen is not shown again; interims are."""
        watch = _watch(4)
        interim = WatchCaptionsResponse()

        assert list(watch.receive(final(4))) == []
        assert list(watch.receive(final(5))) == [final(5)]
        assert list(watch.receive(interim)) == [interim]

    def test_a_gap_is_an_error(self) -> None:
        """A server that leaves a caption out is not believed."""
        watch = _watch(4)

        with pytest.raises(IntegrityError, match="6 where 5 was due"):
            list(watch.receive(final(6)))

    def test_cut_before_the_first_final(self) -> None:
        """A watch that has begun without finals takes none of them for old."""
        watch = _watch()
        before = watch.request().HasField("resume_sequence")
        list(watch.receive(WatchCaptionsResponse()))

        assert not before
        assert watch.request().HasField("resume_sequence")
        assert watch.request().resume_sequence == 0
