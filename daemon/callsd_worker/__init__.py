# SPDX-License-Identifier: Apache-2.0
"""The worker process. It shares only `callsd_ipc` and `callsd_transcript` with the daemon."""

import os


# Settings that libraries read when they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # calls are private: nothing is sent anywhere
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the engines have threads of their own
