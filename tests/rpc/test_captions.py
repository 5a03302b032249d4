# SPDX-License-Identifier: Apache-2.0
"""StreamCaptions: what is refused, and how that is said."""

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
from callsd_daemon.tokens import TokenFile
from tests.helpers import transcripts
from tests.helpers.api import Api
from tests.helpers.captions import (
    Sender,
    end_call,
    say,
    talk,
)
from tests.helpers.daemon import SAMPLE_CALL, Daemon
from tests.helpers.reasons import refused, status
from tests.helpers.speech import (
    audio,
    chunks,
    offset,
    seconds,
    speech,
)


INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNKNOWN = "jobs/0123456789abcdef0123"
SECOND_BYTES = 32_000


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
