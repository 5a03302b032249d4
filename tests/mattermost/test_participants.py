# SPDX-License-Identifier: Apache-2.0

import asyncio
import wave
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from callsd_worker.media.decode import SAMPLE_RATE_HZ
from tests.mattermost.bot import Bot, Heard, OpenBot
from tests.mattermost.client import Recording
from tests.mattermost.impairments import BadNetwork, Impairment
from tests.mattermost.opus_packets import SILENCE, of_pcm, of_sound
from tests.mattermost.participants import Participant
from tests.mattermost.server import MattermostServer


TONE = of_pcm((8000 * np.sin(np.arange(48_000) / 10)).astype(np.int16))
"""A second of it: packets that are not all alike."""


async def _ada(
    server: MattermostServer, recording: Recording, **options: int | Impairment
) -> Participant:
    call, _ = recording
    user = server.state.users[call.owner_id]
    return await server.participant(call, user, **options)  # type: ignore[arg-type]


async def _heard(server: MattermostServer, listener: Bot, participant: Participant) -> Heard:
    """The track, when its packets have begun to come."""
    await server.until(lambda: participant.track_id in listener.heard, "the track")
    heard = listener.heard[participant.track_id]
    await server.until(lambda: heard.packets, "packets")
    return heard


class TestSound:
    """What is played is what comes."""

    async def test_all_of_it(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """Each packet once, 960 samples after the one before, also where the numbers wrap."""
        ada = await _ada(server, recording, sequence=2**16 - 20, timestamp=2**32 - 960 * 20)
        listener = await bot()
        await ada.unmute()
        heard = await _heard(server, listener, ada)
        await ada.play(TONE)
        await ada.finished()
        await server.until(lambda: TONE[-1] in heard.sound, "the end")
        first = heard.sound.index(TONE[0])
        assert heard.sound[first : first + len(TONE)] == TONE
        assert set(heard.sound[:first]) == {SILENCE}
        packets = [packet for _, packet in heard.packets]
        for before, after in pairwise(packets):
            assert after.sequence_number == (before.sequence_number + 1) % 2**16
            assert after.timestamp == (before.timestamp + 960) % 2**32
        assert packets[0].sequence_number > packets[-1].sequence_number
        assert packets[0].timestamp > packets[-1].timestamp
        arrivals = dict(zip(heard.sound, (at for at, _ in heard.packets), strict=True))
        assert arrivals[TONE[30]] - ada.began_seconds >= 0.55

    async def test_mutes(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """No packets and no RTP time meanwhile; three empty packets come first afterwards."""
        ada = await _ada(server, recording)
        listener = await bot()
        await ada.unmute()
        heard = await _heard(server, listener, ada)
        await ada.play(TONE, mutes=[(0.2, 0.4)], holes=[(0.8, 0.1)])
        await ada.finished()
        await server.until(lambda: TONE[-1] in heard.sound, "the end")
        first = heard.sound.index(TONE[0])
        expected = TONE[:10] + TONE[30:40] + TONE[45:]
        assert heard.sound[first : first + len(expected)] == expected
        packets = [packet for _, packet in heard.packets]
        first = next(i for i, one in enumerate(packets) if one.payload == TONE[9])
        stretch = packets[first : first + 5]
        assert [one.payload for one in stretch] == [TONE[9], b"", b"", b"", TONE[30]]
        start = stretch[0]
        assert [(one.timestamp - start.timestamp) % 2**32 for one in stretch] == [0, 0, 0, 0, 960]
        assert [(one.sequence_number - start.sequence_number) % 2**16 for one in stretch] == [
            0, 1, 2, 3, 4
        ]  # fmt: skip
        for name in ("user_muted", "user_unmuted"):
            assert (await listener.event(name))["data"]["session_id"] == ada.session_id
        hole = next(i for i, one in enumerate(packets) if one.payload == TONE[39])
        before, after = packets[hole : hole + 2]
        assert (after.timestamp - before.timestamp) % 2**32 == 960 * 6
        assert (after.sequence_number - before.sequence_number) % 2**16 == 1

    async def test_a_call_of_mute(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """The same, when it is done by hand; the file has gone on meanwhile."""
        ada = await _ada(server, recording)
        listener = await bot()
        await ada.unmute()
        heard = await _heard(server, listener, ada)
        await ada.play(TONE)
        await ada.mute()
        await ada.finished()
        count = len(heard.packets)
        await ada.unmute()
        await server.until(lambda: len(heard.packets) > count + 3, "packets")
        packets = [packet for _, packet in heard.packets]
        padding = [i for i, one in enumerate(packets) if not one.payload]
        assert len(padding) == 3
        before, after = packets[padding[0] - 1], packets[padding[-1] + 1]
        assert (after.timestamp - before.timestamp) % 2**32 == 960
        assert TONE[-1] not in heard.sound

    @pytest.mark.alone
    async def test_reports(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """One a second, also in a mute: the server's time, and RTP time that runs on."""
        ada = await _ada(server, recording)
        listener = await bot()
        await ada.unmute()
        heard = await _heard(server, listener, ada)
        await server.until(lambda: heard.reports, "a report")
        await ada.mute()
        await server.until(lambda: len(heard.reports) == 3, "two more")
        (_, first_ntp, first_rtp), _, (arrival, ntp, rtp) = heard.reports
        assert ntp == pytest.approx(arrival, abs=0.2)
        assert ntp - first_ntp == pytest.approx(2.0, abs=0.3)
        assert (rtp - first_rtp) % 2**32 == pytest.approx((ntp - first_ntp) * 48_000, abs=2000)

    async def test_a_bad_network(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """Packets are lost and come in another order, by a number that makes it the same again."""
        impairment = Impairment(loss=0.1, jitter_seconds=0.1, seed=7)
        ada = await _ada(server, recording, impairment=impairment)
        listener = await bot()
        await ada.unmute()
        heard = await _heard(server, listener, ada)
        await ada.play(TONE)
        await ada.finished()
        await server.until(lambda: sum(one in TONE for one in heard.sound) > 35, "most of them")
        places = [TONE.index(one) for one in heard.sound if one in TONE]
        assert places != sorted(places)
        assert len(places) < len(TONE)


class TestNetwork:
    """What an impairment decides."""

    @staticmethod
    def _decided(**options: float) -> list[list[float]]:
        network = BadNetwork(Impairment(**options))  # type: ignore[arg-type]
        return [network.delays_seconds() for _ in range(2000)]

    def test_repeatable(self) -> None:
        """The same seed decides the same, and another one something else."""
        options = {"loss": 0.1, "jitter_seconds": 0.2, "duplicates": 0.1}
        assert self._decided(seed=1, **options) == self._decided(seed=1, **options)
        assert self._decided(seed=1, **options) != self._decided(seed=2, **options)

    def test_shares(self) -> None:
        """Loss, bursts and second copies are as many as was asked for, and delays are bounded."""
        decided = self._decided(loss=0.1, jitter_seconds=0.2, duplicates=0.05)
        assert sum(not one for one in decided) == pytest.approx(200, abs=40)
        assert sum(len(one) == 2 for one in decided) == pytest.approx(90, abs=30)
        assert 0.19 < max(max(one, default=0) for one in decided) < 0.2
        lost = [not one for one in self._decided(burst_loss=0.01, burst_packets=5)]
        assert sum(lost) == pytest.approx(100, abs=60)
        assert "1" * 5 in "".join(str(int(one)) for one in lost)


class TestPackets:
    """How sound becomes packets."""

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("rate_hz", [SAMPLE_RATE_HZ, 44_100, 48_000])
    def test_of_a_file(self, tmp_path: Path, channels: int, rate_hz: int) -> None:
        """20 ms each, mono or stereo as the file, whatever its rate."""
        path = tmp_path / "sound.wav"
        samples = (8000 * np.sin(np.arange(2 * rate_hz) / 20)).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(np.repeat(samples, channels).tobytes())
        packets = of_sound(path)
        assert len(packets) == pytest.approx(100, abs=1)
        assert {bool(one[0] & 4) for one in packets} == {channels == 2}
        assert {one[0] & 3 for one in packets} == {0}  # one frame in each
        assert of_sound(path) is packets

    def test_delay(self) -> None:
        """A decoder gives the sound 6.5 ms later."""
        click = np.zeros(48_000, np.int16)
        click[24_000:24_048] = 20_000
        decoder = av.CodecContext.create("libopus", "r")
        decoder.sample_rate = 48_000
        decoder.layout = "mono"
        frames = [frame for one in of_pcm(click) for frame in decoder.decode(av.Packet(one))]
        heard = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        assert int(np.argmax(np.abs(heard.astype(float)))) - 24_000 == pytest.approx(312, abs=60)


async def test_little_cpu(server: MattermostServer, recording: Recording, bot: OpenBot) -> None:
    """Eight people who speak to two bots at once are sent in time."""
    call, job = recording
    bots = [await bot(), await bot(job=job)]
    people = [await server.participant(call, server.add_user(f"user{n}")) for n in range(8)]
    await asyncio.gather(*(one.play(TONE) for one in people))
    await asyncio.gather(*(one.finished() for one in people))
    await server.until(lambda: all(len(one.heard) == 8 for one in bots), "all of them")
    everything = [heard for one in bots for heard in one.heard.values()]
    await server.until(lambda: all(TONE[-1] in one.sound for one in everything), "the end")
