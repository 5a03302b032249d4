# SPDX-License-Identifier: Apache-2.0
"""What all tests share: real daemons, real weights, and promises that are held to."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers import reasons
from tests.helpers.daemon import Daemon
from tests.weights import MODELS_DIRECTORY


StartDaemon = Callable[..., Daemon]

# How long an example takes is a matter of what else the machine does.
settings.register_profile("default", deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Make the project's markers known, and see to it that tests can be interrupted."""
    config.addinivalue_line(
        "markers", "reason(name, ...): the test produces these reasons of the closed list"
    )
    config.addinivalue_line(
        "markers", "alone: judges real time or the whole machine, so nothing else runs beside it"
    )
    config.addinivalue_line(
        "markers", "slow: only run when `-m` asks for it, as `make faults` does"
    )
    # A shell starts what runs in its background with SIGINT ignored, and so would be what we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow, unless `-m` says what to run."""
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(autouse=True)
def _promised_reasons(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is marked with reasons has seen each of them."""
    reasons.SEEN.clear()
    yield
    promised = {name for mark in request.node.iter_markers("reason") for name in mark.args}
    assert promised <= reasons.SEEN, f"promised, but not seen: {promised - reasons.SEEN}"


def _daemons() -> Iterator[StartDaemon]:
    started: list[Daemon] = []

    def start(*, is_started: bool = True, **options: object) -> Daemon:
        daemon = Daemon(**options)  # type: ignore[arg-type]
        started.append(daemon)
        return daemon.start() if is_started else daemon

    try:
        yield start
    finally:
        found = {daemon.root: daemon.bugs() for daemon in started if not daemon.expects_bugs}
        for daemon in started:
            daemon.close()
    assert not any(found.values()), f"bugs in the daemon's log: {found}"


@pytest.fixture
def daemon() -> Iterator[StartDaemon]:
    """Starts daemons: see Daemon for the options, and `is_started=False` to start it yourself."""
    yield from _daemons()


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[StartDaemon]:
    """Like `daemon`, for daemons that all tests of a module use."""
    yield from _daemons()


@pytest.fixture(scope="session")
def models_directory() -> Path:
    """Real weights of tiny.en."""
    if not (MODELS_DIRECTORY / "tiny.en" / "manifest.json").is_file():
        pytest.fail(f"no weights in {MODELS_DIRECTORY}: run `make test-models`", pytrace=False)
    return MODELS_DIRECTORY
