# SPDX-License-Identifier: Apache-2.0
"""What a page gets for a microphone and a camera."""

import wave
from pathlib import Path

from callsd_worker.recorder.program_host import ProgramHost


def write_silence(host: ProgramHost) -> tuple[Path, Path]:
    """Files for a silent microphone and a black camera: Chromium's own fakes beep and blink."""
    directory = host.private_directory("silence")
    microphone, camera = directory / "microphone.wav", directory / "camera.y4m"
    with wave.open(str(microphone), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(48_000)
        sound.writeframes(bytes(2 * 48_000))
    width, height = 320, 180
    black = bytes([16]) * (width * height) + bytes([128]) * (width * height // 2)
    header = f"YUV4MPEG2 W{width} H{height} F5:1 Ip A1:1 C420\n".encode()
    camera.write_bytes(header + b"FRAME\n" + black)
    for path in (microphone, camera):
        host.share(path)
    return microphone, camera
