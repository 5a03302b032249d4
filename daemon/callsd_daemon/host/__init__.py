# SPDX-License-Identifier: Apache-2.0
"""The machine's resources, load and processes, from /proc and control group files."""
