# SPDX-License-Identifier: Apache-2.0
"""The command group `callsd bench`."""

import click

from callsd_bench.captions.command import captions
from callsd_bench.daemon.command import daemon
from callsd_bench.recording.command import recording
from callsd_bench.recording.end import recording_end
from callsd_bench.repetition.command import repetition
from callsd_bench.robustness.command import robustness
from callsd_bench.transcription.command import transcription


@click.group(name="bench")
def bench() -> None:
    """Measure this machine, beside the way calls are transcribed today."""


bench.add_command(captions)
bench.add_command(daemon)
bench.add_command(recording)
bench.add_command(recording_end)
bench.add_command(repetition)
bench.add_command(robustness)
bench.add_command(transcription)
