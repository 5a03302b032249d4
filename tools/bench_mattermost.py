# SPDX-License-Identifier: Apache-2.0
"""`make bench-mattermost`: how well calls of Mattermost are captioned, captured and transcribed.

The Mattermost is the one of the tests; people play the sample call there, again and again, while
it is recorded. Everything else is real. Told are, for each call:

- captions: how long after a word was said it was shown in the call. When a word was said is taken
  from its place in its turn, as if each letter took as long as the next one.
- capture: where in the file of each speaker the sound lies that was played, at the beginning and
  at the end of the call, by correlation; what the worker took.
- transcript: word error rate, beside that of the same call transcribed from its files; where its
  lines begin against the picture of the recording.
"""

import argparse
import asyncio
import itertools
import re
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from demo import CALL, MODELS, PULL_TIMEOUT_SECONDS, ROOT, daemon, run, step
from demo_mattermost import gateway, mixed, posted
from numpy.typing import NDArray
from whisper_normalizer.english import EnglishTextNormalizer

from callsd import Client
from callsd.v1 import job_pb2
from callsd_bench.recording.measure import flashes
from callsd_bench.shared.accuracy import HeardSegment, word_error_rate
from callsd_bench.shared.call import Call as Reference
from callsd_bench.shared.call import Turn, load_call
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream


sys.path.insert(0, str(ROOT))

from tests.helpers.ports import free_port
from tests.mattermost.impairments import Impairment
from tests.mattermost.opus_packets import SILENCE, of_sound
from tests.mattermost.participants import Participant
from tests.mattermost.server import HostError, MattermostServer
from tests.mattermost.state import Call, Job, JobType


PERIOD_SECONDS = 80.0
"""After this the sample call is said again."""

SHIFT_SECONDS = 40.0
"""So much later the fifth to eighth speaker say what the first four have said."""

PACKET_SECONDS = 0.02
FLASH_SECONDS = 2.01
"""As the page of the tests has it."""

START_SECONDS = 60.0
PUBLISH_SECONDS = 300.0
SAMPLE_SECONDS = 1.0

CLIP_SECONDS = 4.0
SEARCH_SECONDS = 1.5
"""How far a clip may lie from where it should, to be found."""

EARLY_SECONDS = 0.5
"""So much earlier than it was said, as far as we know, may a word be shown."""

LONGEST_SECONDS = 20.0
SOON_SECONDS = 2.0
SAME_SECONDS = 1.0

_CUE = re.compile(r"(\d+):(\d\d):(\d\d\.\d+) --> .*\n<v ([^>]*)>\([^)]*\) (.*)")

Samples = NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class Running:
    """A call that is measured."""

    call: Call
    job: Job
    capture_id: str
    """Of our job."""
    seconds: float
    people: dict[str, Participant]
    """By name."""
    turns: list[Turn]
    """In seconds from when their speaker began to play, all within some milliseconds."""


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=PERIOD_SECONDS, help="of each call")
    parser.add_argument("--speakers", type=int, default=4, choices=range(1, 9), metavar="1-8")
    parser.add_argument("--calls", type=int, default=1, help="at once")
    parser.add_argument("--model", default="tiny.en", help="for captions and transcripts")
    parser.add_argument("--no-captions", action="store_true")
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets that are lost")
    parser.add_argument("--jitter", type=float, default=0.0, help="seconds")
    parser.add_argument(
        "--all", action="store_true", help="take all calls, though there be no room for them"
    )
    options = parser.parse_args()
    step(f"the model {options.model}")
    run(
        *("models", "pull", options.model, "--models-dir", str(MODELS)),
        timeout_seconds=PULL_TIMEOUT_SECONDS,
    )
    port = free_port()
    settings = gateway(port, options.model)
    if options.all:
        settings["CALLSD_ADMISSION_ENFORCED"] = "false"
    with tempfile.TemporaryDirectory(prefix="callsd-bench-") as directory:
        place = Path(directory)
        with daemon(place, **settings) as address:
            asyncio.run(measure(options, place, port, address))
    return 0


