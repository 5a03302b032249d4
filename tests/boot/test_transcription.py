# SPDX-License-Identifier: Apache-2.0
"""Transcriptions whose workers are units."""

import json
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests.boot.service import CALL, MODEL, STATE, Service, transcriber


pytestmark = pytest.mark.timeout(240)

ROUNDS = 2
"""So often each speaker's sound is given, so that there is something to interrupt."""


class TestTranscription:
    """From the request to the transcript."""

    def test_it_survives_the_daemon(self, service: Service) -> None:
        """Restart and kill -9 of the daemon change neither worker nor transcript."""
        undisturbed = service.transcribe(rounds=ROUNDS)
        service.wait(undisturbed)
        job = service.transcribe(rounds=ROUNDS)
        worker = service.process(transcriber(job))
        assert worker
        service.restart()
        assert service.process(transcriber(job)) == worker
        service.kill()
        assert service.process(transcriber(job)) == worker
        found = service.wait(job)
        assert not found.notices
        assert found.attempt == 1
        assert service.transcript(job) == service.transcript(undisturbed)

    def test_it_is_held_to_what_it_is_charged(self, service: Service) -> None:
        """Cores and memory are bounded by the reservation; batch work has little weight."""
        job = service.transcribe()
        reservation = service.job(job).reservation
        unit, show = transcriber(job), service.machine.show
        assert show(unit, "CPUQuotaPerSecUSec") == f"{reservation.cores:g}s"
        assert show(unit, "CPUWeight") == "20"
        assert int(show(unit, "MemoryMax")) == 2 * reservation.memory_bytes
        assert show(unit, "Slice") == "callsd-workers.slice"
        service.stop(job)

    def test_it_sees_its_own_only(self, service: Service) -> None:
        """A worker sees its own directory and the daemon's socket: no model, no upload, no store.

        What it was told is gone from the disk.
        """
        job = service.transcribe()
        root = f"/proc/{service.process(transcriber(job))}/root"
        places = {
            STATE: ["workers"],
            f"{STATE}/workers": [job],
            "/run": ["callsd", "systemd"],
            "/run/systemd": ["incoming"],  # systemd's own way into the mounts of a unit
            "/run/systemd/incoming": [],
            "/run/callsd": ["bootstrap", "workers"],
            "/run/callsd/workers": ["door.sock", "files.sock"],
            "/run/callsd/bootstrap": [job],
            f"/run/callsd/bootstrap/{job}": [],
        }
        listed = {path: service.machine.run("ls", "-A", root + path).split() for path in places}
        assert listed == places
        service.stop(job)

    def test_each_has_a_user_of_its_own(self, service: Service) -> None:
        """Two workers share no user with each other, nor with the daemon."""
        jobs = [service.transcribe() for _ in range(2)]
        pids = [service.process(), *(service.process(transcriber(job)) for job in jobs)]
        users = {service.machine.run("stat", "-c", "%u", f"/proc/{pid}").strip() for pid in pids}
        assert len(users) == 3
        assert "0" not in users
        for job in jobs:
            service.stop(job)

    def test_the_death_of_a_worker_is_told(self, service: Service) -> None:
        """What killed a worker is known to a daemon that did not start it; the job goes on."""
        job = service.transcribe()
        service.restart()
        service.machine.run("kill", "-KILL", str(service.process(transcriber(job))))
        found = service.wait(job)
        assert found.attempt == 2
        assert "killed by SIGKILL" in found.notices[0].message


class TestUpload:
    """Files that the daemon cannot read by itself."""

    def test_what_lies_elsewhere_is_uploaded(self, service: Service, tmp_path: Path) -> None:
        """A track outside of every media root is sent, and transcribed; --follow shows how."""
        run, track = service.machine.run, "/home/ann/nina.ogg"
        run("useradd", "--create-home", "--groups", "callsd", "ann")
        run("install", "-m", "0600", "-o", "ann", f"{CALL}/nina.ogg", track)
        token = service.callsd("tokens", "create", "ann").strip()
        (service.machine.root / "home/ann/token").write_text(token)
        run("chown", "ann:", "/home/ann/token")
        said = service.callsd(
            *("--token-file", "/home/ann/token", "jobs", "create", "--follow"),
            *(f"--track=nina={track}", "--output", "/home/ann/out"),
            user="ann",
            seconds=120,
        )
        assert "job: " in said
        assert "WEBVTT" in run("cat", "/home/ann/out/transcript.vtt")
        with service.client() as client:
            job = next(iter(client.list_jobs()))
        assert job.creator == "ann"
        assert job.transcription.tracks[0].upload.startswith("uploads/")

    def test_watchers_see_each_state(self, service: Service, tmp_path: Path) -> None:
        """`callsd jobs watch` tells of a job from when it is made to its end."""
        output = tmp_path / "watch.txt"
        track = (f"nina={CALL}/nina.ogg",)
        job = service.transcribe(tracks=track)
        with service.running(output, "--json", "jobs", "watch", job) as watching:
            service.wait(job)
            assert watching.wait(30) == 0
        told = [json.loads(line)["job_changed"] for line in output.read_text().splitlines()]
        states = list(dict.fromkeys(change["state"] for change in told))
        assert states[-2:] == ["JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
        assert told[-1]["transcription"]["model"] == MODEL
        assert service.job(job).state == JOB_STATE_SUCCEEDED
