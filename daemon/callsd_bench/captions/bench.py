# SPDX-License-Identifier: Apache-2.0
"""`callsd bench captions`: calls in real time through the public API of a daemon of its own.

Ours and the baseline hear the same sound one after the other, never at once.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from callsd import CallsdError, Client
from callsd.v1.caption_pb2 import (
    CAPTION_EVENT_TYPE_AUDIO_SKIPPED,
    CAPTION_EVENT_TYPE_DEGRADED,
    CaptionsResult,
    CaptionsSpec,
)
from callsd.v1.job_pb2 import JOB_STATE_RUNNING
from callsd_bench.captions.baseline.run import check_baseline, run_baseline
from callsd_bench.captions.figures import Shown, Slices, new_audio_seconds
from callsd_bench.captions.player import TICK_SECONDS, Order, Tick
from callsd_bench.captions.records import Arrival, read_arrivals
from callsd_bench.captions.report import (
    Baseline,
    CaptionsReport,
    Counts,
    Figures,
    Measured,
    Ours,
    figures,
)
from callsd_bench.captions.sound import (
    SEND_SECONDS,
    Encoding,
    read_sound,
    speech_slices,
    write_score,
)
from callsd_bench.captions.viewers import READY_TIMEOUT_SECONDS
from callsd_bench.captions.viewers import Order as ViewersOrder
from callsd_bench.captions.viewers import Report as Viewers
from callsd_bench.shared.accuracy import HeardSegment
from callsd_bench.shared.call import Call, cut_call
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.helper_process import HelperProcess
from callsd_bench.shared.measure import Cost, cpu_seconds, memory_bytes
from callsd_bench.shared.progress import ProgressLine
from callsd_bench.shared.subject import Subject
from callsd_daemon.host.probe import limits


RUNNING_TIMEOUT_SECONDS = 60.0
"""A captioner has loaded its model by then, or something is wrong."""

END_TIMEOUT_SECONDS = 30.0
"""A job whose watch has ended is finished, or about to be."""

POLL_SECONDS = 0.1

# The first call begins so long after all is ready, so that its first message is in time.
_HEAD_START_SECONDS = 1.0
# A helper imports before it answers.
_ANSWER_MARGIN_SECONDS = 30.0
# Beside viewers and players, there are calls that only ask.
_SPARE_STREAMS = 10
_SPARE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to play, and what to measure beside it."""

    call: Call
    seconds: float | None
    calls: int
    stagger_seconds: float
    encoding: Encoding
    models: Path
    model: str
    workers: int
    """Threads of the captioner; 0 = what the daemon has by default."""
    language: str
    """Empty: detected."""
    baseline: bool
    viewers: int
    frozen_viewers: int


def bench_captions(plan: Plan) -> CaptionsReport:
    """Measure; takes as long as the calls do, twice with the baseline.

    BenchError: what failed of ours; what failed of the baseline is in the report.
    """
    if plan.baseline:
        check_baseline(plan.models / plan.model)
    with tempfile.TemporaryDirectory(prefix="callsd-bench-") as directory:
        scratch, call = Path(directory), plan.call
        if plan.seconds is not None:
            call = cut_call(call, seconds=plan.seconds, directory=scratch)
        sound = read_sound(call)
        speech = speech_slices(call, sound)
        bench = _Bench(plan, call, speech, scratch)
        timed_messages = write_score(sound, encoding=plan.encoding, path=bench.score)
        del sound
        try:
            ours = bench.ours(timed_messages)
        except CallsdError as error:
            raise BenchError(f"the daemon refused: {error}") from error
        baseline, baseline_error = None, ""
        try:
            if plan.baseline:
                baseline = bench.baseline()
        except BenchError as error:
            # Ours took minutes, and holds without it.
            baseline_error = str(error)
        return CaptionsReport(
            call=call.name,
            calls=plan.calls,
            seconds=call.duration_seconds,
            stagger_seconds=plan.stagger_seconds,
            model=plan.model,
            encoding=plan.encoding.value,
            ours=ours,
            baseline=baseline,
            baseline_error=baseline_error,
        )


