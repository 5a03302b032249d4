# SPDX-License-Identifier: Apache-2.0
"""What is said in a session, once the worker has shown its token."""

import asyncio
from collections.abc import AsyncIterator

import structlog

from callsd_daemon.workers.session import messages
from callsd_daemon.workers.session.pace import Pace
from callsd_daemon.workers.slot import WorkerSlot
from callsd_daemon.workers.takeover import UnusableError
from callsd_ipc.v1 import worker_pb2


log = structlog.get_logger(__name__)

MAX_ORDERS = 8
"""That wait for a worker to take them. It is told one thing after the other: which file to send,
that all has arrived, that it shall end."""

ORDER_TIMEOUT_SECONDS = 30.0
"""How long an order for a file waits for a worker that takes none."""

REPORTS_A_SECOND = 50
"""A worker reports once a second, and sends parts of its log."""

Orders = asyncio.Queue[worker_pb2.SessionResponse | None]
"""What a worker is told, one thing after the other; None ends its session."""


def new_orders() -> Orders:
    """The orders of a new session."""
    return asyncio.Queue(MAX_ORDERS)


def end(orders: Orders) -> None:
    """End a session behind its orders; a worker that takes none loses the oldest one."""
    if orders.full():
        orders.get_nowait()
    orders.put_nowait(None)


async def announce_stop(slot: WorkerSlot, orders: Orders) -> None:
    """Tell the worker when it shall end."""
    await slot.stop.wait()
    stop = worker_pb2.Stop(grace_seconds=slot.stop_grace_seconds)
    await orders.put(worker_pb2.SessionResponse(stop=stop))


async def listen(
    requests: AsyncIterator[worker_pb2.SessionRequest], slot: WorkerSlot, orders: Orders
) -> None:
    """Take the worker's reports; what it is to do next goes into `orders`."""
    pace = Pace(rate=REPORTS_A_SECOND, burst=REPORTS_A_SECOND)
    collecting: asyncio.Task[None] | None = None
    try:
        async for request in requests:
            await pace.wait()
            match request.WhichOneof("report"):
                case "status":
                    slot.report(messages.progress(request.status))
                case "log":
                    await slot.log.take(
                        request.log.offset, request.log.data[: messages.MAX_LOG_BYTES]
                    )
                case "outcome" if collecting is None and _is_of(request.outcome, slot):
                    collecting = asyncio.create_task(_collect(request.outcome, slot, orders))
                case "nothing_saved":
                    slot.is_over.set()
                case _:
                    # A second hello, or a report that only newer workers know.
                    pass
    finally:
        if collecting is not None:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
        end(orders)


def _is_of(outcome: worker_pb2.Outcome, slot: WorkerSlot) -> bool:
    """Whether the outcome is of this worker, and not of an earlier one."""
    return outcome.generation == slot.generation


async def _collect(message: worker_pb2.Outcome, slot: WorkerSlot, orders: Orders) -> None:
    """Take over the worker's files and outcome, and answer with a verdict."""

    async def ask(file_name: str, offset: int) -> None:
        order = worker_pb2.SendOrder(file_name=file_name, offset=offset)
        try:
            async with asyncio.timeout(ORDER_TIMEOUT_SECONDS):
                await orders.put(worker_pb2.SessionResponse(send=order))
        except TimeoutError:
            raise UnusableError("its worker takes no orders") from None

    try:
        await slot.takeover.collect(messages.outcome(message), message.SerializeToString(), ask)
        problem = ""
    except UnusableError as error:
        problem = str(error)
        log.warning("outcome_unusable", problem=problem)
    except Exception as error:
        problem = f"a bug in callsd: {error}"
        log.exception("outcome_failed")
    slot.is_over.set()
    verdict = worker_pb2.OutcomeVerdict(problem=problem)
    await orders.put(worker_pb2.SessionResponse(verdict=verdict))
