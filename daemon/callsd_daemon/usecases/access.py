# SPDX-License-Identifier: Apache-2.0
"""Who may do what."""

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.tokens import Token


SCOPE_OF: dict[str, str] = {
    "CreateJob": "jobs.write",
    "GetJob": "jobs.read",
    "ListJobs": "jobs.read",
    "StopJob": "jobs.write",
    "DeleteJob": "jobs.write",
    "WatchJobs": "jobs.read",
    "ReadLog": "jobs.read",
    "FetchArtifact": "jobs.read",
    "PublishJob": "jobs.write",
    "UploadMedia": "jobs.write",
    "GetUpload": "jobs.write",
    "DeleteUpload": "jobs.write",
    "GetServerInfo": "",
    "GetCapacity": "jobs.read",
    "WatchCapacity": "jobs.read",
    "ListModels": "jobs.read",
    "PullModel": "admin",
    "VerifyModel": "admin",
    "StreamCaptions": "captions.ingest",
    "WatchCaptions": "jobs.read",
    "ServerReflectionInfo": "",
}
"""The scope that each operation needs; "" = any valid token. One that is not named is a KeyError:
it is never let through."""


def authorize(token: Token, operation: str) -> None:
    """Raise SCOPE_MISSING when the token may not do this."""
    scope = SCOPE_OF[operation]
    if scope and scope not in token.scopes:
        raise CallsdError(
            Reason.SCOPE_MISSING,
            f"the token {token.name!r} lacks the scope {scope}",
            metadata={"scope": scope, "token": token.name},
        )
