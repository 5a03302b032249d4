# SPDX-License-Identifier: Apache-2.0
"""The worker: one process that does one job and ends. It meets the daemon in `callsd_ipc` only."""
