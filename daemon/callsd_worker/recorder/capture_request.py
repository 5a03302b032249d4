# SPDX-License-Identifier: Apache-2.0
"""What the process that captures a piece is told."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from callsd_worker.recorder.quality import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """What to record. Descriptors are those that the process has inherited."""

    quality: Quality
    target: Path
    report: int
    framebuffer: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """An order as text() wrote it."""
        said: dict[str, Any] = json.loads(text)
        return cls(
            quality=Quality(**said["quality"]),
            target=Path(said["target"]),
            report=said["report"],
            framebuffer=said["framebuffer"],
        )

    def text(self) -> str:
        """For a command line."""
        return json.dumps({**asdict(self), "target": str(self.target)})
