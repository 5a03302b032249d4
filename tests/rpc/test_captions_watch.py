# SPDX-License-Identifier: Apache-2.0
"""WatchCaptions: finals once each and in order, from wherever one begins."""

import itertools
import statistics
import time
from collections.abc import Iterator

import grpc
import pytest

from callsd.v1.caption_pb2 import (
    SPEAKER_EVENT_TYPE_MUTED,
    Caption,
    SpeakerEvent,
    WatchCaptionsRequest,
)
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.captions import (
    MODEL,
    Sender,
    Viewer,
    begin_call,
    end_call,
)
from tests.helpers.daemon import Daemon
from tests.helpers.reasons import refused
from tests.helpers.speech import (
    chunks,
    seconds,
    speech,
)
from tests.helpers.waiting import eventually


OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE

FINALS = 14
"""More than a late joiner is told."""

LATE_FINALS = 10

ANSWER_SECONDS = 4.0
"""Less than the time after which a viewer is told that there is nothing new."""

GAP_SECONDS = 4
WINDOW_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def spoken(live: Daemon) -> Iterator[tuple[str, list[Caption]]]:
    """A call in which somebody has said "Got it" many times, and all its final captions."""
    api = live.api()
    name = begin_call(live, api)
    said = speech("nina", 23.5, 24.8)
    with Viewer(api, name, resume_sequence=0) as viewer, Sender(api, name) as sender:
        sequence = 1
        for number in range(FINALS):
            pieces = chunks(
                "nina",
                said,
                start_sample=number * GAP_SECONDS * 16_000,
                first_sequence=sequence,
            )
            sender.push(pieces)
            sequence += len(pieces)
        sender.send(event=SpeakerEvent(speaker="nina", type=SPEAKER_EVENT_TYPE_MUTED))
        sender.wait_received("nina", sequence - 1)
        sender.wait_worked_off()
        eventually(
            lambda: viewer.sequences[-1:] == [len(viewer.finals)] and len(viewer.finals) >= FINALS,
            "all finals have come",
        )
        finals = viewer.finals
    yield name, finals
    end_call(live, api, name)


class TestResume:
    """What a viewer is told first."""

    def test_answered_at_once(self, live: Daemon, live_api: Api) -> None:
        """A viewer is answered before anybody speaks: then it may come back when it is cut off."""
        name = begin_call(live, live_api)
        stream = live_api.captions.WatchCaptions(
            WatchCaptionsRequest(job=name), metadata=live_api.metadata, timeout=ANSWER_SECONDS
        )
        first = next(stream)
        stream.cancel()
        end_call(live, live_api, name)

        assert first.WhichOneof("message") is None
        assert first.HasField("publish_time")

    def test_late_joiner(self, live_api: Api, spoken: tuple[str, list[Caption]]) -> None:
        """Who comes late is told the last ten finals, and nothing before them."""
        name, finals = spoken
        with Viewer(live_api, name) as viewer:
            viewer.wait_final(LATE_FINALS)

            assert viewer.finals == finals[-LATE_FINALS:]

    def test_from_each(self, live_api: Api, spoken: tuple[str, list[Caption]]) -> None:
        """From wherever a viewer resumes, it is told exactly the rest."""
        name, finals = spoken
        assert [final.sequence for final in finals] == list(range(1, len(finals) + 1))
        for after in range(len(finals)):
            with Viewer(live_api, name, resume_sequence=after) as viewer:
                viewer.wait_final(len(finals) - after)
                assert viewer.finals == finals[after:]

    @pytest.mark.reason("REVISION_UNKNOWN", "FIELD_INVALID")
    def test_future_and_past(self, live_api: Api, spoken: tuple[str, list[Caption]]) -> None:
        """A caption that never was cannot be resumed from."""
        name, finals = spoken
        for after in (len(finals) + 1, 2**63 - 1):
            with refused("REVISION_UNKNOWN", OUT_OF_RANGE) as refusal:
                Viewer(live_api, name, resume_sequence=after).join()
            assert refusal.error.metadata["newest"] == str(len(finals))
        for after in (-1, -(2**63)):
            with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
                Viewer(live_api, name, resume_sequence=after).join()

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("name", ["", "nonsense", "jobs/../x"])
    def test_no_job(self, live_api: Api, name: str) -> None:
        """What cannot be a job's name is refused."""
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
            Viewer(live_api, name).join()

    @pytest.mark.reason("REVISION_UNKNOWN")
    def test_ended(self, live: Daemon, live_api: Api) -> None:
        """After the call a watch tells the finals it is asked for, as they were, and ends."""
        name = begin_call(live, live_api)
        with Viewer(live_api, name) as viewer, Sender(live_api, name) as sender:
            said = chunks("maya", speech("maya", 18.2, 25.4))
            sender.push(said)
            sender.wait_received("maya", len(said))
            end_call(live, live_api, name)
            viewer.join()
        assert len(viewer.finals) >= 2
        for after in range(len(viewer.finals) + 1):
            again = Viewer(live_api, name, resume_sequence=after)
            again.join()
            assert again.captions == viewer.finals[after:]

        late = Viewer(live_api, name)
        late.join()
        assert late.finals == viewer.finals[-LATE_FINALS:]
        with refused("REVISION_UNKNOWN", OUT_OF_RANGE):
            Viewer(live_api, name, resume_sequence=len(viewer.finals) + 1).join()


