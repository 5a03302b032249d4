# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd_daemon.domain.admission import Admit, Candidate, Host, Policy, Refuse, Snapshot, decide
from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CaptureSpec
from callsd_daemon.domain.costs import (
    CALL_MEMORY_BYTES,
    CAPTIONER_MEMORY_BYTES,
    CAPTURE_BYTES_A_SECOND,
    CAPTURE_CORES,
    CAPTURE_MEMORY_BYTES,
    DISK_FLOOR_BYTES,
    MEMORY_FLOOR_UNKNOWN_BYTES,
    MEMORY_FLOORS_BYTES,
    RECORDING_CORES,
    SPEAKER_CORES,
    SPEAKER_CORES_UNKNOWN,
    captioner_cost,
    captions_cost,
    captions_cost_key,
    capture_cost,
    capture_cost_key,
    recording_bytes,
    recording_cost,
    recording_cost_key,
    transcription_cost,
    transcription_cost_key,
)
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Reservation, Usage
from callsd_daemon.domain.recording import PROFILES, RECORDING, Profile, RecordingSpec
from callsd_daemon.domain.transcription import Engine
from tests.helpers.jobs import CALL, SPEC


TWO_CORES = Host(
    cores_total=2.0,
    cores_external=0.0,
    memory_total_bytes=8 * 2**30,
    memory_external_bytes=0,
    disk_total_bytes=2**40,
    disk_free_bytes=2**40,
)
POLICY = Policy(headroom_cores=0.2, headroom_memory_bytes=2**29, headroom_disk_bytes=2**30)


def page(profile: Profile) -> RecordingSpec:
    """A page to record in this quality."""
    return RecordingSpec(url="https://a.example/", profile=profile, quality=PROFILES[profile])


def peaks(*sizes: int) -> list[Usage]:
    """What jobs with these peaks of memory used."""
    return [Usage(peak_memory_bytes=size) for size in sizes]


@pytest.mark.parametrize(
    ("model", "floor"),
    [
        ("tiny", MEMORY_FLOORS_BYTES["tiny"]),
        ("tiny.en", MEMORY_FLOORS_BYTES["tiny"]),
        ("base", MEMORY_FLOORS_BYTES["base"]),
        ("small.en", MEMORY_FLOORS_BYTES["small"]),
        ("large-v3", MEMORY_FLOOR_UNKNOWN_BYTES),
        ("our-own", MEMORY_FLOOR_UNKNOWN_BYTES),
    ],
)
def test_first_job_of_its_kind(model: str, floor: int) -> None:
    """A job that none was like before is charged its threads and the floor of its model."""
    cost = transcription_cost(replace(SPEC, model=model), 3, [])

    assert cost == Reservation(cores=3.0, memory_bytes=floor, disk_bytes=DISK_FLOOR_BYTES)


def test_observed_below_the_floor() -> None:
    """Frugal jobs of the past do not lower the charge."""
    cost = transcription_cost(SPEC, 1, peaks(1, 2, 3))

    assert cost.memory_bytes == MEMORY_FLOORS_BYTES["base"]


def test_one_outlier_of_twenty() -> None:
    """The charge is the 95th percentile: of twenty jobs, the greediest does not count."""
    usual = MEMORY_FLOORS_BYTES["base"] * 2

    cost = transcription_cost(SPEC, 1, peaks(*[usual] * 19, usual * 10))

    assert cost.memory_bytes == usual


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=60))
def test_covers_most_of_the_past(sizes: list[int]) -> None:
    """At least 95 of 100 jobs of the past would have fitted, and it is one of the figures."""
    charged = transcription_cost(SPEC, 1, peaks(*sizes)).memory_bytes

    assert sum(size <= charged for size in sizes) >= 0.95 * len(sizes)
    assert charged in {*sizes, MEMORY_FLOORS_BYTES["base"]}


def test_key_tells_apart_what_costs_differ_by() -> None:
    """Engine, model and threads make a key; nothing else does."""
    base = transcription_cost_key(SPEC, 1)

    assert base == "transcription/auto/base/1"
    assert transcription_cost_key(SPEC, 2) != base
    assert transcription_cost_key(replace(SPEC, model="tiny"), 1) != base
    assert transcription_cost_key(replace(SPEC, engine=Engine.WHISPERCPP), 1) != base
    assert transcription_cost_key(replace(SPEC, language="de", tracks=()), 1) == base


