# SPDX-License-Identifier: Apache-2.0
"""A way to a daemon that can be cut."""

import contextlib
import selectors
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


PIECE_BYTES = 64 * 1024
LOOK_SECONDS = 0.02
JOIN_SECONDS = 10.0

STALL_SECONDS = 0.5
"""How long nothing passes before a cut in the middle: what was passed on is read by then. Without,
a connection that breaks takes with it what its reader has not taken yet."""


class Network:
    """Takes connections at `address`, and passes all bytes to and from the daemon's socket.

    Cutting closes every connection in the middle of whatever goes on; new ones are taken at once.
    """

    def __init__(self, daemon: Path, own: Path) -> None:
        """From one socket, `own`, to another one."""
        self._daemon = daemon
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(own))
        self._door.listen()
        self.address = f"unix:{own}"
        self._lock = threading.Lock()
        # Each end of a connection, and the other end of the same.
        self._ends: dict[socket.socket, socket.socket] = {}
        self._to_daemon: set[socket.socket] = set()
        self._is_held = False
        self._left: dict[str, int] = {}
        self._is_over = threading.Event()
        self.was_cut = threading.Event()
        """Whether the cut that was asked for last has been made."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def hold(self) -> None:
        """Keep back what the daemon answers, until the next cut."""
        with self._lock:
            self._is_held = True

    def cut(self, *, to_daemon: int = 0, to_client: int = 0) -> None:
        """Cut now, or once so many bytes more have passed."""
        self.was_cut.clear()
        with self._lock:
            if to_daemon or to_client:
                self._left = {"daemon": to_daemon} if to_daemon else {"client": to_client}
            else:
                self._cut()

    def _run(self) -> None:
        while not self._is_over.is_set():
            for key, _ in self._selector.select(LOOK_SECONDS):
                with self._lock:
                    if key.fileobj is self._door:
                        self._connect()
                    elif key.fileobj in self._ends:
                        assert isinstance(key.fileobj, socket.socket)
                        self._pass(key.fileobj)

    def _connect(self) -> None:
        client, _ = self._door.accept()
        daemon = socket.socket(socket.AF_UNIX)
        try:
            daemon.connect(str(self._daemon))
        except OSError:
            client.close()
            daemon.close()
            return
        self._ends |= {client: daemon, daemon: client}
        self._to_daemon.add(client)
        for end in (client, daemon):
            self._selector.register(end, selectors.EVENT_READ)

    def _pass(self, source: socket.socket) -> None:
        direction = "daemon" if source in self._to_daemon else "client"
        if direction == "client" and self._is_held:
            self._is_over.wait(LOOK_SECONDS)
            return
        limit = self._left.get(direction)
        with contextlib.suppress(OSError):
            data = source.recv(PIECE_BYTES if limit is None else min(limit, PIECE_BYTES))
            if data:
                self._ends[source].sendall(data)
                if limit is not None:
                    self._left[direction] = limit - len(data)
                    if self._left[direction] == 0:
                        self._is_over.wait(STALL_SECONDS)
                        self._cut()
                return
        self._close(source)

    def _cut(self) -> None:
        self._left, self._is_held = {}, False
        for end in list(self._ends):
            self._close(end)
        self.was_cut.set()

    def _close(self, end: socket.socket) -> None:
        if end not in self._ends:
            return
        for one in (end, self._ends.pop(end)):
            self._ends.pop(one, None)
            self._to_daemon.discard(one)
            self._selector.unregister(one)
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join(JOIN_SECONDS)
        with self._lock:
            self._cut()
        self._door.close()
        self._selector.close()
