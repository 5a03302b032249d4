# SPDX-License-Identifier: Apache-2.0
"""What the server and its Calls plugin know: users, channels, calls, job rows, files and posts."""

import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.mattermost.captions_seen import Caption, Metric


MIB = 1024 * 1024

_ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"


def new_id() -> str:
    """An id as the server makes them: 26 characters."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(26))


def now_ms() -> int:
    """The server's wall clock."""
    return round(time.time() * 1000)


class JobType(StrEnum):
    """The types of the plugin's job rows."""

    RECORDING = "recording"
    TRANSCRIBING = "transcribing"
    CAPTIONING = "captioning"


@dataclass(slots=True, kw_only=True)
class User:
    """Somebody with an account; the bot of the plugin is one, too."""

    username: str
    first_name: str = ""
    last_name: str = ""
    is_bot: bool = False
    id: str = field(default_factory=new_id)
    token: str = field(default_factory=new_id)
    """Of this user's newest session."""

    def document(self) -> dict[str, Any]:
        """The JSON of the core API, sanitised."""
        return {
            "id": self.id,
            "create_at": 1_700_000_000_000,
            "update_at": 1_700_000_000_000,
            "delete_at": 0,
            "username": self.username,
            "auth_data": "",
            "auth_service": "",
            "email": f"{self.username}@localhost",
            "nickname": "",
            "first_name": self.first_name,
            "last_name": self.last_name,
            "position": "",
            "roles": "system_user",
            "locale": "en",
            "disable_welcome_email": False,
            **({"is_bot": True} if self.is_bot else {}),
        }


@dataclass(slots=True, kw_only=True)
class Job:
    """A job row of the plugin. It is active while `end_at` is 0."""

    type: JobType
    id: str = field(default_factory=new_id)
    init_at: int = field(default_factory=now_ms)
    start_at: int = 0
    end_at: int = 0
    err: str = ""
    job_id: str = ""
    """As the job service calls it."""
    bot_conn_id: str = ""
    input_data: dict[str, Any] = field(default_factory=dict)
    """What the job service was sent."""

    @property
    def is_active(self) -> bool:
        return self.end_at == 0

    def end(self, err: str = "") -> None:
        """Set EndAt, unless it was set before."""
        if self.is_active:
            self.end_at = now_ms()
            self.err = err

    def state(self) -> dict[str, Any]:
        """`jobState` of the events."""
        document: dict[str, Any] = {
            "type": str(self.type),
            "init_at": self.init_at,
            "start_at": self.start_at,
            "end_at": self.end_at,
        }
        return {**document, "err": self.err} if self.err else document


@dataclass(slots=True, kw_only=True)
class Call:
    """A call in a channel. Everybody else knows it by the id of the channel."""

    channel_id: str
    post_id: str
    owner_id: str
    id: str = field(default_factory=new_id)
    start_at: int = field(default_factory=now_ms)
    end_at: int = 0
    sessions: dict[str, str] = field(default_factory=dict)
    """Session id → user id, those of the bot too."""
    unmuted: set[str] = field(default_factory=set)
    """Ids of the sessions that can be heard."""
    jobs: list[Job] = field(default_factory=list)
    """All rows, the oldest first."""
    captions: list[Caption] = field(default_factory=list)
    """What bots have shown, the oldest first."""
    metrics: list[Metric] = field(default_factory=list)
    """What bots have counted, the oldest first."""
    dropped_messages: int = 0
    """Captions and metrics above what a connection may send."""

    def active(self, job_type: JobType) -> Job | None:
        """The row of this type that has not ended: there is one at most."""
        return next((one for one in self.jobs if one.type == job_type and one.is_active), None)

    def newest(self, job_type: JobType) -> Job:
        """The last row of this type, ended or not."""
        return next(one for one in reversed(self.jobs) if one.type == job_type)

    @property
    def recording(self) -> Job:
        """The last recording."""
        return self.newest(JobType.RECORDING)

    @property
    def transcription(self) -> Job:
        """The last transcription."""
        return self.newest(JobType.TRANSCRIBING)

    def document(self, bot_id: str) -> dict[str, Any]:
        """What the event `call_state` carries; bots are hidden."""
        jobs = {
            "recording": self.active(JobType.RECORDING),
            "transcription": self.active(JobType.TRANSCRIBING),
            "live_captions": self.active(JobType.CAPTIONING),
        }
        return {
            "id": self.id,
            "start_at": self.start_at,
            "sessions": [
                {
                    "session_id": session_id,
                    "user_id": user_id,
                    "unmuted": session_id in self.unmuted,
                    "raised_hand": 0,
                    "video": False,
                }
                for session_id, user_id in self.sessions.items()
                if user_id != bot_id
            ],
            "thread_id": self.post_id,
            "post_id": self.post_id,
            "screen_sharing_session_id": "",
            "owner_id": self.owner_id,
            "host_id": self.owner_id,
            **{name: job.state() for name, job in jobs.items() if job is not None},
        }


