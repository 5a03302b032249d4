# SPDX-License-Identifier: Apache-2.0
"""The parameters of the process that records a piece."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from callsd_worker.recorder.quality import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRequest:
    """What to record. `report` and `framebuffer` are descriptors that the process inherits."""

    quality: Quality
    target: Path
    report: int
    framebuffer: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """A request as `text` wrote it."""
        fields: dict[str, Any] = json.loads(text)
        return cls(
            quality=Quality(**fields["quality"]),
            target=Path(fields["target"]),
            report=fields["report"],
            framebuffer=fields["framebuffer"],
        )

    def text(self) -> str:
        """The request as a command line argument."""
        return json.dumps({**asdict(self), "target": str(self.target)})
