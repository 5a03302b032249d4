# SPDX-License-Identifier: Apache-2.0
"""The engines, and what their models need: one recogniser each behind `speech/engine.py`."""
