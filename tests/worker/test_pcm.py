# SPDX-License-Identifier: Apache-2.0
"""Files as plain samples, for programs without a media library."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.captioner.sound import decoded
from tests.helpers.daemon import SAMPLE_CALL


def decode(path: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run the decoder."""
    command = [sys.executable, "-m", "callsd_worker.media.pcm", str(path)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


class TestPcm:
    """`python -m callsd_worker.media.pcm FILE`."""

    def test_samples_and_length(self) -> None:
        """Stdout has the whole track as s16le, stderr tells its length first."""
        done = decode(SAMPLE_CALL / "nina.ogg")
        expected = decoded("nina")

        samples = np.frombuffer(done.stdout, dtype="<i2").astype(np.float32) / 32767

        assert done.returncode == 0
        assert json.loads(done.stderr.splitlines()[0])["seconds"] == 74.0065
        assert samples.size == expected.size
        assert float(np.abs(samples - expected).max()) < 1e-4

    def test_what_is_no_sound(self, tmp_path: Path) -> None:
        """A file that cannot be decoded is one clear line and exit code 1."""
        (tmp_path / "a.ogg").write_bytes(b"no sound at all")
        done = decode(tmp_path / "a.ogg")

        assert (done.returncode, done.stdout) == (1, b"")
        assert "not a media file" in json.loads(done.stderr)["error"]

    def test_a_reader_that_has_enough(self) -> None:
        """When nobody reads any more the decoder ends, without a complaint."""
        command = [sys.executable, "-m", "callsd_worker.media.pcm", str(SAMPLE_CALL / "nina.ogg")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            said = process.stderr.read().splitlines()
            code = process.wait(30)

        assert code == 0
        assert [list(json.loads(line)) for line in said] == [["seconds"]]
