# SPDX-License-Identifier: Apache-2.0
"""The metrics over HTTP for Prometheus: open to all who can connect, so limited in every way."""

import asyncio
import contextlib

import prometheus_client

from callsd_daemon.startup import EXIT_CONFIG, StartError


MAX_CONNECTIONS = 16
"""With one more the oldest is closed: a scrape takes milliseconds, so the oldest is idle."""

CONNECTION_SECONDS = 5.0
"""Limit from opening a connection to the end of the answer, however slow the client is."""

MAX_HEAD_BYTES = 8 * 1024

HEAD_END = b"\r\n\r\n"

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Scraping:
    """A small HTTP server for the metrics. Belongs to one event loop."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._open: list[asyncio.StreamWriter] = []

    async def open(self, endpoint: str) -> None:
        """Listen on HOST:PORT; raises StartError."""
        host, _, port = endpoint.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]") or "127.0.0.1", int(port), limit=MAX_HEAD_BYTES
            )
        except (OSError, ValueError, OverflowError) as problem:
            raise StartError(
                f"metrics.listen: {endpoint} cannot be used ({problem}): choose another, or "
                'none with ""',
                EXIT_CONFIG,
            ) from None

    def close(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) == MAX_CONNECTIONS:
            self._open.pop(0).transport.abort()
        self._open.append(writer)
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                writer.write(_answer(await reader.readuntil(HEAD_END)))
                writer.transport.set_write_buffer_limits(high=0)
                await writer.drain()
            writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            with contextlib.suppress(ValueError):
                self._open.remove(writer)


def _answer(head: bytes) -> bytes:
    method = head.partition(b" ")[0]
    if method not in (b"GET", b"HEAD"):
        return b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = prometheus_client.generate_latest()
    lines = (
        "HTTP/1.1 200 OK",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + HEAD_END + (body if method == b"GET" else b"")
