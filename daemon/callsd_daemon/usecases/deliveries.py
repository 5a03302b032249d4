# SPDX-License-Identifier: Apache-2.0
"""Deliver again what was given up, or what waits."""

from dataclasses import replace

from callsd_daemon.domain.delivery import DeliveryState
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.store.database import Database
from callsd_daemon.store.transaction import Transaction


class Deliveries:
    """All methods belong to one event loop, and raise CallsdError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def publish(self, job_id: str, token: str = "") -> Job:
        """Have a job's files delivered now, with this token if there is one."""

        def write(tx: Transaction) -> Job:
            job = tx.find(job_id)
            if job.delivery is None or not job.is_final:
                raise _conflict(job, "has ended with nothing to deliver" if job.is_final else "")
            if job.delivery.state is DeliveryState.DELIVERED:
                raise _conflict(job, "is in its call's thread already")
            secrets = tx.secrets(job)
            assert isinstance(secrets, SiteSecrets)
            if token:
                tx.put_secrets(job_id, replace(secrets, token=token))
            elif not secrets.token:
                raise _conflict(job, "has no token any more: give one")
            return tx.put(replace(job, delivery=job.delivery.again()))

        return await self._database.write(write)


def _conflict(job: Job, text: str) -> CallsdError:
    return CallsdError(
        Reason.JOB_STATE_CONFLICT,
        f"job {job.id} {text or f'is {job.state}: it is delivered when it has ended'}",
        metadata={"state": job.state},
    )