async def measure(options: argparse.Namespace, place: Path, port: int, address: str) -> None:
    """All calls, from the click to the thread."""
    sample = await asyncio.to_thread(mixed, place / "call.wav")
    async with MattermostServer(sample=sample) as server:
        await server.activate(f"http://127.0.0.1:{port}", "bench", secrets.token_hex(16))
        step(f"{options.calls} calls of {options.seconds:g} s with {options.speakers} speakers")
        begun = [begin(server, options, number) for number in range(options.calls)]
        found = [one for one in [await one for one in begun] if one is not None]
        await listen(found, options.seconds)
        for one in found:
            await server.stop_recording(one.call)
        for one in found:
            transcript = await posted(
                server, one.call, "custom_calls_transcription", PUBLISH_SECONDS + options.seconds
            )
            (recording,) = [
                post for post in server.thread(one.call) if post.type == "custom_calls_recording"
            ]
            (captions,) = transcript.props["captions"]
            ids = (captions["file_id"], recording.file_ids[0])
            paths = [server.state.files[file_id].path for file_id in ids]
            with Client(address) as client:
                job = client.get_job(one.capture_id)
            artifacts = place / "state" / "jobs" / one.capture_id / "artifacts"
            await asyncio.to_thread(tell, one, job, artifacts, paths)
    await asyncio.to_thread(from_files, options.model, place, address)


async def begin(
    server: MattermostServer, options: argparse.Namespace, number: int
) -> Running | None:
    """Have a call recorded in which people talk; None if that is refused."""
    reference = load_call(CALL)
    users, turns, sounds = [], list[Turn](), []
    for index in range(options.speakers):
        track = reference.tracks[index % len(reference.tracks)]
        shift = index // len(reference.tracks) * SHIFT_SECONDS
        name = f"{track.speaker}{index // len(reference.tracks) or ''}"
        users.append(server.add_user(f"{name}-{number}", name))
        sounds.append(again(track.path, shift, options.seconds))
        turns += spoken(reference, track.speaker, name, shift, options.seconds)
    call = server.start_call(users=users, channel=f"Call {number + 1}")
    extras = {"webvtt_omit_speaker": "false"}
    if options.no_captions:
        extras["live_captions_on"] = "false"
    try:
        job = await server.start_recording(
            call, max_duration_seconds=7200, transcriber_extras=extras
        )
    except HostError as refused:
        print(f"    call {number + 1} is refused: {refused.message}")
        return None
    await server.until(
        lambda: job.start_at or job.end_at, "it started", timeout_seconds=START_SECONDS
    )
    if job.err:
        sys.exit(f"bench: the recording did not start: {job.err}")
    network = Impairment(loss=options.loss, jitter_seconds=options.jitter, seed=number + 1)
    people = {
        user.first_name: await server.participant(call, user, impairment=network) for user in users
    }
    await asyncio.gather(
        *(person.play(sound) for person, sound in zip(people.values(), sounds, strict=True))
    )
    (capture,) = (one for one in call.jobs if one.type is JobType.TRANSCRIBING)
    return Running(
        call=call,
        job=job,
        capture_id=capture.job_id,
        seconds=options.seconds,
        people=people,
        turns=turns,
    )


def again(track: Path, shift_seconds: float, seconds: float) -> list[bytes]:
    """The packets of a track, played again after each period."""
    period, shift = round(PERIOD_SECONDS / PACKET_SECONDS), round(shift_seconds / PACKET_SECONDS)
    said = list(of_sound(track))
    said += [SILENCE] * (period - len(said))
    endless = itertools.chain([SILENCE] * shift, itertools.cycle(said))
    return list(itertools.islice(endless, round(seconds / PACKET_SECONDS)))


def spoken(
    reference: Reference, speaker: str, name: str, shift: float, seconds: float
) -> Iterator[Turn]:
    """What somebody says in the whole call."""
    for start in np.arange(shift, seconds, PERIOD_SECONDS):
        for turn in reference.turns:
            if turn.speaker == speaker and start + turn.end_seconds < seconds - 1.0:
                yield replace(
                    turn,
                    speaker=name,
                    start_seconds=start + turn.start_seconds,
                    end_seconds=start + turn.end_seconds,
                )


