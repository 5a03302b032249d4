# SPDX-License-Identifier: Apache-2.0
"""Pools of threads."""

import threading

from callsd_daemon.threads import started_pool


def test_all_are_there() -> None:
    """Once there is a pool, its work needs no other thread: it cannot fail for want of one."""
    pool = started_pool(3, "test")
    before = threading.active_count()
    done = list(pool.map(str, range(20)))
    after = threading.active_count()
    pool.shutdown()

    assert done == [str(number) for number in range(20)]
    assert after == before
