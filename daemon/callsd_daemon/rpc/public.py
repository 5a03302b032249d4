# SPDX-License-Identifier: Apache-2.0
"""The public server: every service behind one interceptor, with health and reflection."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from callsd.v1 import (
    caption_pb2,
    caption_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    media_pb2,
    media_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)
from callsd_daemon.config import Config
from callsd_daemon.rpc.captions import CaptionService
from callsd_daemon.rpc.endpoints import SERVER_OPTIONS, listen, share_socket
from callsd_daemon.rpc.interceptor import RequestInterceptor
from callsd_daemon.rpc.jobs import JobService
from callsd_daemon.rpc.media import MediaService
from callsd_daemon.rpc.models import ModelService
from callsd_daemon.rpc.scraping import Scraping
from callsd_daemon.rpc.server import ServerService


SERVICES = (
    job_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    media_pb2.DESCRIPTOR.services_by_name["MediaService"].full_name,
    server_pb2.DESCRIPTOR.services_by_name["ServerService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    caption_pb2.DESCRIPTOR.services_by_name["CaptionService"].full_name,
)


class PublicServer:
    """What clients talk to."""

    def __init__(
        self,
        interceptor: RequestInterceptor,
        *,
        jobs: JobService,
        media: MediaService,
        models: ModelService,
        captions: CaptionService,
        server: ServerService,
    ) -> None:
        """Register the services; nothing is listening yet."""
        self._server = grpc.aio.server(interceptors=(interceptor,), options=SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._scraping = Scraping()
        job_pb2_grpc.add_JobServiceServicer_to_server(jobs, self._server)
        media_pb2_grpc.add_MediaServiceServicer_to_server(media, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        caption_pb2_grpc.add_CaptionServiceServicer_to_server(captions, self._server)
        server_pb2_grpc.add_ServerServiceServicer_to_server(server, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def open(self, config: Config) -> None:
        """Listen on every endpoint of the configuration; raises StartError."""
        for endpoint in config.server.listen:
            listen(self._server, endpoint, config)
        await self._server.start()
        for endpoint in config.server.listen:
            share_socket(endpoint, config.server.socket_group)
        if config.metrics.listen:
            await self._scraping.open(config.metrics.listen)
        await self.say_well(is_well=True)

    async def say_well(self, *, is_well: bool) -> None:
        """Set what the health service answers."""
        response = health_pb2.HealthCheckResponse
        for service in ("", *SERVICES):
            await self._health.set(service, response.SERVING if is_well else response.NOT_SERVING)

    async def say_not_serving(self) -> None:
        """Have the health service answer NOT_SERVING from now on, whatever `say_well` says."""
        await self._health.enter_graceful_shutdown()

    async def close(self, patience_seconds: float) -> None:
        """Accept nothing more, and give open requests this long to end."""
        await self._server.stop(patience_seconds)
        self._scraping.close()
