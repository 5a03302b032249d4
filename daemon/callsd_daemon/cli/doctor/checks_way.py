# SPDX-License-Identifier: Apache-2.0
"""The way from this machine to a site: its name, its port, its certificate."""

import asyncio
import contextlib
import os
import socket
import ssl
import urllib.request
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import SplitResult, urlsplit

from callsd_daemon.cli.doctor.finding import Finding, Status, fine, problem


TIMEOUT_SECONDS = 10.0
"""For each step; a site that takes longer is no good for calls either."""

CA_ADVICE = "name the PEM file of the authority that has signed it in gateway.ca_file"

Step = Callable[[], Coroutine[Any, Any, Finding]]


class FailedError(Exception):
    """A step went wrong; the message is for a person."""


def parsed(url: str) -> SplitResult | None:
    """A site's address without a path, if it is one."""
    try:
        site = urlsplit(url.rstrip("/"))
        _ = site.port
    except ValueError:
        return None
    is_bare = not (site.path or site.query or site.fragment or "@" in site.netloc)
    return site if site.scheme in ("http", "https") and site.hostname and is_bare else None


class Way:
    """The steps to one site. Without each of them, what follows means nothing."""

    def __init__(self, site: SplitResult, trusted: ssl.SSLContext) -> None:
        self._url = f"{site.scheme}://{site.netloc}"
        self._host = site.hostname or ""
        self._port = site.port or (443 if site.scheme == "https" else 80)
        self._is_https = site.scheme == "https"
        self._trusted = trusted
        self._proxy_address = self._proxy_url(site.scheme)
        self.steps: tuple[Step, ...] = (
            (self._proxy,)
            if self._proxy_address
            else (self._name, self._connection, self._certificate)
        )

    def _proxy_url(self, scheme: str) -> str:
        """The proxy that the environment names for this site; the outbox would take it, too."""
        if urllib.request.proxy_bypass(self._host):
            return ""
        return urllib.request.getproxies().get(scheme, "")

    async def _proxy(self) -> Finding:
        place = urlsplit(self._proxy_address).netloc.rpartition("@")[2]
        return Finding(
            name="proxy",
            status=Status.ADVICE,
            found=f"{place}, as the environment says",
            fix="the browser goes without a proxy; to go without one here: NO_PROXY="
            f"{self._host} callsd doctor --mattermost {self._url}",
        )

    async def _name(self) -> Finding:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                found = await loop.getaddrinfo(
                    self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
        except TimeoutError:
            text = f"no answer within {TIMEOUT_SECONDS:.0f} s"
        except OSError as error:
            text = error.strerror or str(error)
        else:
            addresses = ", ".join(dict.fromkeys(str(one[4][0]) for one in found))
            return fine("name", f"{self._host} is {addresses}")
        return problem(
            "name",
            f"{self._host} cannot be resolved: {text}",
            "look at /etc/resolv.conf, or name the site in /etc/hosts; for an address of its own "
            "inside: MM_CALLS_RECORDER_SITE_URL",
        )

    async def _connection(self) -> Finding:
        try:
            await self._dialled(None)
        except FailedError as error:
            return problem(
                "connection",
                f"{self._host}:{self._port}: {error}",
                "is the site up, and does a firewall let this machine through?",
            )
        return fine("connection", f"{self._host}:{self._port} answers")

    async def _certificate(self) -> Finding:
        if not self._is_https:
            return Finding(
                name="certificate",
                status=Status.ADVICE,
                found="none: by http the bot's token and the recording are readable on the way",
                fix="take the https address, unless this network is yours alone",
            )
        try:
            await self._dialled(self._trusted)
        except ssl.SSLCertVerificationError as error:
            text = error.verify_message.lower()
            if "hostname" in text or "ip address" in text:
                fix = "take a name for which the certificate is, or have that name put into it"
            elif "expired" in text or "not yet valid" in text:
                fix = "renew the certificate, and look at the clocks of both machines"
            else:
                fix = CA_ADVICE
            return problem("certificate", error.verify_message, fix)
        except FailedError as error:
            return problem("certificate", str(error), "does this port speak TLS? If not: http://")
        return fine("certificate", "good")

    async def _dialled(self, context: ssl.SSLContext | None) -> None:
        """Connect and hang up; raises SSLCertVerificationError and FailedError."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, writer = await asyncio.open_connection(self._host, self._port, ssl=context)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        except TimeoutError:
            raise FailedError(f"no answer within {TIMEOUT_SECONDS:.0f} s") from None
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise FailedError(reason(error)) from None


def reason(error: Exception) -> str:
    """What has gone wrong, for a person."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno and error.errno > 0 and not error.filename:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
