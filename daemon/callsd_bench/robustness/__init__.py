# SPDX-License-Identifier: Apache-2.0
"""Accuracy in noise, in rooms and over bad lines."""
