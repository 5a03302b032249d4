# SPDX-License-Identifier: Apache-2.0
"""What a captioner reports is taken for what it can be, whatever it says."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from callsd_daemon.domain.captions import CaptionsSpec, Encoding, TrackUpdate
from callsd_daemon.domain.jobs import Failure
from callsd_daemon.rpc import caption_messages, convert
from callsd_daemon.workers.captions.call import AudioSink, Call
from callsd_daemon.workers.captions.files import write_files
from callsd_daemon.workers.captions.link import CaptionerStatus
from callsd_daemon.workers.session import captioning
from callsd_ipc.v1 import worker_pb2
from tests.helpers.anything import messages


LENGTH = 16_000


class Listener:
    """Takes all reports for reports of one speaker."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.failure: Failure | None = None

    def on_status(self, status: CaptionerStatus) -> None:
        """Take what is shown of it."""
        self._call.real_time_factor = status.real_time_factor
        self._call.degrade(status.degraded)

    def on_update(self, track: int, update: TrackUpdate) -> None:
        """Take it for Ada's."""
        self._call.apply(self._call.speakers["ada"], update)

    def on_failure(self, failure: Failure) -> None:
        """Remember it."""
        self.failure = failure


LAST_REVISION = worker_pb2.CaptionRequest(
    news=worker_pb2.TrackNews(
        interim=worker_pb2.CaptionWords(segment=2**63 - 1, revision=2**31 - 1, text="no")
    )
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    reports=st.lists(messages(worker_pb2.CaptionRequest.DESCRIPTOR), max_size=5),
    is_lost=st.booleans(),
)
@example(reports=[LAST_REVISION], is_lost=True)
def test_anything(*, reports: list[worker_pb2.CaptionRequest], is_lost: bool) -> None:
    """Of any reports, clients can be told and files made, and no more than the sound is done."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        sink = AudioSink(send=lambda *_: None, end_speech=lambda _: None)
        call = Call("job", CaptionsSpec(model="base"), directory, sink, max_log_bytes=10_000)
        call.attach(Encoding.S16LE)
        call.receive("ada", 1, 0, LENGTH, bytes(2 * LENGTH))
        listener = Listener(call)
        for report in reports:
            captioning.report(report, SimpleNamespace(observer=listener))  # type: ignore[arg-type]
        ada = call.speakers["ada"]
        assert 0 <= ada.processed_sample <= ada.recognised_sample <= ada.received_sample == LENGTH
        assert 0 <= ada.skipped_samples <= LENGTH
        if is_lost:
            call.interrupted("SIGKILL")
        caption_messages.acks(call.new_acks())
        caption_messages.heartbeat(call)
        for item in call.feed.after(0, 0):
            caption_messages.published(item)
        call.close()
        written = write_files(directory, engine=call.engine)
        result = call.result(caption_count=written.caption_count, word_count=written.word_count)
        convert.duration(result.skipped_seconds)
        again = Call("job", CaptionsSpec(model="base"), directory, sink, max_log_bytes=10_000)
        assert again.feed.last_sequence == call.feed.last_sequence
        again.close()