class TestCaptions:
    """A call is charged for those who talk at once; its captioner is charged apart, and once."""

    @pytest.mark.parametrize(
        ("model", "cores"),
        [
            ("tiny.en", SPEAKER_CORES["tiny"]),
            ("base", SPEAKER_CORES["base"]),
            ("our-own", SPEAKER_CORES_UNKNOWN),
        ],
    )
    def test_first_call(self, model: str, cores: float) -> None:
        """A call that none was like before is charged the floor of its model for each speaker."""
        cost = captions_cost(CaptionsSpec(model=model, max_active_speakers=3), [])

        assert cost == Reservation(
            cores=cores * 3, memory_bytes=CALL_MEMORY_BYTES, disk_bytes=DISK_FLOOR_BYTES
        )

    def test_observed(self) -> None:
        """Calls that took more than the floor raise the charge, by what they took per second."""
        spec = CaptionsSpec(model="base", max_active_speakers=1)
        greedy = Usage(cpu_seconds=60, wall_seconds=100)

        assert captions_cost(spec, [greedy]).cores == 0.6
        assert captions_cost(spec, [Usage(cpu_seconds=60)]).cores == SPEAKER_CORES["base"]

    def test_key(self) -> None:
        """What was observed counts for calls with the same model and as many speakers."""
        two = captions_cost_key(CaptionsSpec(model="base", max_active_speakers=2))

        assert two == captions_cost_key(CaptionsSpec(model="base", language="de"))
        assert two != captions_cost_key(CaptionsSpec(model="base", max_active_speakers=3))
        assert two != captions_cost_key(CaptionsSpec(model="tiny"))

    def test_captioner(self) -> None:
        """A captioner holds memory, before it serves anybody."""
        assert captioner_cost("base") == Reservation(memory_bytes=CAPTIONER_MEMORY_BYTES["base"])
        assert captioner_cost("our-own") == Reservation(memory_bytes=MEMORY_FLOOR_UNKNOWN_BYTES)


class TestRecordings:
    """What a recording is charged."""

    @pytest.mark.parametrize("profile", list(Profile))
    def test_as_published(self, profile: Profile) -> None:
        """The qualities are those that calls are recorded in elsewhere."""
        quality = PROFILES[profile]
        published = {
            Profile.LOW: (1280, 720, 15, 1000, 64),
            Profile.MEDIUM: (1280, 720, 20, 1500, 64),
            Profile.HIGH: (1920, 1080, 20, 2500, 64),
        }

        assert published[profile] == (
            quality.width,
            quality.height,
            quality.frame_rate,
            quality.video_kbps,
            quality.audio_kbps,
        )

    def test_larger_pictures_cost_more(self) -> None:
        """Processor and memory grow with the picture, disk with its rate."""
        low, medium, high = (recording_cost(page(profile), 3600, ()) for profile in Profile)

        assert low.cores < medium.cores < high.cores
        assert low.memory_bytes == medium.memory_bytes < high.memory_bytes
        assert low.disk_bytes < medium.disk_bytes < high.disk_bytes

    def test_sound_alone(self) -> None:
        """Without a picture neither its cores nor its disk are charged."""
        spec = replace(page(Profile.HIGH), audio_only=True)
        cost = recording_cost(spec, 3600, ())

        assert cost.cores == RECORDING_CORES
        assert recording_bytes(spec.quality, spec, 3600) == 2 * 64 * 125 * 3600
        assert cost.disk_bytes == DISK_FLOOR_BYTES + 2 * 64 * 125 * 3600
        assert recording_cost_key(spec) != recording_cost_key(page(Profile.HIGH))

    def test_what_such_recordings_took_here(self) -> None:
        """Measured use raises the charge and never lowers it."""
        spec = page(Profile.MEDIUM)
        declared = recording_cost(spec, 60, ())
        heavy = Usage(cpu_seconds=90.0, wall_seconds=60.0, peak_memory_bytes=2**33)
        light = Usage(cpu_seconds=1.0, wall_seconds=60.0, peak_memory_bytes=1)

        assert recording_cost(spec, 60, [heavy]).cores == 1.5
        assert recording_cost(spec, 60, [heavy]).memory_bytes == 2**33
        assert recording_cost(spec, 60, [light, Usage()]) == declared

    def test_too_many_are_refused(self) -> None:
        """Two cores carry three medium recordings, and never four high ones; nothing waits."""
        for profile, most in ((Profile.MEDIUM, 3), (Profile.HIGH, 2)):
            cost = recording_cost(page(profile), 60, ())
            admitted, reserved = 0, Reservation()
            for _ in range(4):
                snapshot = Snapshot(host=TWO_CORES, reserved=reserved, running={}, queued_ahead=0)
                request = Candidate(
                    kind=RECORDING, reservation=cost, is_batch=False, may_queue=True
                )
                match decide(snapshot, request, POLICY):
                    case Admit():
                        admitted += 1
                        reserved += cost
                    case refusal:
                        assert isinstance(refusal, Refuse)
                        assert refusal.reason is Reason.CPU_EXHAUSTED

            assert 1 <= admitted <= most


class TestCapture:
    """A call that is captured."""

    MUTE = CaptureSpec(call=CALL)
    CAPTIONS = CaptionsSpec(model="base", max_active_speakers=3)
    CAPTIONED = CaptureSpec(call=CALL, captions=CAPTIONS)

    def test_files(self) -> None:
        """Its sound takes disk for as long as it may go on."""
        cost = capture_cost(self.MUTE, 100.0)
        assert cost == Reservation(
            cores=CAPTURE_CORES,
            memory_bytes=CAPTURE_MEMORY_BYTES,
            disk_bytes=DISK_FLOOR_BYTES + 100 * CAPTURE_BYTES_A_SECOND,
        )

    def test_captions(self) -> None:
        """Captions in it cost what they cost by themselves."""
        mute, both = capture_cost(self.MUTE, 100.0), capture_cost(self.CAPTIONED, 100.0)
        assert both == captions_cost(self.CAPTIONS, ()) + mute

    def test_key(self) -> None:
        """By what its captions are like, if it has any."""
        assert capture_cost_key(self.MUTE) == "capture"
        assert capture_cost_key(self.CAPTIONED) == "capture/captions/base/3"
