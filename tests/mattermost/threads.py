# SPDX-License-Identifier: Apache-2.0
"""What the plugin posts in the thread of a call when a job hands its files over."""

from typing import Any

from tests.mattermost.answers import fold
from tests.mattermost.plugin import RefusedError
from tests.mattermost.state import Call, Job, Post, State


RECORDING_POST = "custom_calls_recording"
TRANSCRIPTION_POST = "custom_calls_transcription"


def note_jobs(state: State, call: Call, recording: Job, transcription: Job | None) -> None:
    """Keep in the call's post which recording and which transcription belong together."""
    props = state.posts[call.post_id].props
    tr_id = "" if transcription is None else transcription.id
    no_post = {"file_id": "", "post_id": ""}
    props.setdefault("recordings", {})[recording.id] = {**no_post, "tr_id": tr_id}
    if transcription is not None:
        props.setdefault("transcriptions", {})[tr_id] = {**no_post, "rec_id": recording.id}


async def publish_recording(state: State, channel_id: str, document: dict[str, Any]) -> None:
    """Post a recording; a second request for the same makes a second post. RefusedError.

    A file can be attached once only, so that second post has none. Keys of `document` are in
    lower case.
    """
    if not document.get("postid"):
        raise RefusedError(400, "PostID should not be empty")
    if not document.get("fileids"):
        raise RefusedError(400, "invalid FileIDs length")
    if not document.get("jobid"):
        raise RefusedError(400, "JobID should not be empty")
    job_id, file_ids = str(document["jobid"]), [str(one) for one in document["fileids"]]
    call_post = _call_post(state, str(document["postid"]))
    post = Post(
        user_id=state.bot.id,
        channel_id=channel_id,
        type=RECORDING_POST,
        message="Here's the call recording",
        root_id=call_post.root_id or call_post.id,
        file_ids=file_ids[:1],
        props={"recording_id": job_id, "call_post_id": call_post.id},
    )
    state.create_post(post)
    recordings = call_post.props.setdefault("recordings", {})
    known = recordings.setdefault(job_id, {"file_id": "", "post_id": "", "tr_id": ""})
    known.update(file_id=file_ids[0], post_id=post.id)


async def publish_transcription(state: State, channel_id: str, document: dict[str, Any]) -> None:
    """Post a transcription, and give the post of its recording the captions. RefusedError."""
    job_id, parts = _checked(document)
    call_post = _call_post(state, str(document["postid"]))
    known = call_post.props.get("transcriptions", {}).get(job_id)
    if known is None:
        raise RefusedError(500, "unexpected data found in transcriptions post prop")
    captions = [
        {
            "title": part.get("title") or part["language"],
            "language": part["language"],
            "file_id": part["fileids"][0],
        }
        for part in parts
    ]
    vtt_id, text_id = parts[0]["fileids"][:2]
    if vtt_id in state.files:
        # The file becomes the call post's, so that the members of the channel may read it.
        state.files[vtt_id].post_id = call_post.id
    post = Post(
        user_id=state.bot.id,
        channel_id=channel_id,
        type=TRANSCRIPTION_POST,
        message="Here's the call transcription",
        root_id=call_post.root_id or call_post.id,
        file_ids=[text_id],
        props={"call_post_id": call_post.id, "transcription_id": job_id, "captions": captions},
    )
    state.create_post(post)
    known.update(file_id=text_id, post_id=post.id)
    recording = call_post.props.get("recordings", {}).get(known["rec_id"], {})
    if recording_post := state.posts.get(recording.get("post_id", "")):
        recording_post.props["captions"] = captions


def _checked(document: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    if not document.get("postid"):
        raise RefusedError(400, "PostID should not be empty")
    if not document.get("transcriptions"):
        raise RefusedError(400, "invalid Transcriptions length")
    parts = [fold(part) for part in document["transcriptions"]]
    for part in parts:
        if not part.get("language"):
            raise RefusedError(400, "language should not be empty")
        if len(part.get("fileids") or []) < 2:
            raise RefusedError(400, "invalid FileIDs length")
    if not document.get("jobid"):
        raise RefusedError(400, "JobID should not be empty")
    return str(document["jobid"]), parts


def _call_post(state: State, post_id: str) -> Post:
    post = state.posts.get(post_id)
    if post is None:
        raise RefusedError(500, "failed to get call post")
    return post
