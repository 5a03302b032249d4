# SPDX-License-Identifier: Apache-2.0
"""`python -m callsd_worker`: started by the daemon's launcher, never by hand."""

import sys

from callsd_worker.main import main


sys.exit(main())
