# SPDX-License-Identifier: Apache-2.0
"""Plays the scenario of clients/conformance with the drivers of all client libraries.

    pytest tests/conformance/play.py [--driver NAME]… [--no-build] [--write-table]

Not among the ordinary tests (its name says so to pytest): it needs the tools of every language.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.driver import Driver, Kind
from tests.conformance.network import Network
from tests.conformance.player import Player, daemon_options, given, open_port
from tests.conftest import StartDaemon


@pytest.mark.timeout(900)
def test_case(
    built: Kind,
    case: dict[str, Any],
    daemon: StartDaemon,
    models_directory: Path,
    tmp_path: Path,
) -> None:
    """The client does, and sees, what the scenario says."""
    settings = case.get("daemon", {})
    one = daemon(is_started=False, **daemon_options(settings))
    if settings.get("tls"):
        open_port(one)
    one.start()
    with (
        Network(one.runtime / "callsd.sock", one.root / "cut.sock") as network,
        Driver(built, tmp_path / "driver.log") as driver,
    ):
        values = case["values"] | given(one, network, tmp_path)
        player = Player(daemon=one, driver=driver, network=network, values=values)
        connect = {"address": "${daemon.address}", "tokenFile": "${daemon.token}", "caFile": ""}
        player.play([{"do": "connect", **connect}, *case["steps"]])
        driver.finish()
