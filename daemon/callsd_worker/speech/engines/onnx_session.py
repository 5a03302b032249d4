# SPDX-License-Identifier: Apache-2.0
"""How models are run on onnxruntime."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


PROVIDERS = ["CPUExecutionProvider"]


def at_least(window: Samples, *, seconds: float) -> Samples:
    """A window, with silence behind it if it is shorter than that."""
    missing = math.ceil(seconds * SAMPLE_RATE_HZ) - window.size
    return np.pad(window, (0, missing)) if missing > 0 else window


@contextmanager
def one_error() -> Iterator[None]:
    """Makes a RuntimeError of any error, as the other engines raise.

    Errors of onnxruntime have no class in common.
    """
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"the model cannot be run ({error})") from error


def session_options(*, threads: int) -> Any:
    """Options of a session that leaves the machine to others while it has nothing to do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait for work would burn the processor time of others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, products of 8-bit numbers with signs overflow; with this they are converted.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 4
    return options
