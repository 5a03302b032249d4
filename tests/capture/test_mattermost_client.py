# SPDX-License-Identifier: Apache-2.0

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from callsd_worker.capture.call import End, JoinError, SenderReport
from callsd_worker.capture.caption_text import Words
from callsd_worker.capture.publisher import BURST, Publisher, Show
from callsd_worker.mattermost.rest import Config, Rest
from tests.capture.mattermost_calls import TONE, Notes, Stay, client_of, recorded_call, staying
from tests.mattermost.participants import Participant
from tests.mattermost.server import MattermostServer
from tests.mattermost.sfu import Trickle
from tests.mattermost.state import Call


@pytest.fixture
async def server() -> AsyncIterator[MattermostServer]:
    """A server with the waits of a real one, where a test does not change them."""
    async with MattermostServer() as server:
        yield server


@pytest.fixture
def call(server: MattermostServer) -> Call:
    """A call of one that is to be recorded and transcribed."""
    return recorded_call(server)


async def talk(server: MattermostServer, stay: Stay, person: Participant) -> None:
    """Say TONE, once there is a way to the client: the server keeps no sound until then."""
    await person.unmute()
    await server.until(lambda: stay.notes.sound(person.track_id), "silence is heard")
    await person.play(TONE)


async def heard(server: MattermostServer, stay: Stay, person: Participant) -> list[bytes]:
    """All sound of somebody, once the end of TONE has come."""
    await server.until(lambda: TONE[-1] in stay.notes.sound(person.track_id), "the end")
    return stay.notes.sound(person.track_id)


async def reports(server: MattermostServer, stay: Stay, track_id: str) -> list[SenderReport]:
    """All reports on a track, once there is one."""
    return await server.until(lambda: stay.notes.reports[track_id], "a report")


