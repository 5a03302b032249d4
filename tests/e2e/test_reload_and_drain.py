# SPDX-License-Identifier: Apache-2.0

import signal
import time

import pytest

from callsd import Client, UnavailableError
from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests.conftest import StartDaemon
from tests.helpers.waiting import eventually


class TestReload:
    """SIGHUP."""

    def test_new_settings_hold(self, daemon: StartDaemon) -> None:
        """What can change at once does, for what comes after it; the log says what has changed."""
        one = daemon()
        client = one.client()
        assert client.get_capacity().max_concurrent_jobs == 0
        one.settings["jobs"]["max_concurrent_jobs"] = 3
        one.settings["server"] = {"max_watches": 5}
        one.write_config()
        one.signal(signal.SIGHUP)
        eventually(lambda: client.get_capacity().max_concurrent_jobs == 3, "it holds")
        (told,) = one.events("reloaded")
        assert set(told["changed"]) == {"jobs.max_concurrent_jobs", "server.max_watches"}
        assert told["needs_restart"] == ["server.max_watches"]

    def test_a_mistake_changes_nothing(self, daemon: StartDaemon) -> None:
        """A configuration that cannot be used is reported, and all stays as it was."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 2}})
        client = one.client()
        one.config_file.write_text("[jobs]\nmax_concurrent_jobs = -1\n")
        one.signal(signal.SIGHUP)
        (told,) = eventually(lambda: one.events("reload_failed"), "it is told")
        assert "max_concurrent_jobs is -1" in told["problem"]
        assert client.get_capacity().max_concurrent_jobs == 2
        assert one.create(one.api()).job.name


class TestDrain:
    """SIGTERM with server.drain_live_seconds."""

    def test_live_jobs_may_end(self, daemon: StartDaemon) -> None:
        """No new job is taken, but a call that goes on is captioned to its end."""
        one = daemon(is_real=True, config={"server": {"drain_live_seconds": 60}})
        client = one.client()
        job = client.create_job(CaptionsSpec()).job
        with client.stream_captions(job) as sender:
            sender.joined("u1", display_name="Ada")
            sender.send("u1", bytes(32_000), 0.0)
            one.signal(signal.SIGTERM)
            eventually(lambda: one.events("draining"), "it drains")
            with Client(one.address, token_file=one.token_file) as other:
                assert not other.is_serving()
                with pytest.raises(UnavailableError) as caught:
                    other.create_job(CaptionsSpec(), timeout_seconds=1)
                assert caught.value.reason == "DRAINING"
            sender.send("u1", bytes(32_000), 1.0)
        assert one.process is not None
        assert one.process.poll() is None
        client.stop_job(job)
        began = time.monotonic()
        assert one.wait_dead() == 0
        assert time.monotonic() - began < 30
        one.start()
        assert one.client().get_job(job).state == JOB_STATE_SUCCEEDED

    def test_patience_ends(self, daemon: StartDaemon) -> None:
        """A live job that does not end is left to the next daemon when the time is up."""
        one = daemon(is_real=True, config={"server": {"drain_live_seconds": 1}})
        client = one.client()
        job = client.create_job(CaptionsSpec()).job
        one.signal(signal.SIGTERM)
        assert one.wait_dead() == 0
        one.start()
        assert not one.client().get_job(job).HasField("failure")
