# SPDX-License-Identifier: Apache-2.0
"""What every RPC passes: authentication, errors, flow control, metrics and one log line."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import as_refusal
from callsd_daemon.metrics import RPCS
from callsd_daemon.rpc.clients import FairShares, TokenWatch, invalid_token
from callsd_daemon.rpc.status import to_status
from callsd_daemon.tokens import Token, TokenFile
from callsd_daemon.usecases.access import authorize


log = structlog.get_logger(__name__)

MAX_LAG_SECONDS = 30.0
"""How long a client may leave a stream unread before it is dropped."""

ABORT_SECONDS = 1.0
"""How long to wait until a refusal is sent. A client that reads nothing does not read that either:
after this time its place among the streams is free again."""

MAX_TOKEN_CHARACTERS = 256

MESSAGE_SECONDS = 10.0
"""How long the only message of a unary request may take to come."""

MAX_OPEN_STREAMS = 100
"""Streams that need no token: health watches, of load balancers and monitors."""

OPEN_PREFIX = "/grpc.health.v1.Health/"
"""A health check needs no token: it is what load balancers and monitors can ask."""

caller: ContextVar[str] = ContextVar("caller")
"""Name of the token with which the current request was made."""

Context = grpc.aio.ServicerContext[Any, Any]
Work = Callable[[Any, Context], Awaitable[Any]]
Answer = Callable[[Token | None, Any, Context], Awaitable[Any]]


class RequestInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service of the public server."""

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._token_watch = TokenWatch(tokens)
        self._shares = FairShares()
        self._open_streams = 0
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap the method's handler; once, as each open request would hold one of its own."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(
        self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]"
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        serializers = {
            "request_deserializer": _lenient(handler.request_deserializer),
            "response_serializer": _once(handler.response_serializer),
        }
        # To gRPC each request is a stream, as it is on the wire: for the only message of a unary
        # one it would wait for ever, and before the token has been checked.
        if handler.response_streaming:
            streaming = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, streaming, takes_stream=handler.request_streaming),
                **serializers,
            )
        single = handler.stream_unary if handler.request_streaming else handler.unary_unary
        return grpc.stream_unary_rpc_method_handler(
            self._single(method, single, takes_stream=handler.request_streaming), **serializers
        )

    def _single(self, method: str, behave: Any, *, takes_stream: bool) -> Any:
        async def answer(token: Token | None, requests: Any, context: Context) -> Any:
            if takes_stream:
                return await self._held(token, behave, requests, context)
            request = await _message(context)
            if token is None:
                return await behave(request, context)
            async with self._shares.turn(token.name):
                return await behave(request, context)

        return partial(self._pass, method, answer)

    def _stream(self, method: str, behave: Any, *, takes_stream: bool) -> Any:
        def send(request: Any, context: Context) -> Awaitable[None]:
            answers = behave(request, context)
            # The health and reflection services write to the context themselves.
            return _send_all(answers, context) if hasattr(answers, "__aiter__") else answers

        async def answer(token: Token | None, requests: Any, context: Context) -> None:
            request = requests if takes_stream else await _message(context)
            await self._held(token, send, request, context)

        return partial(self._pass, method, answer)

    def _held(
        self, token: Token | None, work: Work, request: Any, context: Context
    ) -> Awaitable[Any]:
        """Do the work of a stream while it may go on."""
        if token is None:
            return self._open_stream(work, request, context)
        return self._token_watch.hold(token, work, request, context)

    async def _open_stream(self, work: Work, request: Any, context: Context) -> Any:
        if self._open_streams == MAX_OPEN_STREAMS:
            raise CallsdError(
                Reason.STREAMS_EXHAUSTED,
                f"{MAX_OPEN_STREAMS} streams without a token are open, and no more are allowed",
                metadata={"limit": str(MAX_OPEN_STREAMS)},
                retry_after_seconds=10.0,
            )
        self._open_streams += 1
        try:
            return await work(request, context)
        finally:
            self._open_streams -= 1

    async def _pass(self, method: str, answer: Answer, requests: Any, context: Context) -> Any:
        began, code, reason = time.monotonic(), "OK", ""
        try:
            token = await self._authenticate(method, context)
            caller.set(token.name if token else "")
            try:
                return await answer(token, requests, context)
            except OSError as problem:
                if (refusal := as_refusal(problem)) is None:
                    raise
                log.error("file_unusable", method=method, problem=str(problem))  # noqa: TRY400 - no bug of ours
                raise refusal from problem
        except CallsdError as error:
            status = to_status(error)
            code, reason = grpc.StatusCode(_pair(status.code)).name, error.reason.value
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ABORT_SECONDS):
                    await context.abort_with_status(rpc_status.to_status(status))
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = "ABORTED_BY_SERVICE"
            raise
        except Exception:
            code, reason = "INTERNAL", Reason.INTERNAL.value
            error_id = secrets.token_hex(4)
            log.exception("rpc_failed", method=method, error_id=error_id)
            bug = CallsdError(
                Reason.INTERNAL,
                f"a bug in callsd; please report it with the log around {error_id}",
                metadata={"error_id": error_id},
            )
            await context.abort_with_status(rpc_status.to_status(to_status(bug)))
        finally:
            seconds = time.monotonic() - began
            RPCS.labels(method=method.rpartition("/")[2], code=code).observe(seconds)
            log.debug(
                "rpc",
                method=method,
                code=code,
                reason=reason,
                caller=caller.get(""),
                seconds=round(seconds, 4),
            )

    async def _authenticate(self, method: str, context: Context) -> Token | None:
        if method.startswith(OPEN_PREFIX):
            return None
        header = _authorization(context)
        if not header:
            raise CallsdError(
                Reason.TOKEN_MISSING,
                "send a token: metadata `authorization: Bearer TOKEN`; on this machine the owner's "
                "lies in owner.token beside the socket",
            )
        scheme, _, secret = header.partition(" ")
        token = None
        if scheme.lower() == "bearer" and len(secret) <= MAX_TOKEN_CHARACTERS:
            # A file that is slow to read shall hold up nobody else.
            find = self._tokens.find
            token = (
                find(secret) if self._tokens.is_known() else await asyncio.to_thread(find, secret)
            )
        if token is None:
            raise invalid_token()
        authorize(token, method.rpartition("/")[2])
        return token


