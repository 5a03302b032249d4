# SPDX-License-Identifier: Apache-2.0
"""The daemon: accepts jobs, decides what the machine can carry, and sees them through."""