class TestLive:
    """What a viewer is told while somebody talks."""

    def test_finals_only(self, live_api: Api, call: str) -> None:
        """Who asks for finals only gets them and the events; others see words come and change."""
        with (
            Viewer(live_api, call) as full,
            Viewer(live_api, call, finals_only=True) as short,
            Sender(live_api, call) as sender,
        ):
            sender.play(chunks("nina", speech("nina", 0.7, 7.5)))
            full.wait_event("SPEECH_END")
            full.wait_final()
            short.wait_final(len(full.finals))

            assert short.captions == full.finals
            assert {"SPEECH_BEGIN", "SPEECH_END"} <= set(short.event_types())
            assert len(full.captions) > len(full.finals)

    def test_interims(self, live_api: Api, call: str) -> None:
        """Interims of an utterance count on, precede its final, and say how old the sound is."""
        with Viewer(live_api, call) as viewer, Sender(live_api, call) as sender:
            sender.play(chunks("nina", speech("nina", 0.7, 7.5)))
            viewer.wait_event("SPEECH_END")
            viewer.wait_final()

        for _, group in itertools.groupby(viewer.captions, key=lambda c: c.segment_id):
            revisions = [caption.revision for caption in group if not caption.is_final]
            assert revisions == sorted(set(revisions))
        interims = [caption for caption in viewer.captions if not caption.is_final]
        assert interims[0].text
        assert not any(caption.sequence for caption in interims)
        assert all(0 <= caption.stability <= 1 for caption in interims)
        for _, message in viewer.messages:
            assert message.HasField("publish_time")
            assert 0 <= seconds(message.lag) < 30
        for final in viewer.finals:
            assert final.start_offset.ToNanoseconds() < final.end_offset.ToNanoseconds()

    def test_heartbeat(self, daemon: StartDaemon, models_directory: object) -> None:
        """Where nothing happens, a viewer still hears that the call is alive."""
        one = daemon(
            is_real=True,
            config={"captions": {"model": MODEL}},
            constants={"callsd_daemon.usecases.captions.HEARTBEAT_SECONDS": 0.2},
        )
        api = one.api()
        with Viewer(api, begin_call(one, api)) as viewer:
            eventually(lambda: len(viewer.messages) >= 3, "three heartbeats")
            assert not viewer.captions
            assert not viewer.events

    def test_heartbeat_among_interims(self, daemon: StartDaemon, models_directory: object) -> None:
        """Who wants finals only hears that the call is alive while words come and change, too."""
        one = daemon(
            is_real=True,
            config={"captions": {"model": MODEL}},
            constants={"callsd_daemon.usecases.captions.HEARTBEAT_SECONDS": 0.5},
        )
        api = one.api()
        name = begin_call(one, api)
        with (
            Viewer(api, name) as full,
            Viewer(api, name, finals_only=True) as short,
            Sender(api, name) as sender,
        ):
            sender.play(chunks("nina", speech("nina", 0.7, 7.5)))
            short.wait_final()
            full.wait_final()

            words = [at for at, message in full.messages if message.HasField("caption")]
            beats = [
                at
                for at, message in short.messages
                if not message.HasField("caption") and not message.HasField("event")
            ]
            assert sum(words[0] < at < words[-1] for at in beats) > 1


@pytest.mark.alone
class TestSlow:
    """A viewer that never reads."""

    @pytest.mark.reason("SLOW_CONSUMER")
    def test_harms_nobody(self, daemon: StartDaemon, models_directory: object) -> None:
        """Others are told without delay; it costs no memory, and is sent away."""
        one = daemon(
            is_real=True,
            config={"captions": {"model": MODEL, "workers": 1}},
            constants={
                "callsd_daemon.rpc.interceptor.MAX_LAG_SECONDS": 1.0,
                # What is a kilobyte now and then otherwise fills a window here.
                "callsd_daemon.usecases.captions.HEARTBEAT_SECONDS": 0.0005,
            },
        )
        api = one.api()
        name = begin_call(one, api)
        narrow = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
            ("grpc.http2.bdp_probe", 0),
        )
        with (
            grpc.insecure_channel(one.address, narrow) as channel,
            Viewer(api, name, finals_only=True) as viewer,
            Sender(api, name) as sender,
        ):
            frozen_api = Api(channel, one.token)
            frozen = frozen_api.stream(
                frozen_api.captions.WatchCaptions, WatchCaptionsRequest(job=name)
            )
            next(frozen)
            sender.push(chunks("nina", speech("nina", 0.7, 6.4)))
            viewer.wait_final()
            eventually(
                lambda: any(entry["reason"] == "SLOW_CONSUMER" for entry in one.events("rpc")),
                "the frozen viewer is dropped",
                seconds=30.0,
            )
            with refused("SLOW_CONSUMER", grpc.StatusCode.ABORTED):
                for _ in frozen:
                    pass

        delays = [
            arrival - time.monotonic() + time.time() - message.publish_time.ToNanoseconds() / 1e9
            for arrival, message in viewer.messages
            if message.HasField("caption")
        ]
        assert statistics.median(delays) < 0.2
