# SPDX-License-Identifier: Apache-2.0
"""What of a recording is heard."""

import pytest

from callsd_daemon.domain.recording import is_silent


@pytest.mark.parametrize(
    ("level_db", "expected"), [(-120.0, True), (-100.1, True), (-100.0, False), (-20.0, False)]
)
def test_silence(level_db: float, expected: bool) -> None:  # noqa: FBT001 - a row's value
    """Below the smallest step of 16-bit samples nothing is heard; whatever is there is sound."""
    assert is_silent(level_db) is expected
