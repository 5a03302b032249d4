# SPDX-License-Identifier: Apache-2.0
"""StreamCaptions: what is taken, what is refused and how, and what is said of it."""

import functools
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_OPUS,
    AUDIO_ENCODING_S16LE_16KHZ,
    SPEAKER_EVENT_TYPE_JOINED,
    SPEAKER_EVENT_TYPE_MUTED,
    AudioBatch,
    AudioChunk,
    CaptionsConfig,
    SpeakerEvent,
    StreamCaptionsRequest,
    WatchCaptionsRequest,
)
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd_daemon.tokens import TokenFile
from tests.helpers import transcripts
from tests.helpers.api import Api
from tests.helpers.captions import (
    CHUNK_SAMPLES,
    Sender,
    Viewer,
    artifact,
    begin_call,
    chunks,
    end_call,
    errors,
    offset,
    opus_chunks,
    say,
    seconds,
    speech,
    talk,
    track,
)
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.reasons import refused, status
from tests.helpers.waiting import eventually


INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNKNOWN = "jobs/0123456789abcdef0123"
SECOND_BYTES = 32_000
NINA_SECONDS = (0.7, 6.4)
NINA_TEXT = "One question for the notes. Did any customer complain, or did we notice it first?"

KENJI_TEXT = "There is one more thing that worries me. We only found the problem because the"


def audio(speaker: str = "ada", sequence: int = 1, **fields: object) -> StreamCaptionsRequest:
    """A message of 100 ms of silence, but for `fields`."""
    chunk = {"start_offset": Duration(), "data": bytes(2 * CHUNK_SAMPLES), **fields}
    return StreamCaptionsRequest(
        audio=AudioChunk(speaker=speaker, sequence=sequence, **chunk)  # type: ignore[arg-type]
    )


