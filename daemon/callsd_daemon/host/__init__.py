# SPDX-License-Identifier: Apache-2.0
"""What this machine has and is doing, read from /proc and the control group files."""
