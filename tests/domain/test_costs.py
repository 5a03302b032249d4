# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.costs import (
    CALL_MEMORY_BYTES,
    CAPTIONER_MEMORY_BYTES,
    DISK_FLOOR_BYTES,
    MEMORY_FLOOR_UNKNOWN_BYTES,
    MEMORY_FLOORS_BYTES,
    SPEAKER_CORES,
    SPEAKER_CORES_UNKNOWN,
    captioner_cost,
    captions_cost,
    captions_cost_key,
    transcription_cost,
    transcription_cost_key,
)
from callsd_daemon.domain.jobs import Reservation, Usage
from callsd_daemon.domain.transcription import Engine
from tests.helpers.jobs import SPEC


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
