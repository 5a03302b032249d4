# SPDX-License-Identifier: Apache-2.0
"""Captions jobs."""

from callsd.v1 import caption_pb2
from callsd_daemon.domain.captions import CaptionsResult, CaptionsSpec
from callsd_daemon.kinds.captions import Captions
from callsd_daemon.rpc.convert import duration
from callsd_daemon.rpc.problems import Problems


MAX_ACTIVE_SPEAKERS = 50
DEFAULT_ACTIVE_SPEAKERS = 2


def parse(
    problems: Problems, message: caption_pb2.CaptionsSpec, kind: Captions
) -> tuple[CaptionsSpec, None]:
    """What is asked for."""
    return parse_spec(problems, "job.captions", message, kind), None


def parse_spec(
    problems: Problems, at: str, message: caption_pb2.CaptionsSpec, kind: Captions
) -> CaptionsSpec:
    """How a call is to be captioned."""
    problems.model(f"{at}.model", message.model)
    problems.language(f"{at}.language", message.language)
    speakers = message.max_active_speakers or DEFAULT_ACTIVE_SPEAKERS
    if not 1 <= speakers <= MAX_ACTIVE_SPEAKERS:
        problems.add(
            f"{at}.max_active_speakers", f"is {speakers}, must be 1 to {MAX_ACTIVE_SPEAKERS}"
        )
    return CaptionsSpec(
        model=message.model or kind.default_model,
        language=message.language,
        max_active_speakers=speakers,
    )


def spec(spec: CaptionsSpec) -> caption_pb2.CaptionsSpec:
    """What was asked for."""
    return caption_pb2.CaptionsSpec(
        model=spec.model, language=spec.language, max_active_speakers=spec.max_active_speakers
    )


def result(result: CaptionsResult) -> caption_pb2.CaptionsResult:
    """What came of it."""
    return caption_pb2.CaptionsResult(
        caption_count=result.caption_count,
        word_count=result.word_count,
        speaker_count=result.speaker_count,
        audio_duration=duration(result.audio_seconds),
        skipped_duration=duration(result.skipped_seconds),
        restart_count=result.restart_count,
    )
