# SPDX-License-Identifier: Apache-2.0
"""Where the tests find real weights: `make test` puts them there."""

import os
from pathlib import Path


MODELS_DIRECTORY = Path(
    os.environ.get("CALLSD_TEST_MODELS_DIR", Path(__file__).parents[1] / ".cache" / "models")
)