@dataclass(slots=True, kw_only=True)
class Channel:
    """A channel with members; the bot is in none."""

    display_name: str
    member_ids: list[str]
    id: str = field(default_factory=new_id)
    team_id: str = field(default_factory=new_id)

    def document(self) -> dict[str, Any]:
        """The JSON of the core API."""
        return {
            "id": self.id,
            "create_at": 1_700_000_000_000,
            "update_at": 1_700_000_000_000,
            "delete_at": 0,
            "team_id": self.team_id,
            "type": "O",
            "display_name": self.display_name,
            "name": self.display_name.lower().replace(" ", "-"),
            "header": "",
            "purpose": "",
            "last_post_at": 0,
            "total_msg_count": 0,
            "creator_id": "",
            "props": None,
        }


@dataclass(slots=True, kw_only=True)
class Upload:
    """An upload session; it is gone as soon as its file is complete."""

    user_id: str
    channel_id: str
    filename: str
    file_size: int
    path: Path
    id: str = field(default_factory=new_id)
    create_at: int = field(default_factory=now_ms)
    file_offset: int = 0
    is_busy: bool = False
    """Some request is sending data just now."""

    def document(self) -> dict[str, Any]:
        """The session's JSON, which has no path (seen on a real server)."""
        return {
            "id": self.id,
            "type": "attachment",
            "create_at": self.create_at,
            "user_id": self.user_id,
            "channel_id": self.channel_id,
            "filename": self.filename,
            "file_size": self.file_size,
            "file_offset": self.file_offset,
            "remote_id": "",
            "req_file_id": "",
        }


@dataclass(slots=True, kw_only=True)
class File:
    """A complete file."""

    creator_id: str
    channel_id: str
    name: str
    size: int
    path: Path
    """Where its content is, as long as the server runs."""
    id: str = field(default_factory=new_id)
    create_at: int = field(default_factory=now_ms)
    post_id: str = ""
    """Of the first post that it was attached to."""

    def document(self) -> dict[str, Any]:
        """FileInfo; `post_id` is left out while it is empty."""
        extension = Path(self.name).suffix.removeprefix(".")
        mime_types = {"mp4": "video/mp4", "vtt": "text/vtt", "txt": "text/plain; charset=utf-8"}
        return {
            "id": self.id,
            "user_id": self.creator_id,
            **({"post_id": self.post_id} if self.post_id else {}),
            "channel_id": self.channel_id,
            "create_at": self.create_at,
            "update_at": self.create_at,
            "delete_at": 0,
            "name": self.name,
            "extension": extension,
            "size": self.size,
            "mime_type": mime_types.get(extension, ""),
            "mini_preview": None,
            "remote_id": "",
            "archived": False,
        }


@dataclass(slots=True, kw_only=True)
class Post:
    """A post; those in the thread of a call have its post as their root."""

    user_id: str
    channel_id: str
    type: str
    message: str
    root_id: str = ""
    file_ids: list[str] = field(default_factory=list)
    props: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    create_at: int = field(default_factory=now_ms)

    def document(self) -> dict[str, Any]:
        """The JSON of the core API."""
        return {
            "id": self.id,
            "create_at": self.create_at,
            "update_at": self.create_at,
            "edit_at": 0,
            "delete_at": 0,
            "user_id": self.user_id,
            "channel_id": self.channel_id,
            "root_id": self.root_id,
            "message": self.message,
            "type": self.type,
            "props": self.props,
            "file_ids": self.file_ids,
        }


@dataclass(slots=True)
class State:
    """All of it."""

    bot: User = field(default_factory=lambda: User(username="calls", is_bot=True))
    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """Token → user id."""
    channels: dict[str, Channel] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    """Channel id → its newest call."""
    uploads: dict[str, Upload] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    posts: dict[str, Post] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add_user(self.bot)

    def add_user(self, user: User) -> None:
        """Make the user known, with a session."""
        self.users[user.id] = user
        self.tokens[user.token] = user.id

    def new_token(self, user: User) -> str:
        """Open another session of this user; the older ones stay valid."""
        user.token = new_id()
        self.tokens[user.token] = user.id
        return user.token

    def ongoing(self, channel_id: str) -> Call | None:
        """The channel's call, unless it is over."""
        call = self.calls.get(channel_id)
        return call if call is not None and call.end_at == 0 else None

    def attach(self, file_id: str, post: Post) -> bool:
        """Attach a file to a post, as the server does: each file once, and only its creator."""
        file = self.files.get(file_id)
        if file is None or file.post_id or file.creator_id != post.user_id:
            return False
        file.post_id = post.id
        return True

    def create_post(self, post: Post) -> Post:
        """Keep the post, with those of its files that could be attached to it."""
        post.file_ids = [file_id for file_id in post.file_ids if self.attach(file_id, post)]
        self.posts[post.id] = post
        return post

    def thread(self, call: Call) -> list[Post]:
        """The posts in the call's thread, the oldest first."""
        return [post for post in self.posts.values() if post.root_id == call.post_id]
