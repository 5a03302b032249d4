# SPDX-License-Identifier: Apache-2.0
"""`make demo-mattermost`: a call of Mattermost is captioned, recorded and transcribed.

The Mattermost is the one of the tests, which speaks as the real one does; it plays the sample call
for a minute. Everything else is real: the daemon, its gateway, the browser, the upload.
"""

import argparse
import asyncio
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from demo import CALL, MODEL, MODELS, PULL_TIMEOUT_SECONDS, ROOT, daemon, run, step

from callsd_bench.recording.measure import measure
from callsd_bench.shared.call import load_call
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream


sys.path.insert(0, str(ROOT))

from tests.helpers.ports import free_port
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import Call, Post


RECORDING = ROOT / ".cache" / "demo-mattermost.mp4"
START_SECONDS = 60.0
PUBLISH_SECONDS = 60.0
TRANSCRIPT_SECONDS = 120.0
MAX_SYNC_MS = 80.0
FPS = 20.0
"""Of the quality that the plugin asks for."""


def main() -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the call")
    seconds = parser.parse_args().seconds
    step(f"the model {MODEL} (fetched once, kept in {MODELS.relative_to(ROOT)})")
    run(
        *("models", "pull", MODEL, "--models-dir", str(MODELS)),
        timeout_seconds=PULL_TIMEOUT_SECONDS,
    )
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="callsd-demo-") as directory:
        place = Path(directory)
        sample = mixed(place / "call.wav")
        step("a daemon of its own, with a gateway")
        with daemon(place, **gateway(port, MODEL)) as address:
            print(f"    the plugin's Job service URL: http://127.0.0.1:{port}")
            status = asyncio.run(show(port, sample, seconds, address))
            step("stopping the daemon")
    return status


def gateway(port: int, model: str) -> dict[str, str]:
    """Settings of a daemon that a plugin may use, with this model for everything."""
    return {
        "CALLSD_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "CALLSD_GATEWAY_SELF_REGISTRATION": "true",
        "CALLSD_TRANSCRIPTION_MODEL": model,
        "CALLSD_CAPTIONS_MODEL": model,
    }


def mixed(target: Path) -> Path:
    """The sample call's tracks as one sound."""
    call = load_call(CALL)
    total = np.zeros(round(call.duration_seconds * SAMPLE_RATE_HZ) + SAMPLE_RATE_HZ, np.float32)
    for track in call.tracks:
        with AudioStream(track.path) as stream:
            for block in stream.blocks():
                total[block.start_sample :][: len(block.samples)] += block.samples
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((np.clip(total, -1, 1) * 32767).astype(np.int16).tobytes())
    return target


async def show(port: int, sample: Path, seconds: float, address: str) -> int:
    """The course of a recording, as host, plugin and viewer see it; returns the exit status."""
    step("a Mattermost with a call; its plugin asks the gateway for its version")
    async with MattermostServer(sample=sample) as server:
        await server.activate(f"http://127.0.0.1:{port}", "demo", secrets.token_hex(16))
        sample_call = load_call(CALL)
        users = [
            server.add_user(track.speaker.lower(), track.speaker) for track in sample_call.tracks
        ]
        call = server.start_call(users=users)
        print(f"    {server.url}, {len(call.sessions)} in the call")
        step("the host presses record")
        began = time.monotonic()
        job = await server.start_recording(call)
        print(f"    accepted, with its transcription, after {time.monotonic() - began:.2f} s")
        await server.until(
            lambda: job.start_at or job.end_at, "it has started", timeout_seconds=START_SECONDS
        )
        if job.err:
            sys.exit(f"demo: the recording did not start: {job.err}")
        print(f"    the host sees that it records after {time.monotonic() - began:.1f} s")
        step("they talk; what is captioned in the call:")
        people = [await server.participant(call, user) for user in users]
        for person, track in zip(people, sample_call.tracks, strict=True):
            await person.play(track.path)
        names = {user.id: user.first_name for user in users}
        await progress(seconds, call, names)
        step("the host presses stop")
        stopped = time.monotonic()
        await server.stop_recording(call)
        post = await posted(server, call, "custom_calls_recording", PUBLISH_SECONDS)
        print(f"    the recording is in the thread after {time.monotonic() - stopped:.1f} s")
        shutil.copyfile(server.state.files[post.file_ids[0]].path, RECORDING)
        post = await posted(server, call, "custom_calls_transcription", TRANSCRIPT_SECONDS)
        print(f"    its transcript after {time.monotonic() - stopped:.1f} s")
        step("the thread")
        for post in server.thread(call):
            files = [server.state.files[file_id] for file_id in post.file_ids]
            named = ", ".join(f"{file.name} ({file.size:,} bytes)" for file in files)
            print(f"    {post.message}: {named}")
        step("the transcript, made of what each of them said")
        print(server.state.files[post.file_ids[0]].path.read_text(encoding="utf-8"))
    step("callsd jobs deliveries --all")
    await asyncio.to_thread(
        run, "--address", address, "jobs", "deliveries", "--all", timeout_seconds=30.0
    )
    return verdict(seconds)


async def posted(server: MattermostServer, call: Call, kind: str, seconds: float) -> Post:
    """The one post of this kind in the thread, as soon as it is there."""

    def found() -> list[Post]:
        return [post for post in server.thread(call) if post.type == kind]

    (post,) = await server.until(found, f"a post {kind}", timeout_seconds=seconds)
    return post


async def progress(seconds: float, call: Call, names: Mapping[str, str]) -> None:
    """Let the call go on, and show what is captioned in it."""
    end, shown = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        for caption in call.captions[shown:]:
            print(f"    {seconds - left:5.1f} s  {names[caption.user_id]}: {caption.text}")
        shown = len(call.captions)
        await asyncio.sleep(min(left, 0.1))
    print(f"    {shown} captions in {seconds:g} s of call")


def verdict(seconds: float) -> int:
    """What is in the file, and whether it is as it should be."""
    step("what is in the recording")
    subprocess.run(
        [
            *("ffprobe", "-v", "error", "-of", "default=noprint_wrappers=1"),
            *("-show_entries", "stream=codec_name,width,height,avg_frame_rate"),
            *("-show_entries", "format=format_name,duration,size", str(RECORDING)),
        ],
        check=True,
        timeout=PUBLISH_SECONDS,
    )
    found = measure(RECORDING, fps=FPS)
    syncs = (found.sync_ms_start, found.sync_ms_end)
    told = " and ".join("none" if sync is None else f"{sync:+.0f} ms" for sync in syncs)
    print(f"    sound against picture, at start and end: {told} (within {MAX_SYNC_MS:g})")
    print(f"    play it: {RECORDING.relative_to(ROOT)}")
    is_in_sync = all(sync is not None and abs(sync) <= MAX_SYNC_MS for sync in syncs)
    if not is_in_sync or found.duration_seconds < seconds:
        print("demo: the recording is not as it should be")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
