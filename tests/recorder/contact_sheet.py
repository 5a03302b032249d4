# SPDX-License-Identifier: Apache-2.0
"""Records every page of the zoo for some seconds, and shows the end of each on one picture.

For what no test can judge, such as glyphs: `make page-zoo`.
"""

import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from callsd_worker.recorder.web_source import Page
from tests.helpers.recordings import SMALL, Recording, recording_of
from tests.helpers.waiting import eventually
from tests.recorder.zoo import SCRIPTS, Zoo


COLUMNS = 4
SECONDS = 4.0

Picture = npt.NDArray[np.uint8]


def last_picture(zoo: Zoo, name: str) -> Picture:
    """The last picture of a page's recording, as it is watched."""
    zoo.go.clear()
    page = Page(url=zoo.url(name), ready_expression="window.isReady", ready_timeout_seconds=10.0)
    with tempfile.TemporaryDirectory() as directory, recording_of(page, Path(directory)) as made:
        eventually(lambda: is_enough(made, 1.0), f"the recording of {name} begins", seconds=60)
        zoo.go.set()
        eventually(lambda: is_enough(made, SECONDS), f"the recording of {name}", seconds=60)
        made.end()
        _, path = made.join()
        with av.open(str(path)) as file:
            *_, frame = file.decode(video=0)
        return frame.to_ndarray(format="rgb24").astype(np.uint8)


def is_enough(made: Recording, seconds: float) -> bool:
    """Whether so much is recorded; it may have ended by itself."""
    health = made.statuses[-1].health if made.statuses else None
    return bool(made.ending or made.error or (health and health.recorded_seconds >= seconds))


def main(target: str) -> None:
    """Make the sheet."""
    pictures = []
    with Zoo() as zoo:
        for name in SCRIPTS:
            print(name, flush=True)  # noqa: T201 - a script
            pictures.append(last_picture(zoo, name))
    blank = np.full((SMALL.height, SMALL.width, 3), 255, np.uint8)
    pictures += [blank] * (-len(pictures) % COLUMNS)
    rows = [np.hstack(pictures[at : at + COLUMNS]) for at in range(0, len(pictures), COLUMNS)]
    sheet = av.VideoFrame.from_ndarray(np.vstack(rows), format="rgb24")
    with av.open(target, "w", format="image2") as file:
        stream = file.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = sheet.width, sheet.height, "rgb24"
        file.mux(stream.encode(sheet))


if __name__ == "__main__":
    main(sys.argv[1])
