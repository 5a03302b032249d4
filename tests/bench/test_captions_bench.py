# SPDX-License-Identifier: Apache-2.0

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result

from callsd.v1 import caption_pb2_grpc
from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_S16LE_16KHZ,
    AudioAck,
    Caption,
    CaptionEvent,
    StreamCaptionsRequest,
    StreamCaptionsResponse,
    WatchCaptionsRequest,
    WatchCaptionsResponse,
)
from callsd.v1.job_pb2 import StopJobRequest, StopJobResponse
from callsd_bench.captions import bench as captions_bench
from callsd_bench.captions import viewers as captions_viewers
from callsd_bench.captions.baseline.run import check_baseline
from callsd_bench.captions.player import Order, Tick
from callsd_bench.captions.records import read_arrivals
from callsd_bench.captions.sound import Encoding, write_score
from callsd_bench.cli import bench
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.helper_process import HelperProcess


ANSWER_SECONDS = 30.0
JOBS = ["jobs/first", "jobs/second"]


class FakeDaemon(caption_pb2_grpc.CaptionServiceServicer):
    """Takes sound and answers each fifth message with a caption; finals are every second of them.

    `refuses` = a job whose sound it does not take.
    """

    def __init__(self, *, refuses: str = "") -> None:
        self.messages: dict[str, list[tuple[float, StreamCaptionsRequest]]] = {}
        self.captions: dict[str, list[Caption]] = {job: [] for job in JOBS}
        self.stopped: set[str] = set()
        self._refuses = refuses
        self._news = threading.Condition()

    def StreamCaptions(  # noqa: N802 - the protocol's name
        self, requests: Iterator[StreamCaptionsRequest], context: Any
    ) -> Any:
        """Take the sound."""
        config = next(requests).config
        assert config.encoding == AUDIO_ENCODING_S16LE_16KHZ
        if config.job == self._refuses:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too loud")
        messages = self.messages[config.job] = []
        for number, request in enumerate(requests, 1):
            messages.append((time.monotonic(), request))
            if number % 5 == 0:
                self._caption(config.job, number // 5)
        yield StreamCaptionsResponse(acks=[AudioAck(speaker="maya")])

    def _caption(self, job: str, number: int) -> None:
        is_final = number % 2 == 0
        caption = Caption(
            segment_id="1",
            speaker="maya",
            text="hello",
            is_final=is_final,
            sequence=number // 2 if is_final else 0,
        )
        caption.processed_offset.FromMilliseconds(500 * number)
        with self._news:
            self.captions[job].append(caption)
            self._news.notify_all()

    def WatchCaptions(  # noqa: N802 - the protocol's name
        self, request: WatchCaptionsRequest, context: Any
    ) -> Any:
        """Hand out what there is until the job is stopped."""
        yield self._response(event=CaptionEvent())
        sent = 0
        while True:
            with self._news:
                self._news.wait_for(
                    partial(self._has_news, request.job, sent), timeout=ANSWER_SECONDS
                )
                fresh = self.captions[request.job][sent:]
            if not fresh:
                return
            for caption in fresh:
                yield self._response(caption=caption)
            sent += len(fresh)

    def _has_news(self, job: str, sent: int) -> bool:
        return len(self.captions[job]) > sent or job in self.stopped

    def stop_job(self, request: StopJobRequest, context: Any) -> StopJobResponse:
        """End a job and its watches."""
        with self._news:
            self.stopped.add(request.name)
            self._news.notify_all()
        return StopJobResponse()

    def _response(self, **message: Any) -> WatchCaptionsResponse:
        response = WatchCaptionsResponse(**message)
        response.lag.FromMilliseconds(250)
        response.publish_time.FromNanoseconds(time.time_ns())
        return response


@pytest.fixture
def fake() -> FakeDaemon:
    """A daemon that takes everything."""
    return FakeDaemon()


@pytest.fixture
def address(fake: FakeDaemon, tmp_path: Path) -> Iterator[str]:
    """Where it listens."""
    server = grpc.server(ThreadPoolExecutor(max_workers=30))
    caption_pb2_grpc.add_CaptionServiceServicer_to_server(fake, server)
    stop_job = grpc.unary_unary_rpc_method_handler(
        fake.stop_job, StopJobRequest.FromString, StopJobResponse.SerializeToString
    )
    server.add_registered_method_handlers("callsd.v1.JobService", {"StopJob": stop_job})
    (tmp_path / "token").write_text("secret\n")
    server.add_insecure_port(f"unix:{tmp_path}/s")
    server.start()
    yield f"unix:{tmp_path}/s"
    server.stop(grace=None).wait()


@pytest.fixture
def order(address: str, tmp_path: Path) -> Order:
    """Two calls of two seconds, half a second apart."""
    sound = {"maya": np.zeros(32_000, np.int16), "joe": np.ones(32_000, np.int16)}
    timed = write_score(sound, encoding=Encoding.S16LE, path=tmp_path / "score")
    return Order(
        address=address,
        token_file=str(tmp_path / "token"),
        jobs=JOBS,
        encoding="s16le",
        score_path=str(tmp_path / "score"),
        timed_messages=timed,
        send_seconds=0.1,
        stagger_seconds=0.5,
        arrivals_path=str(tmp_path / "arrivals"),
    )


def play(order: Order) -> tuple[float, Tick]:
    """Let the player play; when it began, and its last tick."""
    with HelperProcess("callsd_bench.captions.player", order) as player:
        assert player.answer(ANSWER_SECONDS) == "ready\n"
        began = time.monotonic() + 0.2
        player.tell(repr(began))
        tick = Tick()
        while not tick.is_done:
            tick = Tick(**player.answer_json(ANSWER_SECONDS))
    return began, tick


class TestPlayer:
    """The process that plays calls, against a daemon that only takes notes."""

    def test_on_time(self, fake: FakeDaemon, order: Order) -> None:
        """Every message arrives, in order, not before its sound is complete; then the job ends."""
        began, tick = play(order)

        assert not tick.error
        assert fake.stopped == set(JOBS)
        for number, job in enumerate(JOBS):
            start = began + number * order.stagger_seconds
            messages = fake.messages[job]
            sequences = [
                chunk.sequence
                for _, message in messages
                for chunk in message.batch.chunks
                if chunk.speaker == "joe"
            ]
            assert sequences == list(range(1, 21))
            ages = [at - start - 0.1 * index for index, (at, _) in enumerate(messages[:20], 1)]
            assert min(ages) >= 0
            # Half of them: a machine that is busy otherwise delays some.
            assert np.median(ages) < 0.05
            assert [message.event.speaker for _, message in messages[20:]] == ["maya", "joe"]

    def test_arrivals(self, fake: FakeDaemon, order: Order) -> None:
        """Every caption is noted with its call and the time since the start of that call."""
        _, tick = play(order)

        arrivals = [
            arrival
            for arrival in read_arrivals(Path(order.arrivals_path))
            if arrival.response.HasField("caption")
        ]
        assert tick.captions == len(arrivals) == 8
        for number, job in enumerate(JOBS):
            own = [arrival for arrival in arrivals if arrival.call == number]
            assert [arrival.response.caption for arrival in own] == fake.captions[job]
            assert all(
                0 <= arrival.seconds - 0.5 * index < ANSWER_SECONDS
                for index, arrival in enumerate(own, 1)
            )

    @pytest.mark.parametrize("fake", [FakeDaemon(refuses="jobs/second")])
    def test_refused(self, fake: FakeDaemon, order: Order) -> None:
        """What the daemon says against a call is told, and the player ends."""
        _, tick = play(order)

        assert tick.error == "RESOURCE_EXHAUSTED: too loud"


class TestViewers:
    """The process that holds many viewers."""

    def test_all_served(self, order: Order) -> None:
        """Viewers that read get everything, whether others read or not."""
        viewers_order = captions_viewers.Order(
            address=order.address, token_file=order.token_file, job=JOBS[0], viewers=5, frozen=2
        )
        with HelperProcess("callsd_bench.captions.viewers", viewers_order) as viewers:
            assert viewers.answer(ANSWER_SECONDS) == "ready\n"
            play(order)
            report = captions_viewers.Report(**viewers.answer_json(ANSWER_SECONDS))

        assert (report.count, report.frozen, report.captions) == (5, 2, 20)
        assert (report.lost_finals, report.repeated_finals, report.error) == (0, 0, "")
        assert report.p50 is not None
        assert report.p99 is not None
        assert 0 < report.p50 <= report.p99 < ANSWER_SECONDS

    def test_lost_and_repeated(self) -> None:
        """A final that a viewer has not seen and one that it saw twice are both told."""
        messages = [_final(1), _final(2), _final(3), _final(4)]

        report = captions_viewers.report(
            [
                list(enumerate(messages)),
                [(1.0, messages[0]), (2.0, messages[2]), (3.0, messages[2])],
                [],
            ],
            frozen=0,
        )

        assert (report.lost_finals, report.repeated_finals) == (2 + 4, 1)

    def test_nothing_came(self) -> None:
        """Without a caption there is no delay."""
        report = captions_viewers.report([[], []], frozen=1)

        assert (report.count, report.p50, report.p99, report.lost_finals) == (2, None, None, 0)


def _final(sequence: int) -> bytes:
    caption = Caption(is_final=True, sequence=sequence)
    return WatchCaptionsResponse(caption=caption).SerializeToString()


KEYS = {
    *("call", "calls", "seconds", "stagger_seconds", "model", "encoding"),
    *("lt_2s", "lt_4s", "lt_6s", "lt_8s", "latency", "first_word_delay", "published"),
    *("skipped_seconds", "windows_dropped", "buffer_full"),
    *("wer", "erased_ratio", "captions", "finals", "lost_finals"),
    *("pss_mb", "cores", "cpu_percent", "degraded", "restarts"),
    *("player_late_messages", "player_late_seconds", "viewers", "baseline"),
}
OURS_ALONE = {
    *("call", "calls", "seconds", "stagger_seconds", "model", "encoding"),
    *("finals", "lost_finals", "degraded", "restarts"),
    *("player_late_messages", "player_late_seconds", "viewers", "baseline"),
}


class TestCommand:
    """`callsd bench captions`, with the real daemon and captioner on the sample call."""

    @pytest.fixture
    def scratch(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Where the command makes its temporary directory; short, for the sockets' sake."""
        with tempfile.TemporaryDirectory(prefix="cb-") as directory:
            monkeypatch.setattr(tempfile, "tempdir", directory)
            yield Path(directory)

    def test_json(self, scratch: Path, models_directory: Path) -> None:
        """A short run has every figure of both sides, and leaves nothing behind."""
        result = _run(models_directory, "--calls", "2", "--encoding", "opus", "--json")

        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert set(report) == KEYS
        assert set(report["baseline"]) == (KEYS - OURS_ALONE) | {"packets_dropped"}
        assert set(report["latency"]) == {"p50", "p95", "p99"}
        assert (report["calls"], report["seconds"], report["encoding"]) == (2, 7, "opus")
        assert report["finals"] >= 2
        assert report["lost_finals"] == 0
        assert report["wer"] < 0.5
        assert 0 < report["first_word_delay"]["p50"] < 7
        assert 50 < report["pss_mb"] < 700
        assert "ours, tiny.en, 2 call(s)" in result.stderr
        assert "baseline, tiny.en, 2 call(s)" in result.stderr
        assert list(scratch.iterdir()) == []

    def test_table_with_viewers(
        self, scratch: Path, models_directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Viewers are served beside the call, and the table tells how.

        A baseline that fails is an error, but our own figures are not lost with it.
        """

        def fail(*_: object, **__: object) -> None:
            raise BenchError("it fell over")

        monkeypatch.setattr(captions_bench, "run_baseline", fail)
        result = _run(models_directory, "--viewers", "3")

        assert result.exit_code == 1
        assert "the baseline failed: it fell over" in result.stderr
        assert "first word" in result.stdout
        assert "3 viewers, 0 more frozen" in result.stdout
        assert "finals lost 0, repeated 0" in result.stdout
        assert "baseline" not in result.stdout

    def test_refused(self, scratch: Path, models_directory: Path) -> None:
        """What the daemon says against a job is told, and nothing is left behind."""
        result = _run(models_directory, "--baseline", "none", "--language", "klingon")

        assert result.exit_code == 1
        assert "the daemon refused" in result.output
        assert "klingon" in result.output
        assert list(scratch.iterdir()) == []


def _run(models: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        bench,
        [
            *("captions", "--models-dir", str(models), "--model", "tiny.en"),
            *("--seconds", "7", "--stagger", "1", *arguments),
        ],
    )


class TestRefusals:
    """What `callsd bench captions` refuses before it starts anything."""

    def test_no_weights_for_the_baseline(self, tmp_path: Path) -> None:
        """A model that only we can use is named, with what to do."""
        model = tmp_path / "tiny.en"
        model.mkdir()

        with pytest.raises(BenchError, match=r"tiny\.en/ggml/f16\.bin: .*--baseline none"):
            check_baseline(model)

    def test_no_model(self, tmp_path: Path) -> None:
        """A model that is nowhere to be had is named."""
        arguments = ["captions", "--models-dir", str(tmp_path), "--model", "enormous"]
        result = CliRunner().invoke(bench, arguments)

        assert result.exit_code == 1
        assert "no model 'enormous'" in result.output

    def test_no_call(self, tmp_path: Path) -> None:
        """A directory that is no call is named, with what it lacks."""
        result = CliRunner().invoke(bench, ["captions", "--call", str(tmp_path)])

        assert result.exit_code == 1
        assert f"{tmp_path / 'turns.json'} cannot be read" in result.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--frozen-viewers", "1"], "give both"),
            (["--language", ""], "the baseline detects no language"),
            (["--encoding", "mp3"], "'mp3' is not one of 's16le', 'opus'"),
            (["--calls", "0"], "0 is not in the range"),
        ],
    )
    def test_contradictions(self, arguments: list[str], message: str) -> None:
        """Options that make no sense are refused, with a word on what would."""
        result = CliRunner().invoke(bench, ["captions", *arguments])

        assert result.exit_code == 2
        assert message in result.output
