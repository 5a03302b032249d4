# SPDX-License-Identifier: Apache-2.0
"""What a worker is told when it is started."""

import os

from google.protobuf.message import DecodeError

from callsd_ipc.v1 import worker_pb2


PROTOCOL_VERSION = 1

CAPTIONER_PREFIX = "captioner."
"""Jobs have no such names: a captioner serves the jobs of all calls, and is named for its model."""


def read_bootstrap(data: bytes) -> worker_pb2.Bootstrap | None:
    """The launcher's bootstrap; None when it is none."""
    try:
        bootstrap = worker_pb2.Bootstrap.FromString(data)
    except DecodeError:
        return None
    return bootstrap if bootstrap.token else None


def is_captioner(bootstrap: worker_pb2.Bootstrap) -> bool:
    """Whether a captioner was started, not a worker for one job."""
    return bootstrap.job_id.startswith(CAPTIONER_PREFIX)


def hello(bootstrap: worker_pb2.Bootstrap) -> worker_pb2.Hello:
    """How a worker presents itself to the daemon."""
    return worker_pb2.Hello(
        job_id=bootstrap.job_id,
        generation=bootstrap.generation,
        token=bootstrap.token,
        protocol_version=PROTOCOL_VERSION,
        pid=os.getpid(),
    )
