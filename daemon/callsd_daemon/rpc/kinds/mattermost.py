# SPDX-License-Identifier: Apache-2.0
"""Calls of Mattermost, as part of what a job is asked for."""

from callsd.v1 import mattermost_pb2
from callsd_daemon.domain import mattermost
from callsd_daemon.domain.mattermost import MattermostCall
from callsd_daemon.rpc.problems import Problems


def parse(problems: Problems, at: str, message: mattermost_pb2.MattermostCall) -> MattermostCall:
    """The call, without its token."""
    if not mattermost.is_site(message.site_url):
        problems.add(f"{at}.site_url", "must be http(s)://HOST without a path")
    for name in ("call_id", "post_id", "job_id"):
        if not mattermost.is_identifier(getattr(message, name)):
            problems.add(f"{at}.{name}", "must be 26 characters from a-z and 0-9")
    check_token(problems, f"{at}.token", message.token)
    return MattermostCall(
        site_url=message.site_url,
        call_id=message.call_id,
        post_id=message.post_id,
        job_id=message.job_id,
    )


def check_token(problems: Problems, field: str, token: str) -> None:
    """What is wrong with a token is told without showing it."""
    if not mattermost.is_token(token):
        problems.add(field, "must be a token: 1 to 1,024 printable characters without spaces")


def message(call: MattermostCall) -> mattermost_pb2.MattermostCall:
    """The call as clients see it: without its token."""
    return mattermost_pb2.MattermostCall(
        site_url=call.site_url, call_id=call.call_id, post_id=call.post_id, job_id=call.job_id
    )
