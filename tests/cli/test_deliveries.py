# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs deliveries` and `callsd jobs publish`."""

from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, Job
from callsd.v1.mattermost_pb2 import MattermostCall
from callsd.v1.recording_pb2 import RecordingSpec
from tests.cli.conftest import Command
from tests.helpers.daemon import Daemon
from tests.helpers.job_service import TOKEN, identifier


@pytest.fixture
def recorded(running: Daemon) -> Job:
    """A recording of a call, which has ended; its site is away."""
    (running.root / "tmp" / "recorder").write_text("film 0.1")
    call = MattermostCall(
        site_url="http://127.0.0.1:9",
        call_id=identifier("c"),
        post_id=identifier("p"),
        job_id=identifier("r"),
        token=TOKEN,
    )
    client = running.client()
    job = client.create_job(RecordingSpec(mattermost_call=call)).job
    running.wait(running.api(), job.name, JOB_STATE_RUNNING)
    client.stop_job(job)
    return client.wait_job(job)


class TestDeliveries:
    """What waits."""

    def test_tells_what_keeps_them(self, callsd_up: Command, recorded: Job) -> None:
        """Each job that waits has a line, with what went wrong; --json has it whole."""
        found = callsd_up("jobs", "deliveries")
        (line,) = [one for one in found.stdout.splitlines() if recorded.name[5:] in one]
        assert "pending" in line
        (entry,) = [
            one for one in callsd_up.json("jobs", "deliveries") if one["name"] == recorded.name
        ]
        assert entry["delivery"]["state"] == "DELIVERY_STATE_PENDING"
        assert TOKEN not in found.output

    def test_job_tells_of_it(self, callsd_up: Command, recorded: Job) -> None:
        """A job that is looked at says which call it is of, and how far its delivery is."""
        found = callsd_up("jobs", "get", recorded.name).stdout
        assert f"{identifier('c')} at http://127.0.0.1:9" in found
        assert "pending" in found


class TestPublish:
    """Another try."""

    def test_with_a_token(self, callsd_up: Command, recorded: Job, tmp_path: Path) -> None:
        """A token is read from a file, so that no command line shows it."""
        file = tmp_path / "token"
        file.write_text(f"{'t' * 26}\n")
        found = callsd_up("jobs", "publish", recorded.name, "--token-file", file)
        assert "pending" in found.stdout

    def test_what_cannot_be(self, callsd_up: Command, running: Daemon) -> None:
        """A job that has nothing to deliver is told so."""
        name = running.create(running.api()).job.name
        running.wait(running.api(), name)
        found = callsd_up("jobs", "publish", name, exit_code=5)
        assert "has ended with nothing to deliver" in found.output
