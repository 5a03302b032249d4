# SPDX-License-Identifier: Apache-2.0
"""A worker that dies at its first instruction while there is a file `die` in TMPDIR.

It says when it died in the file `deaths`. Else it is the scripted worker.
"""

import os
import runpy
import time
from pathlib import Path


TEMPORARY = Path(os.environ["TMPDIR"])

if __name__ == "__main__":
    if (TEMPORARY / "die").exists():
        with (TEMPORARY / "deaths").open("a") as deaths:
            deaths.write(f"{os.environ['CALLSD_JOB'].partition(':')[0]} {time.time()}\n")
        os._exit(7)
    runpy.run_path(str(Path(__file__).with_name("fake_worker.py")), run_name="__main__")
