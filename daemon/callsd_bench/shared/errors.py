# SPDX-License-Identifier: Apache-2.0
"""The one exception of the benchmarks."""


class BenchError(Exception):
    """A benchmark that cannot be run; the message says what to do."""
