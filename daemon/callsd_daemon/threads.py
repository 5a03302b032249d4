# SPDX-License-Identifier: Apache-2.0
"""Threads that are there before they are needed."""

import threading
from concurrent.futures import ThreadPoolExecutor


START_SECONDS = 30.0


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool with all its threads running.

    A thread that is only started by the first work for it may not be had when the system is short
    of processes, and then that work fails. Raises RuntimeError when that is so already.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    # Each takes one piece of work, and waits with it until all have one.
    everybody = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(everybody.wait, START_SECONDS)
    everybody.wait(START_SECONDS)
    return pool
