# SPDX-License-Identifier: Apache-2.0
"""Where the command `callsd` begins."""

import sys


def main() -> None:
    """Run the command line; ends the process with one of the exit codes of `shared.exit`."""
    try:
        from callsd_daemon.cli.root import root
    except ModuleNotFoundError as error:
        # Without extras the distribution is a client library, which brings no click.
        sys.exit(
            f"callsd: the command line needs {error.name}, which is not installed:"
            " pip install 'callsd[daemon]'"
        )
    root()