class TestListening:
    """What is heard and seen of a call, and shown to it."""

    async def test_hears_everybody_who_speaks_also_who_comes_late(
        self, server: MattermostServer, call: Call
    ) -> None:
        """Three speakers are heard, packet by packet, each under their name.

        [J11] The first offer has the data channel, and every offer of the server is answered.
        """
        ada = await server.participant(call, server.state.users[call.owner_id])
        bob = await server.participant(call, server.add_user("bob", "Bob", "B"))
        async with staying(server, call) as stay:
            for person in (ada, bob):
                await talk(server, stay, person)
            assert len(stay.notes.speakers) == 2
            eve = await server.participant(call, server.add_user("eve"))
            await talk(server, stay, eve)
            for person in (ada, bob, eve):
                await person.finished()
            for person, name in ((ada, "Ada Admin"), (bob, "Bob B"), (eve, "eve")):
                track_id = person.track_id
                assert track_id is not None
                sound = await heard(server, stay, person)
                first = sound.index(TONE[0])
                assert sound[first : first + len(TONE)] == TONE
                speaker = stay.notes.speakers[track_id]
                assert speaker.session_id == person.session_id
                assert speaker.user_id == person.user_id
                assert speaker.name == name
                report = (await reports(server, stay, track_id))[0]
                assert abs(report.ntp_seconds - report.arrival_seconds) < 1.0
            session = server.bot_session(call)
            assert session.connected.is_set()
            assert not session.is_stuck
            assert session.offers_sent == 3

    @pytest.mark.parametrize("trickle", list(Trickle))
    async def test_takes_the_servers_addresses_whenever_they_come(
        self, server: MattermostServer, call: Call, trickle: Trickle
    ) -> None:
        """The address of the media server may come before its answer, with it, or after it."""
        server.timing.trickle = trickle
        async with staying(server, call) as stay:
            assert stay.notes.events[0] == "joined"

    async def test_refuses_pictures(self, server: MattermostServer, call: Call) -> None:
        """A screen that is shared is not received, and voices after it are."""
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call) as stay:
            await ada.share_screen()
            bob = await server.participant(call, server.add_user("bob"))
            await bob.play(TONE)
            await server.until(lambda: TONE[-1] in stay.notes.sound(bob.track_id), "a voice")
            await ada.stop_sharing()
            await ada.play(TONE)
            await server.until(lambda: TONE[-1] in stay.notes.sound(ada.track_id), "a voice")
            assert ada.screen is None or ada.screen.packets_sent == 0

    async def test_tells_of_mutes_and_of_who_leaves(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A mute is told by session, and the end of a track when its speaker leaves."""
        ada = await server.participant(call, server.state.users[call.owner_id])
        bob = await server.participant(call, server.add_user("bob"))
        async with staying(server, call) as stay:
            await ada.unmute()
            await bob.play(TONE)
            await server.until(lambda: stay.notes.sound(bob.track_id), "sound")
            await bob.mute()
            track_id = bob.track_id
            await server.until(lambda: f"muted {bob.session_id}" in stay.notes.events, "a mute")
            await bob.leave()
            await server.until(lambda: f"ended {track_id}" in stay.notes.events, "an end")
            assert len(stay.notes.speakers) == 2

    async def test_tells_when_the_recording_begins(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A start that comes live is told once, on our clock."""
        recording = call.jobs[0]
        async with staying(server, call) as stay:
            session_id = next(iter(call.sessions))
            await server.until(
                lambda: stay.client._roster.is_present(session_id), "the call's state"
            )
            assert stay.notes.started_seconds == []
            report = {"jobtype": "recording", "status": "started"}
            await server.plugin.report(call.channel_id, recording.id, report)
            await server.until(lambda: stay.notes.started_seconds, "a start")
            assert abs(stay.notes.started_seconds[0] - recording.start_at / 1000) < 0.5

    async def test_tells_when_the_recording_has_begun(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A start before the join is told as the server says it."""
        recording = call.jobs[0]
        report = {"jobtype": "recording", "status": "started"}
        await server.plugin.report(call.channel_id, recording.id, report)
        async with staying(server, call) as stay:
            await server.until(lambda: stay.notes.started_seconds, "a start")
            assert stay.notes.started_seconds == [recording.start_at / 1000]

    async def test_finds_the_name_of_who_has_left(
        self, server: MattermostServer, call: Call
    ) -> None:
        """Somebody whose session has ended before it was looked up is asked for as a user."""
        server.faults.internal_error.times(1, path="/profile")
        ada = await server.participant(call, server.state.users[call.owner_id])
        bob = await server.participant(call, server.add_user("bob", "Bob", "B"))
        async with staying(server, call) as stay:
            await ada.unmute()
            await bob.unmute()
            await server.until(lambda: bob.track_id in stay.notes.speakers, "a track")
            track_id = bob.track_id
            assert track_id is not None
            await bob.leave()
            await server.until(lambda: stay.notes.speakers[track_id].name == "Bob B", "a name")

    async def test_shows_captions_and_counts(self, server: MattermostServer, call: Call) -> None:
        """[J10] Captions and metrics arrive; of who is not in the call nothing is sent."""
        session_id = next(iter(call.sessions))
        async with staying(server, call) as stay:
            await server.until(
                lambda: stay.client._roster.is_present(session_id), "who is in the call"
            )
            assert stay.client.show_caption(session_id, "hello everyone", 2)
            assert not stay.client.show_caption("x" * 26, "nobody", 2.0)
            stay.client.count(session_id, "live_captions_window_dropped")
            await server.until(lambda: call.metrics, "a metric")
            assert [(one.text, one.new_audio_len_ms) for one in call.captions] == [
                ("hello everyone", 2000.0)
            ]
            assert call.metrics[0].name == "live_captions_window_dropped"

    async def test_sends_no_more_captions_than_the_plugin_takes(
        self, server: MattermostServer, call: Call
    ) -> None:
        """[J10] Of a flood as much is sent as the plugin takes, and what keeps the connection."""
        session_id = next(iter(call.sessions))
        publisher, sent = Publisher(), 0
        async with staying(server, call) as stay:
            await server.until(
                lambda: stay.client._roster.is_present(session_id), "who is in the call"
            )
            for number in range(300):
                publisher.words(
                    Words(
                        session_id=session_id,
                        segment=str(number),
                        revision=1,
                        text=str(number),
                        is_final=True,
                        is_end_of_utterance=True,
                        start_seconds=0.0,
                        heard_seconds=1.0,
                    )
                )
                for message in publisher.take(time.monotonic()):
                    assert isinstance(message, Show)
                    stay.client.show_caption(
                        message.session_id, message.text, message.new_audio_seconds
                    )
                    sent += 1
            await server.until(lambda: len(call.captions) == sent, "all captions")
            assert call.dropped_messages == 0
        assert sent >= BURST


class TestJoining:
    """How a join fails, or comes about all the same."""

    async def test_says_that_a_token_is_not_accepted(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A token that was revoked ends the join within seconds, and the message hides it."""
        began_seconds = time.monotonic()
        with pytest.raises(JoinError, match="does not accept the bot's token") as refused:
            await client_of(server, call, Notes(), token="secretsecret").run()
        assert time.monotonic() - began_seconds < 7.0
        assert "secretsecret" not in str(refused.value)

    async def test_says_what_the_plugin_says(self, server: MattermostServer, call: Call) -> None:
        """A job that is over ends the join with the plugin's text and what to do."""
        with pytest.raises(JoinError, match=r"job not in progress.*start it again"):
            await client_of(server, call, Notes(), job_id="x" * 26).run()

    async def test_tries_again_while_the_plugin_is_away(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A plugin that answers 500 or too many requests is asked again."""
        server.faults.plugin_crashed.once(path="/config")
        server.faults.too_many_requests.once(path="/config")
        async with staying(server, call) as stay:
            # Who is in the call, and muted, may be known already.
            assert stay.notes.events.count("joined") == 1
        assert server.faults.plugin_crashed.uses == server.faults.too_many_requests.uses == 1

    async def test_gives_up_in_time(self, server: MattermostServer, call: Call) -> None:
        """A join that leads nowhere ends when its time is over."""
        server.faults.plugin_crashed.always(path="/config")
        with pytest.raises(JoinError, match=r"not joined within 2 s.*500"):
            await client_of(server, call, Notes(), join_seconds=2.0).run()

    async def test_can_be_stopped_while_it_joins(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A stop before the join is done ends it at once."""
        server.faults.plugin_crashed.always(path="/config")
        client = client_of(server, call, Notes())
        running = asyncio.create_task(client.run())
        await server.until(lambda: server.faults.plugin_crashed.uses, "an attempt")
        client.request_stop()
        async with asyncio.timeout(3.0):
            ending = await running
        assert ending.end is End.OVER


class TestEnding:
    """How a stay ends that nothing has gone wrong with."""

    async def test_work_that_never_began(self, server: MattermostServer, call: Call) -> None:
        """A stay that ends as soon as it has begun leaves no work behind that waits to begin."""
        client = client_of(server, call, Notes())
        work = asyncio.sleep(0.0)
        async with asyncio.TaskGroup() as client._tasks:
            client._run_task(work).cancel()
        assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED

    async def test_leaves_when_the_host_stops(self, server: MattermostServer, call: Call) -> None:
        """[J8] `job_stop` ends the stay."""
        async with staying(server, call) as stay:
            await server.stop_recording(call)
            assert (await stay.ending()).end is End.OVER

    async def test_leaves_when_the_call_ends(self, server: MattermostServer, call: Call) -> None:
        """[J8] `call_end` ends the stay."""
        async with staying(server, call) as stay:
            await server.end_call(call)
            assert (await stay.ending()).end is End.OVER

    async def test_leaves_within_two_seconds(self, server: MattermostServer, call: Call) -> None:
        """A stop ends the stay at once, and so does cancelling it; the server is told."""
        async with staying(server, call) as stay:
            began_seconds = time.monotonic()
            stay.client.request_stop()
            stay.client.request_stop()
            assert (await stay.ending(3.0)).end is End.OVER
            assert time.monotonic() - began_seconds < 2.5
            # The plugin takes a leave for the end of the job; a lost websocket it takes for a gap.
            await server.until(lambda: call.jobs[1].end_at, "the end of the job")

    async def test_is_cancelled(self, server: MattermostServer, call: Call) -> None:
        """Who cancels a stay gets out of it at once."""
        async with staying(server, call) as stay:
            stay.running.cancel()
            async with asyncio.timeout(3.0):
                with pytest.raises(asyncio.CancelledError):
                    await stay.running


class TestFaults:
    """What is survived, and what is noticed."""

    async def test_hears_who_unmutes_while_the_websocket_is_cut(
        self, server: MattermostServer, call: Call
    ) -> None:
        """[J11] A gap of 3 s, in which somebody speaks for the first time, costs no track."""
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call) as stay:
            await server.faults.network.cut_websockets(3.0)
            await ada.play(TONE)
            await ada.finished()
            await server.until(lambda: TONE[-1] in stay.notes.sound(ada.track_id), "sound")
            bob = await server.participant(call, server.add_user("bob"))
            connection = stay.client._connection
            assert connection is not None
            await server.until(lambda: connection.link.is_up, "the websocket")
            await bob.play(TONE)
            await server.until(lambda: TONE[-1] in stay.notes.sound(bob.track_id), "sound")

    async def test_answers_what_it_has_missed(
        self, server: MattermostServer, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """[J11] An offer that came by the websocket while that was cut is answered after it."""
        ask = Rest.config

        async def config(rest: Rest) -> Config:
            return replace(await ask(rest), has_data_channel_signaling=False)

        monkeypatch.setattr(Rest, "config", config)
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call) as stay:
            await server.faults.network.cut_websockets(3.0)
            await ada.unmute()
            await server.until(lambda: stay.notes.sound(ada.track_id), "sound")
            await ada.play(TONE)
            await heard(server, stay, ada)
            bob = await server.participant(call, server.add_user("bob"))
            await bob.play(TONE)
            await heard(server, stay, bob)
            assert not server.bot_session(call).is_stuck

    async def test_gives_up_when_the_websocket_is_away_for_too_long(
        self, server: MattermostServer, call: Call
    ) -> None:
        """The server forgets us: the stay ends as lost, with how long it was away."""
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call, away_seconds=1.5) as stay:
            await ada.play(TONE)
            await server.faults.network.cut_websockets(60.0)
            ending = await stay.ending()
            assert ending.end is End.LOST
            assert "could not be reached for" in ending.message

    async def test_goes_on_where_it_cannot_resume(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A server that knows nothing of the old websocket greets us anew, and we go on."""
        session_id = next(iter(call.sessions))
        async with staying(server, call) as stay:
            job = call.transcription
            assert job is not None
            before = job.bot_conn_id
            await server.stop_listening()
            await server.start_listening()
            connection = stay.client._connection
            assert connection is not None
            await server.until(lambda: connection.link.is_up, "the websocket")
            # The reconnect is answered by nothing; the server knows us by another name then.
            await server.until(lambda: job.bot_conn_id != before, "the reconnect")
            stay.client.show_caption(session_id, "hello", 2.0)
            await server.until(lambda: call.captions, "a caption")
            assert not stay.running.done()

    async def test_learns_after_a_gap_that_the_call_is_over(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A call that has ended while the websocket was away for too long is over, not lost."""
        async with staying(server, call, away_seconds=1.0) as stay:
            await server.faults.network.cut_websockets(60.0)
            await server.end_call(call)
            call.end_at = call.end_at or 1
            assert (await stay.ending()).end is End.OVER

    async def test_keeps_secrets(
        self, server: MattermostServer, call: Call, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither the token nor the name of a person is in a log, whatever goes wrong."""
        caplog.set_level("INFO", logger="callsd_worker")
        server.faults.internal_error.times(2, path="/profile")
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call) as stay:
            await ada.unmute()
            await server.until(
                lambda: any(who.name for who in stay.notes.speakers.values()), "a name"
            )
            await server.faults.network.cut_websockets(0.5)
            await server.stop_recording(call)
            await stay.ending()
        assert "out of the call" in caplog.text
        assert server.bot_token not in caplog.text
        assert "Ada" not in caplog.text

    async def test_survives_a_gap_of_the_media(self, server: MattermostServer, call: Call) -> None:
        """Media that is away for 5 s goes on afterwards."""
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call) as stay:
            await ada.unmute()
            await server.until(lambda: stay.notes.sound(ada.track_id), "sound")
            await server.faults.network.drop_udp(5.0)
            await asyncio.sleep(5.5)
            before = len(stay.notes.sound(ada.track_id))
            await server.until(lambda: len(stay.notes.sound(ada.track_id)) > before + 10, "sound")
            assert not stay.running.done()

    async def test_notices_that_the_plugin_has_crashed(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A plugin that says nothing more and knows no call afterwards ends the stay."""
        ada = await server.participant(call, server.state.users[call.owner_id])
        async with staying(server, call, silence_seconds=2.0, look_seconds=1.0) as stay:
            await ada.unmute()
            await server.until(lambda: stay.notes.sound(ada.track_id), "sound")
            await server.faults.network.crash_plugin(3.0)
            assert (await stay.ending()).end is End.OVER

    async def test_notices_a_stop_that_it_has_missed(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A `job_stop` in a gap of the websocket ends the stay after it."""
        async with staying(server, call) as stay:
            await server.faults.network.cut_websockets(1.0)
            await server.stop_recording(call)
            assert (await stay.ending()).end is End.OVER

    async def test_notices_that_the_media_server_has_lost_it(
        self, server: MattermostServer, call: Call
    ) -> None:
        """A session that the media server closes, in a call that goes on, is lost."""
        async with staying(server, call, look_seconds=0.5) as stay:
            await server.faults.network.lose_sessions(call)
            assert (await stay.ending()).end is End.LOST
