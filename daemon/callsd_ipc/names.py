# SPDX-License-Identifier: Apache-2.0
"""What daemon and worker agree on besides their messages."""

PROTOCOL_VERSION = 2
"""Of the messages. A daemon serves workers of the version before, too."""

WORKER_LOG = "log.txt"
"""Where in its directory a worker's output lies."""

ARTIFACTS = "artifacts"
"""Where in its directory a worker's finished files lie; where in a job's, those that were taken."""

OUTCOME = "outcome.binpb"
"""Where a worker's outcome lies until it is accepted, and where in a job's directory after that."""

MAX_OUTCOME_BYTES = 1024 * 1024
"""An outcome names at most 256 tracks and some files."""

VIDEO_FILE = "recording.mp4"
AUDIO_FILE = "recording.m4a"
RECORDING_FILES = (VIDEO_FILE, AUDIO_FILE)
"""What a recording's artifact is called, with a picture and without."""

PIECES = "pieces"
"""Where in its directory a recorder's recording lies while it goes on."""

CAPTURING_PHASE = "capturing"
"""What a capturer reports as soon as it is in the call."""

JOB_VARIABLE = "CALLSD_JOB"
"""Environment variable with the tag of a worker, inherited by every process of its job."""

PLUGIN = "com.mattermost.calls"
"""Identifier of Mattermost's Calls plugin."""

PLUGIN_PATH = f"/plugins/{PLUGIN}"
"""Where it is below a site's address."""
