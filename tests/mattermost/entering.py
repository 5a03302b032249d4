# SPDX-License-Identifier: Apache-2.0
"""How somebody who can be heard comes into a call."""

from tests.mattermost.impairments import Impairment
from tests.mattermost.participants import Participant
from tests.mattermost.plugin import Plugin
from tests.mattermost.state import Call, User, new_id


async def enter(
    plugin: Plugin,
    call: Call,
    user: User,
    *,
    has_spoken_before: bool,
    sequence: int | None,
    timestamp: int | None,
    impairment: Impairment,
) -> Participant:
    """Take a session of theirs that cannot be heard yet, or a new one."""
    room = plugin.media.room(call.channel_id)
    plugin.media.ticker.start()
    taken = {one.session_id for one in room.participants}
    sessions = call.sessions.items()
    silent = [one for one, user_id in sessions if user_id == user.id and one not in taken]
    session_id = silent[0] if silent else new_id()

    async def publish(event: str) -> None:
        if event == "user_unmuted":
            call.unmuted.add(session_id)
        elif event == "user_muted":
            call.unmuted.discard(session_id)
        await plugin.publish(call, event, {"userID": user.id, "session_id": session_id})

    participant = Participant(
        session_id=session_id,
        user_id=user.id,
        room=room,
        publish=publish,
        on_left=lambda: plugin.leave(call, session_id),
        sequence=sequence,
        timestamp=timestamp,
        impairment=impairment,
    )
    room.participants.append(participant)
    if has_spoken_before:
        participant.be_known()
    if not silent:
        call.sessions[session_id] = user.id
        joined = {"user_id": user.id, "session_id": session_id, "channelID": call.channel_id}
        await plugin.publish(call, "user_joined", joined)
    return participant