def batch(count: int, size_bytes: int) -> StreamCaptionsRequest:
    """A message of several chunks, of consecutive sound."""
    pieces = [
        AudioChunk(
            speaker="ada",
            sequence=number + 1,
            start_offset=offset(number * size_bytes // 2),
            data=bytes(size_bytes),
        )
        for number in range(count)
    ]
    return StreamCaptionsRequest(batch=AudioBatch(chunks=pieces))


class TestBegin:
    """The first message."""

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize(
        ("first", "field"),
        [
            (audio(), "config"),
            (StreamCaptionsRequest(), "config"),
            (batch(1, 3200), "config"),
            (StreamCaptionsRequest(event=SpeakerEvent(speaker="ada")), "config"),
            (StreamCaptionsRequest(config=CaptionsConfig(job=UNKNOWN)), "config.encoding"),
            (
                StreamCaptionsRequest(
                    config=CaptionsConfig(job=UNKNOWN, encoding=99)  # type: ignore[arg-type]
                ),
                "config.encoding",
            ),
            (
                StreamCaptionsRequest(
                    config=CaptionsConfig(job="../x", encoding=AUDIO_ENCODING_OPUS)
                ),
                "config.job",
            ),
        ],
        ids=["audio", "empty", "batch", "event", "no encoding", "unknown encoding", "no job"],
    )
    def test_no_good(self, live_api: Api, first: StreamCaptionsRequest, field: str) -> None:
        """What does not begin with a whole config is refused, and the field is named."""
        with refused("FIELD_INVALID", INVALID) as refusal:
            say(live_api, first)

        assert [found.field for found in refusal.error.field_violations] == [field]

    @pytest.mark.reason("FIELD_INVALID")
    def test_nothing(self, live_api: Api) -> None:
        """Who hangs up before the first message is told what was missing."""
        with refused("FIELD_INVALID", INVALID):
            say(live_api)

    @pytest.mark.reason("FIELD_INVALID")
    def test_config_twice(self, live_api: Api, call: str) -> None:
        """A stream is of one call: a second config is refused."""
        again = CaptionsConfig(job=call, encoding=AUDIO_ENCODING_S16LE_16KHZ)
        with refused("FIELD_INVALID", INVALID) as refusal:
            talk(live_api, call, audio(), StreamCaptionsRequest(config=again))

        assert "config comes first" in refusal.error.message

    @pytest.mark.reason("JOB_NOT_FOUND")
    def test_unknown_job(self, live_api: Api) -> None:
        """A job that does not exist has no captions."""
        with refused("JOB_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            talk(live_api, UNKNOWN)
        with refused("JOB_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            list(live_api.stream(live_api.captions.WatchCaptions, watch(UNKNOWN)))

    @pytest.mark.reason("KIND_UNAVAILABLE")
    def test_other_kind(self, live: Daemon, live_api: Api) -> None:
        """A transcription takes no live sound and has no captions."""
        name = transcripts.submit(live, live_api, SAMPLE_CALL / "nina.ogg")
        with refused("KIND_UNAVAILABLE", grpc.StatusCode.FAILED_PRECONDITION):
            talk(live_api, name)
        with refused("KIND_UNAVAILABLE", grpc.StatusCode.FAILED_PRECONDITION):
            list(live_api.stream(live_api.captions.WatchCaptions, watch(name)))
        live.wait(live_api, name, seconds=60)

    @pytest.mark.reason("JOB_STATE_CONFLICT")
    def test_ended_job(self, live: Daemon, live_api: Api, call: str) -> None:
        """A call that is over takes no more sound."""
        end_call(live, live_api, call)
        with refused("JOB_STATE_CONFLICT", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            talk(live_api, call)

        assert refusal.error.metadata["state"] == "succeeded"

    @pytest.mark.reason("SCOPE_MISSING")
    def test_scope(self, live: Daemon, call: str) -> None:
        """To send sound takes captions.ingest, to watch takes jobs.read, and neither the other."""
        tokens = TokenFile(live.state / "tokens.json")
        ingest = live.api(tokens.create("bridge", ("captions.ingest",)))
        read = live.api(tokens.create("screen", ("jobs.read",)))
        with refused("SCOPE_MISSING", grpc.StatusCode.PERMISSION_DENIED) as refusal:
            talk(read, call)
        assert refusal.error.metadata["scope"] == "captions.ingest"
        with refused("SCOPE_MISSING", grpc.StatusCode.PERMISSION_DENIED):
            list(ingest.stream(ingest.captions.WatchCaptions, watch(call)))

        talk(ingest, call, audio())


def watch(job: str) -> WatchCaptionsRequest:
    """A request to watch."""
    return WatchCaptionsRequest(job=job)


BAD = {
    "odd": (audio(data=bytes(3201)), "audio.data", "a sample has two"),
    "empty": (audio(data=b""), "audio.data", "0 bytes"),
    "one byte": (audio(data=b"\x01"), "audio.data", "a sample has two"),
    "large": (audio(data=bytes(32 * 1024 + 2)), "audio.data", "32770 bytes"),
    "sequence 0": (audio(sequence=0), "audio.sequence", "count from 1"),
    "sequence -1": (audio(sequence=-1), "audio.sequence", "count from 1"),
    "sequence 2**62": (audio(sequence=2**62), "audio.sequence", "count from 1"),
    "negative offset": (audio(start_offset=Duration(seconds=-1)), "audio.start_offset", "start"),
    "negative nanos": (audio(start_offset=Duration(nanos=-1)), "audio.start_offset", "start"),
    "far offset": (audio(start_offset=Duration(seconds=10**9)), "audio.start_offset", "30 days"),
    "many nanos": (audio(start_offset=Duration(nanos=2 * 10**9)), "audio.start_offset", "start"),
    "no speaker": (audio(""), "audio.speaker", "1 to 200"),
    "long speaker": (audio("x" * 201), "audio.speaker", "1 to 200"),
    "speaker with bell": (audio("a\a"), "audio.speaker", "control"),
    "no chunk": (batch(0, 0), "batch.chunks", "0 chunks"),
    "many chunks": (batch(1001, 2), "batch.chunks", "1001 chunks"),
    "much sound": (batch(17, 32 * 1024), "batch.chunks", "557056 bytes"),
    "nothing": (StreamCaptionsRequest(), "message", "audio, batch or event"),
    "event of nobody": (
        StreamCaptionsRequest(event=SpeakerEvent(type=SPEAKER_EVENT_TYPE_MUTED)),
        "event.speaker",
        "missing",
    ),
    "no event": (
        StreamCaptionsRequest(event=SpeakerEvent(speaker="ada")),
        "event.type",
        "no value",
    ),
    "long name": (
        StreamCaptionsRequest(
            event=SpeakerEvent(
                speaker="ada", type=SPEAKER_EVENT_TYPE_JOINED, display_name="x" * 201
            )
        ),
        "event.display_name",
        "201 characters",
    ),
}


class TestBadSound:
    """What is no sound is refused as what it is, and the call can go on."""

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("case", BAD, ids=lambda case: case)
    def test_refused(self, live_api: Api, call: str, case: str) -> None:
        """The field is named, and what is wrong with it; a new stream is taken at once."""
        message, field, words = BAD[case]
        with refused("FIELD_INVALID", INVALID) as refusal:
            talk(live_api, call, message)

        (violation,) = refusal.error.field_violations
        assert violation.field == field
        assert words in violation.description
        talk(live_api, call, audio())

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("packet", [b"\x03", b"\x00" * 0, b"\x03\x3f" + bytes(50)])
    def test_no_opus(self, live_api: Api, call: str, packet: bytes) -> None:
        """What cannot be an Opus packet is refused as such."""
        with refused("FIELD_INVALID", INVALID) as refusal:
            talk(live_api, call, audio(data=packet), encoding=AUDIO_ENCODING_OPUS)

        assert refusal.error.field_violations[0].field == "audio.data"

    @pytest.mark.reason("FIELD_INVALID")
    def test_wrong_rate(self, live_api: Api, call: str) -> None:
        """Sound at 48 kHz, sent as 16 kHz, lasts three times too long: that is said."""
        messages = [
            audio(sequence=number + 1, start_offset=offset(number * 320), data=bytes(1920))
            for number in range(100)
        ]
        with refused("FIELD_INVALID", INVALID) as refusal:
            talk(live_api, call, *messages)

        assert refusal.error.field_violations[0].field == "audio.start_offset"
        assert "is it 16 kHz" in refusal.error.message

    def test_one_mebibyte(self, live: Daemon, live_api: Api, call: str) -> None:
        """A message beyond the limit is refused by gRPC itself; the job is none the worse."""
        large = audio(data=bytes(1024 * 1024))

        assert status(lambda: talk(live_api, call, large)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        talk(live_api, call, audio())
        assert end_call(live, live_api, call).captions_result.speaker_count == 1

    @pytest.mark.reason("FIELD_INVALID")
    def test_too_many_speakers(self, live_api: Api, call: str) -> None:
        """The 251st speaker is one too many, whether with sound or with a name."""
        talk(live_api, call, *(audio(f"speaker {number}") for number in range(250)))
        joins = SpeakerEvent(speaker="one more", type=SPEAKER_EVENT_TYPE_JOINED)
        for message in (audio("one more"), StreamCaptionsRequest(event=joins)):
            with refused("FIELD_INVALID", INVALID) as refusal:
                talk(live_api, call, message)
            assert "at most 250" in refusal.error.message

        talk(live_api, call, audio("speaker 7", 2))

    def test_smallest_pieces(self, live_api: Api, call: str) -> None:
        """Sound of a sample in each chunk is sound like any other."""
        with Sender(live_api, call) as sender:
            sender.push(chunks("ada", speech("nina", 1, 1.2), chunk_samples=1))
            sender.wait_received("ada", 3200)

            assert seconds(sender.acks["ada"].received_offset) == 0.2


class TestCounting:
    """Gaps, duplicates, and resuming."""

    def test_gaps_and_duplicates(self, live: Daemon, live_api: Api, call: str) -> None:
        """What never came is told and counted; what comes twice is neither heard nor counted so."""
        said = chunks("nina", speech("nina", *NINA_SECONDS))
        missing = said[40:43]
        sent = [piece for piece in said if piece not in missing]
        with Viewer(live_api, call) as viewer, Sender(live_api, call) as sender:
            sender.push([*sent[:20], *sent[5:20], *sent])
            sender.send(event=SpeakerEvent(speaker="nina", type=SPEAKER_EVENT_TYPE_MUTED))
            sender.wait_received("nina", len(said))
            sender.wait_worked_off()
            job = end_call(live, live_api, call)
            viewer.join()

        skipped = [seconds(e.skipped) for e in viewer.events if e.skipped.ByteSize()]
        assert sum(skipped) == pytest.approx(0.3)
        assert seconds(job.captions_result.skipped_duration) == pytest.approx(0.3)
        assert seconds(job.captions_result.audio_duration) == pytest.approx(len(sent) / 10)
        assert job.captions_result.speaker_count == 1
        assert errors(NINA_TEXT, viewer.text("nina")) <= 4

    def test_pauses_are_no_gaps(self, live: Daemon, live_api: Api, call: str) -> None:
        """Sound that was never made, as of a muted microphone, is not missing."""
        late = chunks("nina", speech("nina", 1, 3), start_sample=600 * 16_000, first_sequence=21)
        with Sender(live_api, call) as sender:
            sender.push(chunks("nina", speech("nina", 1, 3)))
            sender.push(late)
            sender.wait_received("nina", 40)
        result = end_call(live, live_api, call).captions_result

        assert seconds(result.skipped_duration) == 0
        assert seconds(result.audio_duration) == pytest.approx(4)

    def test_resume_after_a_cut(self, live: Daemon, live_api: Api, call: str) -> None:
        """The first answer says where to go on; who does loses and doubles nothing."""
        said = chunks("nina", speech("nina", *NINA_SECONDS))
        with Viewer(live_api, call) as viewer:
            with Sender(live_api, call) as first:
                first.push(said[:30])
                first.wait_received("nina", 30)
            with Sender(live_api, call) as second:
                assert second.first is not None
                received = second.first["nina"].received_sequence
                second.push(said[received:])
                second.wait_received("nina", len(said))
            end_call(live, live_api, call)
            viewer.join()

        assert received == 30
        assert errors(NINA_TEXT, viewer.text("nina")) <= 3
        assert viewer.sequences == list(range(1, len(viewer.finals) + 1))

    def test_opus(self, live: Daemon, live_api: Api, call: str) -> None:
        """Packets as they come out of an encoder are captioned like samples."""
        said = opus_chunks("nina", NINA_SECONDS)
        with Viewer(live_api, call) as viewer:
            with Sender(live_api, call, encoding=AUDIO_ENCODING_OPUS) as sender:
                sender.push(said)
                sender.wait_received("nina", len(said))
            result = end_call(live, live_api, call).captions_result
            viewer.join()

        assert errors(NINA_TEXT, viewer.text("nina")) <= 3
        assert seconds(result.audio_duration) == pytest.approx(len(said) * 0.02)

    @pytest.mark.reason("FIELD_INVALID")
    def test_other_encoding(self, live_api: Api, call: str) -> None:
        """A call keeps to its encoding, from the first sound on."""
        talk(live_api, call, encoding=AUDIO_ENCODING_OPUS)
        with Sender(live_api, call) as sender:
            sender.push(chunks("nina", speech("nina", 1, 3)))
            sender.send(event=SpeakerEvent(speaker="nina", type=SPEAKER_EVENT_TYPE_MUTED))
            sender.wait_received("nina", 20)
            sender.wait_worked_off()
        with refused("FIELD_INVALID", INVALID) as refusal:
            talk(live_api, call, encoding=AUDIO_ENCODING_OPUS)

        assert refusal.error.field_violations[0].field == "config.encoding"
        talk(live_api, call)

    @pytest.mark.reason("STREAM_REPLACED")
    def test_replaced(self, live_api: Api, call: str) -> None:
        """The second of two streams is the one that counts; the first is told."""
        with Sender(live_api, call) as first, Sender(live_api, call) as second:
            second.send(audio=audio().audio)
            second.wait_received("ada", 1)
            with refused("STREAM_REPLACED", grpc.StatusCode.ABORTED):
                first.join()

            second.finish()

    @pytest.mark.reason("FIELD_INVALID")
    def test_error_comes_at_once(self, live_api: Api, call: str) -> None:
        """Also in a stream that was quiet for a while, a refusal does not wait for anything."""
        with Sender(live_api, call) as sender:
            sender.send(audio=audio().audio)
            sender.wait_received("ada", 1)
            sender.wait_worked_off()
            sender.send(audio=audio(sequence=0).audio)

            eventually(lambda: sender.is_over, "the stream is refused", seconds=2.0)
            with refused("FIELD_INVALID"):
                sender.join()


class TestChanges:
    """Names, mute, and the end."""

    def test_name(self, live_api: Api, call: str) -> None:
        """A speaker's name goes with the captions from then on."""
        joins = functools.partial(
            SpeakerEvent, speaker="nina", type=SPEAKER_EVENT_TYPE_JOINED, display_name="Nina 🎧"
        )
        with Viewer(live_api, call) as viewer, Sender(live_api, call) as sender:
            sender.send(event=joins())
            sender.push(chunks("nina", speech("nina", *NINA_SECONDS)))
            viewer.wait_final()

            assert {caption.display_name for caption in viewer.captions} == {"Nina 🎧"}

    @pytest.mark.parametrize(
        "end",
        [
            lambda sender: sender.send(
                event=SpeakerEvent(speaker="kenji", type=SPEAKER_EVENT_TYPE_MUTED)
            ),
            lambda sender: sender.vanish(),
        ],
        ids=["muted", "client gone"],
    )
    def test_open_utterance_is_finished(
        self, live: Daemon, live_api: Api, call: str, end: Callable[[Sender], None]
    ) -> None:
        """Who is muted or cut off in mid-word has said what was said so far."""
        said = chunks("kenji", speech("kenji", 26.6, 31.6))
        with Viewer(live_api, call) as viewer, Sender(live_api, call) as sender:
            sender.play(said)
            viewer.wait_shown("kenji")
            end(sender)
            eventually(
                lambda: viewer.finals and viewer.finals[-1].end_of_utterance,
                "the utterance is finished",
                seconds=5.0,
            )
            # The last word is half of one.
            assert errors(KENJI_TEXT, viewer.text("kenji")) <= 2
            assert live.job(live_api, call).state == JOB_STATE_RUNNING

    def test_end(self, live: Daemon, live_api: Api) -> None:
        """A call that is stopped in mid-word keeps its words: to viewers, and in its files."""
        name = begin_call(live, live_api)
        with Viewer(live_api, name) as viewer, Sender(live_api, name) as sender:
            said = chunks("maya", track("maya")[18 * 16_000 : 23 * 16_000])
            sender.push(said)
            sender.wait_received("maya", len(said))
            job = end_call(live, live_api, name)
            sender.join()
            viewer.join()

        assert job.state == JOB_STATE_SUCCEEDED
        assert job.captions_result.caption_count == len(viewer.finals)
        assert job.captions_result.word_count == len(viewer.text("maya").split())
        written = artifact(live, name, "captions.txt").read_text()
        assert all(caption.text in " ".join(written.split()) for caption in viewer.finals)
