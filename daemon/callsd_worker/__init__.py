# SPDX-License-Identifier: Apache-2.0
"""The worker: one process that does one job and ends. It meets the daemon in `callsd_ipc`."""

import os


# What libraries must be told before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # calls are private: nothing is sent anywhere
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the engines have threads of their own
