# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 - a program, not a package
"""A real daemon for the tests of this client: does what a line says, answers each by one of JSON.

The only argument is an object with the options of `tests.helpers.daemon.Daemon`, and perhaps the
`port` at which to listen, too. At the end of standard input the daemon and all that it has started
are gone.
"""

import json
import sys
from contextlib import closing

from tests.helpers.daemon import Daemon


def _answer(**facts: str) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _main() -> None:
    options = json.loads(sys.argv[1])
    port = options.pop("port", None)
    with closing(Daemon(**options)) as daemon:
        if port is not None:
            listen = [daemon.address, f"tcp:127.0.0.1:{port}"]
            daemon.settings.setdefault("server", {})["listen"] = listen
        daemon.start()
        _answer(address=daemon.address, tokenFile=str(daemon.token_file), track=str(daemon.track))
        for line in sys.stdin:
            match line.strip():
                case "start":
                    daemon.start()
                case "stop":
                    daemon.stop()
                case "kill":
                    daemon.kill()
                case other:
                    raise SystemExit(f"no such command: {other}")
            _answer()
        if bugs := daemon.bugs():
            raise SystemExit("\n".join(["bugs in the daemon's log:", *bugs]))


if __name__ == "__main__":
    _main()