async def listen(found: Sequence[Running], seconds: float) -> None:
    """Let the calls go on; show how far they are."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        shown = sum(len(one.call.captions) for one in found)
        if sys.stdout.isatty():
            print(f"\r    {seconds - left:5.0f} s, {shown} captions", end="", flush=True)
        await asyncio.sleep(min(left, SAMPLE_SECONDS))
    print()


def tell(one: Running, job: job_pb2.Job, artifacts: Path, paths: Sequence[Path]) -> None:
    """The figures of a call; `paths` are its transcript and its recording."""
    step("captions")
    tell_captions(one)
    step("capture")
    cores, megabytes = job.usage.cpu_seconds / one.seconds, job.usage.peak_memory_bytes / 1e6
    print(f"    worker: {cores / len(one.people):.4f} cores a speaker, {megabytes:.0f} MB at most")
    tell_places(one, job, artifacts)
    step("transcript")
    heard = cues(paths[0])
    call = Reference(name="call", duration_seconds=one.seconds, tracks=(), turns=tuple(one.turns))
    print(f"    word error rate {word_error_rate([call], [heard]):.1%}")
    tell_sync(one, heard, flashes(paths[1]))


def tell_captions(one: Running) -> None:
    """How long after it was said each word was shown."""
    names = {person.session_id: name for name, person in one.people.items()}
    normalise = EnglishTextNormalizer()
    shown = defaultdict[str, list[tuple[float, list[str]]]](list)
    for caption in one.call.captions:
        name = names[caption.session_id]
        words = normalise(caption.text).split()
        shown[name].append((caption.time_seconds - one.people[name].began_seconds, words))
    delays = [
        delay for turn in one.turns for delay in word_delays(turn, shown[turn.speaker], normalise)
    ]
    if not delays:
        return
    values = np.array(delays)
    print(f"    {len(one.call.captions)} captions, {one.call.dropped_messages} dropped")
    print(
        f"    {np.mean(values < SOON_SECONDS):.1%} of {len(values)} words within {SOON_SECONDS:g} s"
    )
    seen = values[np.isfinite(values)]
    median, late = np.percentile(seen, 50), np.percentile(seen, 98)
    print(f"    median {median:.2f} s, 98th percentile {late:.2f} s", end="")
    print(f", never shown {np.mean(np.isinf(values)):.1%}")


def word_delays(
    turn: Turn, shown: Sequence[tuple[float, list[str]]], normalise: EnglishTextNormalizer
) -> Iterator[float]:
    """For each word of a turn how late it was shown; infinite: never."""
    words = normalise(turn.text).split()
    letters = np.cumsum([len(word) + 1 for word in words])
    length = turn.end_seconds - turn.start_seconds
    ends = turn.start_seconds + letters / letters[-1] * length
    for word, end in zip(words, ends, strict=True):
        times = (
            at
            for at, text in shown
            if end - EARLY_SECONDS < at < turn.end_seconds + LONGEST_SECONDS and word in text
        )
        yield next(times, np.inf) - end


def tell_places(one: Running, job: job_pb2.Job, artifacts: Path) -> None:
    """How far the sound of each speaker lies from where it was played."""
    reference = load_call(CALL)
    tracks = {track.speaker: track.path for track in reference.tracks}
    for captured in job.capture_result.tracks:
        began = (
            captured.start_time.ToNanoseconds() / 1e9 - one.people[captured.speaker].began_seconds
        )
        kept = samples(artifacts / captured.file_name)
        played = samples(tracks[captured.speaker.rstrip("1")])
        mine = [turn for turn in one.turns if turn.speaker == captured.speaker]
        places = []
        for turn in (mine[0], mine[-1]):
            (said,) = (
                other.start_seconds
                for other in reference.turns
                if other.speaker == captured.speaker.rstrip("1") and other.text == turn.text
            )
            length = min(CLIP_SECONDS, turn.end_seconds - turn.start_seconds)
            clip = cut(played, said, length)
            around = cut(
                kept, turn.start_seconds - began - SEARCH_SECONDS, length + 2 * SEARCH_SECONDS
            )
            places.append(lag(around, clip) - SEARCH_SECONDS)
        first, last = (f"{1000 * place:+.1f} ms" for place in places)
        print(f"    {captured.speaker}: sound lies {first} at the beginning, {last} at the end")


def samples(path: Path) -> Samples:
    """The sound of a file, at 16 kHz."""
    with AudioStream(path) as stream:
        blocks = [(block.start_sample, block.samples) for block in stream.blocks()]
    total = np.zeros(max(start + len(block) for start, block in blocks), np.float32)
    for start, block in blocks:
        total[start:][: len(block)] = block
    return total


def cut(sound: Samples, start_seconds: float, length_seconds: float) -> Samples:
    """A part of a sound; silence where there is none."""
    start, length = round(start_seconds * SAMPLE_RATE_HZ), round(length_seconds * SAMPLE_RATE_HZ)
    padded = np.concatenate([np.zeros(max(-start, 0), np.float32), sound[max(start, 0) :]])[:length]
    return np.pad(padded, (0, length - len(padded)))


def lag(around: Samples, clip: Samples) -> float:
    """Where in `around` the clip begins, in seconds."""
    size = len(around) + len(clip)
    product = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(clip, size)), size)
    return float(np.argmax(product[: len(around)])) / SAMPLE_RATE_HZ


def cues(path: Path) -> list[HeardSegment]:
    """The lines of a transcript."""
    return [
        HeardSegment(
            speaker=name,
            start_seconds=int(hours) * 3600 + int(minutes) * 60 + float(seconds),
            text=text,
        )
        for hours, minutes, seconds, name, text in _CUE.findall(path.read_text(encoding="utf-8"))
    ]


def tell_sync(one: Running, heard: Sequence[HeardSegment], seen: NDArray[np.float64]) -> None:
    """Where lines begin against the picture, of which the flashes tell the time."""
    # The page flashes at whole periods of Unix time. Which of them is seen first is not told: it is
    # the one by which the lines fit best.
    rough = one.job.start_at / 1000
    away = np.median((FLASH_SECONDS / 2 - seen - rough) % FLASH_SECONDS) - FLASH_SECONDS / 2
    zeros = [rough + away - count * FLASH_SECONDS for count in range(4)]
    late = min((lateness(one.turns, heard, zero, one.people) for zero in zeros), key=fitness)
    print(f"    lines begin {told(late)} after they are said, by the picture")


def fitness(late: Sequence[float]) -> float:
    """The less, the better."""
    return abs(float(np.median(late))) if late else np.inf


def lateness(
    turns: Sequence[Turn],
    heard: Sequence[HeardSegment],
    zero: float = 0.0,
    people: Mapping[str, Participant] | None = None,
) -> list[float]:
    """How much later than each turn the line that is nearest begins, in seconds."""
    late = []
    for turn in turns:
        began = people[turn.speaker].began_seconds if people else 0.0
        away = [
            line.start_seconds - (began + turn.start_seconds - zero)
            for line in heard
            if line.speaker == turn.speaker
        ]
        late += [one for one in sorted(away, key=abs)[:1] if abs(one) < SAME_SECONDS]
    return late


def told(late: Sequence[float]) -> str:
    """Times as text."""
    if not late:
        return "nowhere near to when"
    low, median, high = np.percentile(late, (5, 50, 95)) * 1000
    return f"{median:+.0f} ms (median of {len(late)}; 5 to 95 %: {low:+.0f} to {high:+.0f} ms)"


def from_files(model: str, place: Path, address: str) -> None:
    """The same figures of the sample call, transcribed from its files."""
    step("the sample call from its files")
    out = place / "out"
    run(
        *("--address", address, "jobs", "create", "--call", str(CALL), "--model", model),
        *("--follow", "--output", str(out)),
        timeout_seconds=PUBLISH_SECONDS,
    )
    call, heard = load_call(CALL), cues(out / "transcript.vtt")
    print(f"    word error rate {word_error_rate([call], [heard]):.1%}")
    print(f"    lines begin {told(lateness(call.turns, heard))} after they are said")


if __name__ == "__main__":
    sys.exit(main())