async def _message(context: Context) -> Any:
    """The only message of a unary request."""
    # Not by the iterator that gRPC gives a stream: it is a generator, and the event loop makes one
    # more task to close each one that was left.
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            request = await context.read()
    except TimeoutError:
        problem = f"no message has come within {MESSAGE_SECONDS:g} s"
        raise CallsdError(Reason.FIELD_INVALID, problem) from None
    if request is None or request is grpc.aio.EOF:
        raise CallsdError(Reason.FIELD_INVALID, "the request is not a valid message")
    return request


async def _send_all(answers: AsyncGenerator[Any, None], context: Context) -> None:
    async with contextlib.aclosing(answers):
        async for response in answers:
            try:
                async with asyncio.timeout(MAX_LAG_SECONDS):
                    await context.write(response)
            except TimeoutError:
                raise CallsdError(
                    Reason.SLOW_CONSUMER,
                    f"nothing was read for {MAX_LAG_SECONDS:g} s: resume from the last message",
                ) from None


def _authorization(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else ""
    return ""


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Turns bytes that are no message into None, so that the interceptor can say so properly."""
    if deserialize is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return None

    return attempt


def _once(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Passes on what is serialised already, as what is sent to many is."""
    if serialize is None:
        return None
    return lambda message: message if isinstance(message, bytes) else serialize(message)


def _pair(code: int) -> tuple[int, str]:
    return next(status.value for status in grpc.StatusCode if status.value[0] == code)