class _Bench:
    def __init__(self, plan: Plan, call: Call, speech: dict[str, Slices], scratch: Path) -> None:
        self._plan = plan
        self._call = call
        self._speech = speech
        self._scratch = scratch
        self._total_seconds = call.duration_seconds + (plan.calls - 1) * plan.stagger_seconds
        self.score = scratch / "score"

    def ours(self, timed_messages: int) -> Ours:
        """Play the calls to a daemon."""
        plan = self._plan
        streams = 2 * plan.calls + plan.viewers + plan.frozen_viewers + _SPARE_STREAMS
        settings = {
            "server.max_watches": str(streams),
            # All cores are for this: whether they suffice is the question.
            "admission.headroom_cores": "0",
            "captions.workers": str(plan.workers),
            # The last call waits for its turn without being taken for abandoned.
            "captions.abandoned_seconds": str(self._total_seconds + _SPARE_SECONDS),
        }
        arrivals = self._scratch / "arrivals"
        with (
            ProgressLine(f"ours, {plan.model}, {plan.calls} call(s)") as line,
            Subject(self._scratch / "daemon", models=plan.models, settings=settings) as subject,
            subject.client() as client,
        ):
            line.tell("the captioner starts")
            jobs = [self._start_job(client) for _ in range(plan.calls)]
            order = Order(
                address=subject.address,
                token_file=str(subject.token_file),
                jobs=jobs,
                encoding=plan.encoding.value,
                score_path=str(self.score),
                timed_messages=timed_messages,
                send_seconds=SEND_SECONDS,
                stagger_seconds=plan.stagger_seconds,
                arrivals_path=str(arrivals),
            )
            with HelperProcess("callsd_bench.captions.player", order) as player:
                player.answer(_ANSWER_MARGIN_SECONDS)
                tick, cost, viewers = self._play(subject, player, line, jobs[0])
            results = [_result(client, job) for job in jobs]
        return self._ours(list(read_arrivals(arrivals)), results, tick, cost, viewers)

    def _start_job(self, client: Client) -> str:
        spec = CaptionsSpec(
            model=self._plan.model,
            language=self._plan.language,
            # What admission would allow is not the question here, but what the machine can do.
            max_active_speakers=1,
        )
        job = client.create_job(spec, no_queue=True).job
        deadline = time.monotonic() + RUNNING_TIMEOUT_SECONDS
        while job.state != JOB_STATE_RUNNING:
            if job.HasField("failure"):
                raise BenchError(f"a captions job failed: {job.failure.message}")
            if time.monotonic() > deadline:
                raise BenchError(f"a captions job does not run after {RUNNING_TIMEOUT_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
            job = client.get_job(job)
        return job.name

    def _play(
        self, subject: Subject, player: HelperProcess, line: ProgressLine, first_job: str
    ) -> tuple[Tick, Cost, Viewers | None]:
        plan = self._plan
        if not plan.viewers:
            return *self._follow(subject, player, line), None
        order = ViewersOrder(
            address=subject.address,
            token_file=str(subject.token_file),
            job=first_job,
            viewers=plan.viewers,
            frozen=plan.frozen_viewers,
        )
        with HelperProcess("callsd_bench.captions.viewers", order) as viewers:
            viewers.answer(READY_TIMEOUT_SECONDS + _ANSWER_MARGIN_SECONDS)
            tick, cost = self._follow(subject, player, line)
            return tick, cost, Viewers(**viewers.answer_json(_ANSWER_MARGIN_SECONDS))

    def _follow(
        self, subject: Subject, player: HelperProcess, line: ProgressLine
    ) -> tuple[Tick, Cost]:
        """Let the player begin, and look once a second at what the daemon costs."""
        pid = subject.process.pid
        cpu_before = cpu_now = cpu_seconds(pid)
        began = time.monotonic() + _HEAD_START_SECONDS
        player.tell(repr(began))
        peak_bytes, tick = 0, Tick()
        while not tick.is_done:
            tick = Tick(**player.answer_json(TICK_SECONDS + _ANSWER_MARGIN_SECONDS))
            peak_bytes = max(peak_bytes, memory_bytes(pid))
            # A process that ends takes its time along until it is waited for.
            cpu_now = max(cpu_now, cpu_seconds(pid))
            line.tell(self._progress(tick, time.monotonic() - began, peak_bytes))
        if tick.error:
            raise BenchError(f"a call was not played to its end: {tick.error}")
        return tick, Cost(
            wall_seconds=time.monotonic() - began,
            cpu_seconds=cpu_now - cpu_before,
            peak_pss_bytes=peak_bytes,
        )

    def _progress(self, tick: Tick, elapsed_seconds: float, peak_bytes: int) -> str:
        parts = [
            f"{max(0.0, elapsed_seconds):.0f} of {self._total_seconds:.0f} s",
            f"lag {tick.lag_seconds:.1f} s",
            f"{tick.captions} captions",
            f"{peak_bytes / 1e6:.0f} MB",
        ]
        if tick.late_messages:
            parts.append(f"PLAYER LATE {tick.late_messages} ×")
        return ", ".join(parts)

    def _ours(
        self,
        arrivals: list[Arrival],
        results: list[CaptionsResult],
        tick: Tick,
        cost: Cost,
        viewers: Viewers | None,
    ) -> Ours:
        events = [
            arrival.response.event for arrival in arrivals if arrival.response.HasField("event")
        ]
        skips = [event for event in events if event.type == CAPTION_EVENT_TYPE_AUDIO_SKIPPED]
        skipped_seconds = max(
            sum(event.skipped.ToNanoseconds() for event in skips) / 1e9,
            sum(result.skipped_duration.ToNanoseconds() for result in results) / 1e9,
        )
        finals = [_finals(arrivals, call) for call in range(self._plan.calls)]
        captions = [_shown(arrival) for arrival in arrivals if arrival.response.HasField("caption")]
        measured = Measured(
            captions=captions,
            new_audio_seconds=new_audio_seconds(captions),
            finals=finals,
            counts=Counts(
                skipped_seconds=round(skipped_seconds, 3),
                windows_dropped=len(skips),
                buffer_full=tick.blocked_messages,
            ),
            cost=cost,
        )
        return Ours(
            figures=self._figures(measured),
            finals=sum(map(len, finals)),
            lost_finals=sum(result.caption_count for result in results) - sum(map(len, finals)),
            degraded=sum(event.type == CAPTION_EVENT_TYPE_DEGRADED for event in events),
            restarts=max(result.restart_count for result in results),
            player_late_messages=tick.late_messages,
            player_late_seconds=round(tick.late_seconds, 3),
            viewers=viewers,
        )

    def baseline(self) -> Baseline:
        """Let the baseline hear the same."""
        plan = self._plan
        measured, packets_dropped = run_baseline(
            self._call,
            calls=plan.calls,
            stagger_seconds=plan.stagger_seconds,
            model=plan.models / plan.model,
            language=plan.language,
            scratch=self._scratch,
        )
        return Baseline(figures=self._figures(measured), packets_dropped=packets_dropped)

    def _figures(self, measured: Measured) -> Figures:
        return figures(self._call, self._speech, measured, machine_cores=limits().cores)


def _result(client: Client, name: str) -> CaptionsResult:
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while not (job := client.get_job(name)).HasField("end_time"):
        if time.monotonic() > deadline:
            raise BenchError(f"a captions job has not ended after {END_TIMEOUT_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
    if job.HasField("failure"):
        raise BenchError(f"a captions job failed: {job.failure.message}")
    return job.captions_result


def _shown(arrival: Arrival) -> Shown:
    caption = arrival.response.caption
    return Shown(
        call=arrival.call,
        speaker=caption.speaker,
        segment=caption.segment_id,
        text=caption.text,
        is_final=caption.is_final,
        text_start_seconds=caption.start_offset.ToNanoseconds() / 1e9,
        heard_to_seconds=caption.processed_offset.ToNanoseconds() / 1e9,
        arrival_seconds=arrival.seconds,
    )


def _finals(arrivals: list[Arrival], call: int) -> list[HeardSegment]:
    """What stays of a call; a final that came twice counts twice."""
    captions = [arrival.response.caption for arrival in arrivals if arrival.call == call]
    return [
        HeardSegment(
            speaker=caption.speaker,
            start_seconds=caption.start_offset.ToNanoseconds() / 1e9,
            text=caption.text,
        )
        for caption in captions
        if caption.is_final
    ]
