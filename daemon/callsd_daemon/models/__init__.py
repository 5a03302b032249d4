# SPDX-License-Identifier: Apache-2.0
"""Weights: which there are, where they come from, and which lie here whole and tried."""
