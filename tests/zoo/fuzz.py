# SPDX-License-Identifier: Apache-2.0
"""Damages files of every container, and has them decoded: `make fuzz-media SECONDS=300`.

A decoder may refuse a file, or crash: it is in a worker of its own. It must not take more memory
or time than its worker has. A file that makes it crash, or take too much, is kept.
"""

import argparse
import json
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.zoo.cases import make, source, usual
from tests.zoo.forms import FORMS, REFUSED


MAX_BYTES = 400 * 1024**2
MAX_SECONDS = 20.0
"""For four seconds of sound; it takes a few hundredths."""

DECODER = """
import json, resource, sys
from pathlib import Path
from callsd_worker.media.decode import AudioStream, MediaError
for line in sys.stdin:
    outcome = "decoded"
    try:
        with AudioStream(Path(line.strip())) as stream:
            stream.declared_seconds
            for block in stream.blocks():
                pass
    except MediaError as error:
        outcome = "refused"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([outcome, peak]), flush=True)
"""


def whole(directory: Path) -> dict[str, bytes]:
    """A file of each container."""
    sentence = source(directory / "source.wav")
    files = {}
    for container, codecs in FORMS.items():
        path = directory / container
        if container not in REFUSED and make(usual(container, codecs.split()[0]), sentence, path):
            files[container] = path.read_bytes()
    return files


@dataclass(slots=True)
class Tally:
    """What became of the damaged files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    slowest_seconds: float = 0.0
    kept: list[Path] = field(default_factory=list)


class Decoder:
    """A process that decodes what it is told, until it dies of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DECODER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def decode(self, path: Path) -> tuple[str, int]:
        """What became of a file, and the most memory so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        if not _is_readable(self._process.stdout):
            return "hung", 0
        line = self._process.stdout.readline()
        if not line:
            return f"crashed ({self._process.wait(MAX_SECONDS)})", 0
        outcome, peak_bytes = json.loads(line)
        return outcome, peak_bytes

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _is_readable(stream: IO[str]) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(MAX_SECONDS))


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The file with one to eight things wrong, more often near its beginning."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at = int(len(data) * chance.random() ** chance.choice((1, 4)))
        length = min(chance.choice((1, 4, 8, 64, 1024)), len(data) - at)
        match chance.randrange(6):
            case 0:
                data[at : at + length] = chance.randbytes(length)
            case 1:
                data[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f")) * length
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[max(at, 1) :]
            case _:
                other = int(len(data) * chance.random())
                data[at : at + length] = data[other : other + length]
    return bytes(data)


def fuzz(samples: dict[str, bytes], *, seconds: float, seed: int, keep: Path) -> Tally:
    """Decode damaged files for so long; `samples` are whole ones, by container."""
    tally = Tally()
    decoder = Decoder()
    deadline = time.monotonic() + seconds
    number = seed
    while time.monotonic() < deadline:
        container = sorted(samples)[number % len(samples)]
        path = keep / f"{container}-{number}"
        path.write_bytes(damaged(samples[container], random.Random(number)))  # noqa: S311
        began = time.monotonic()
        outcome, peak_bytes = decoder.decode(path)
        tally.slowest_seconds = max(tally.slowest_seconds, time.monotonic() - began)
        tally.peak_bytes = max(tally.peak_bytes, peak_bytes)
        is_large = peak_bytes > MAX_BYTES
        tally.outcomes["large" if is_large else outcome] += 1
        if is_large or outcome not in {"decoded", "refused"}:
            tally.kept.append(path)
            decoder.close()
            decoder = Decoder()
        else:
            path.unlink()
        number += 1
    decoder.close()
    return tally


def main() -> int:
    """Run, and tell what was found; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first file")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz-media"))
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        samples = whole(Path(directory))
    tally = fuzz(samples, seconds=options.seconds, seed=options.seed, keep=options.keep)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in tally.outcomes.most_common())
    lines = [
        f"{sum(tally.outcomes.values())} files of {len(samples)} containers: {outcomes}",
        f"most memory {tally.peak_bytes / 1e6:.0f} MB, slowest {tally.slowest_seconds:.1f} s",
        *(f"kept {path}" for path in tally.kept),
    ]
    sys.stdout.write("\n".join([*lines, ""]))
    return 1 if tally.kept else 0


if __name__ == "__main__":
    sys.exit(main())
