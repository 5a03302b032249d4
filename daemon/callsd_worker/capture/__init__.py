# SPDX-License-Identifier: Apache-2.0
"""Captures what each speaker of a call says: packets in, a file for each track out."""
