# SPDX-License-Identifier: Apache-2.0
"""StreamCaptions: what comes is counted, resumed, and captioned."""

import functools
from collections.abc import Callable

import grpc
import pytest

from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_OPUS,
    SPEAKER_EVENT_TYPE_JOINED,
    SPEAKER_EVENT_TYPE_MUTED,
    SpeakerEvent,
)
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.helpers.api import Api
from tests.helpers.captions import (
    Sender,
    Viewer,
    artifact,
    begin_call,
    end_call,
    talk,
)
from tests.helpers.daemon import Daemon
from tests.helpers.reasons import refused
from tests.helpers.speech import (
    audio,
    chunks,
    errors,
    opus_chunks,
    seconds,
    speech,
    track,
)
from tests.helpers.waiting import eventually


INVALID = grpc.StatusCode.INVALID_ARGUMENT
NINA_SECONDS = (0.7, 6.4)
NINA_TEXT = "One question for the notes. Did any customer complain, or did we notice it first?"

KENJI_TEXT = "There is one more thing that worries me. We only found the problem because the"


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
