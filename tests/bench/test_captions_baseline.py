# SPDX-License-Identifier: Apache-2.0

import json
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from callsd_bench.captions.baseline.job import QUEUE_WINDOWS, Track, next_tick
from callsd_bench.captions.baseline.packets import PacketQueue, packets_sent, write_packets
from callsd_bench.captions.baseline.reader import Caption, FinalText, final_texts, seam
from callsd_bench.captions.baseline.window import (
    RULES,
    Offer,
    Run,
    Samples,
    Segment,
    TrackWindow,
    silence_zeroed,
    split,
)
from callsd_bench.shared.baseline_vad import speech_parts
from callsd_worker.media.decode import AudioStream


SPEECH, DOUBT, SILENCE = 0.9, 0.4, 0.1
NETWORK_WINDOW = 512
RATE = 16_000
PAD = 960
PACKET = 320
SAMPLE_CALL = Path(__file__).parents[2] / "daemon" / "callsd_bench" / "sample_call"


def level_probabilities(samples: Samples) -> Iterable[float]:
    """A script written into the sound: a sample of 0.5 is speech, of 0.1 is silence."""
    for start in range(0, len(samples) - NETWORK_WINDOW, NETWORK_WINDOW):
        yield SPEECH if samples[start + NETWORK_WINDOW // 2] > 0.3 else SILENCE


def sound(*parts: tuple[str, float]) -> Samples:
    """Speech ("s") and silence ("-") of so many seconds each."""
    levels = {"s": 0.5, "-": 0.1}
    pieces = [np.full(round(seconds * RATE), levels[kind]) for kind, seconds in parts]
    return np.concatenate(pieces).astype(np.float32)


class Live:
    """A window that gets a track two seconds at a time."""

    def __init__(self) -> None:
        self.window = TrackWindow(level_probabilities)
        self.now_seconds = 0.0
        self.track_sample = 0

    def hear(self, *parts: tuple[str, float], after_seconds: float = 2.0) -> Offer | None:
        """One tick, at which this has arrived."""
        self.now_seconds += after_seconds
        runs = []
        if parts:
            samples = sound(*parts)
            runs = [Run(start_sample=self.track_sample, samples=samples)]
            self.track_sample += len(samples)
        return self.window.tick(runs, now_seconds=self.now_seconds)

    def hear_offered(self, *parts: tuple[str, float]) -> Offer:
        """One tick that makes an offer."""
        offer = self.hear(*parts)
        assert offer is not None
        return offer


class TestPacketQueue:
    """The queue before a track's loop."""

    @staticmethod
    def queue(directory: Path, samples: Samples, mute: float | None = None) -> PacketQueue:
        """A queue of this sound."""
        write_packets(samples, directory / "0", mute_after_seconds=mute)
        return PacketQueue(directory / "0")

    def test_packets_arrive_when_they_are_said(self, tmp_path: Path) -> None:
        """At any time only whole packets that are over are there, and each is there once."""
        packets = self.queue(tmp_path, sound(("s", 1.0)))

        first = packets.drain(now_seconds=0.999)
        second = packets.drain(now_seconds=60.0)
        third = packets.drain(now_seconds=70.0)

        assert [(run.start_sample, len(run.samples)) for run in first] == [(0, 49 * PACKET)]
        assert [(run.start_sample, len(run.samples)) for run in second] == [(49 * PACKET, PACKET)]
        assert third == []
        assert first[0].samples == pytest.approx(0.5)

    def test_full_queue_drops_the_newest(self, tmp_path: Path) -> None:
        """What comes while 600 packets wait is dropped and counted, packet by packet."""
        packets = self.queue(tmp_path, sound(("s", 13.0)))

        runs = packets.drain(now_seconds=12.2)
        later = packets.drain(now_seconds=13.0)

        assert [len(run.samples) for run in runs] == [600 * PACKET]
        assert packets.packets_dropped == 10
        assert [run.start_sample for run in later] == [610 * PACKET]

    def test_a_muted_speaker_leaves_a_hole(self, tmp_path: Path) -> None:
        """Packets on both sides of a mute are two runs, each at its own place."""
        samples = sound(("s", 1.0), ("-", 3.0), ("s", 1.0))
        samples[samples < 0.3] = 0
        packets = self.queue(tmp_path, samples, mute=1.0)

        runs = packets.drain(now_seconds=5.0)

        starts = [run.start_sample / RATE for run in runs]
        lengths = [len(run.samples) / RATE for run in runs]
        assert starts == pytest.approx([0.0, 3.8])
        assert lengths == pytest.approx([2.0, 1.2])
        assert packets.first_seconds == pytest.approx(0.02)

    def test_silent_track(self, tmp_path: Path) -> None:
        """Who never makes a sound never sends a packet."""
        packets = self.queue(tmp_path, np.zeros(RATE, np.float32))

        assert packets.first_seconds is None
        assert packets.drain(now_seconds=1.0) == []

    def test_without_muting_silence_is_sent(self) -> None:
        """From the first sound on everything is sent if the speaker never mutes."""
        samples = np.zeros(100 * PACKET, np.float32)
        samples[50 * PACKET] = 0.5

        sent = packets_sent(samples, mute_after_seconds=None)

        assert np.flatnonzero(sent).tolist() == list(range(40, 100))


class TestTicker:
    """Rule 12's ticks."""

    def test_on_time(self) -> None:
        """Ticks are 2 s apart whatever a look at the window takes."""
        assert next_tick(10.0, now_seconds=10.3, has_waited=False) == 12.0

    @pytest.mark.parametrize(("now_seconds", "due_seconds"), [(11.9, 12.0), (12.1, 14.0)])
    def test_ticks_are_lost_while_waiting(self, now_seconds: float, due_seconds: float) -> None:
        """After a wait the next tick is one that is still to come."""
        assert next_tick(10.0, now_seconds=now_seconds, has_waited=True) == due_seconds

    def test_one_late_tick_is_made_up_for(self) -> None:
        """Of the ticks that were missed otherwise, one is run at once."""
        assert next_tick(10.0, now_seconds=16.5, has_waited=False) == 16.0


class TestSpeechParts:
    """Rule 7: where the voice network's probabilities make speech."""

    def test_pads_both_ends(self) -> None:
        """Speech begins 60 ms before its first window and ends 60 ms after its last."""
        parts = speech_parts(
            [SILENCE] * 10 + [SPEECH] * 20 + [SILENCE] * 20, RULES, sample_count=50 * NETWORK_WINDOW
        )

        assert parts == [(10 * NETWORK_WINDOW - PAD, 31 * NETWORK_WINDOW + PAD)]

    @pytest.mark.parametrize(("silent_windows", "part_count"), [(5, 1), (6, 2)])
    def test_silence_of_150_ms_ends_speech(self, silent_windows: int, part_count: int) -> None:
        """A pause ends speech when it has lasted for 150 ms after its first window."""
        probabilities = [SPEECH] * 20 + [SILENCE] * silent_windows + [SPEECH] * 20

        parts = speech_parts(probabilities, RULES, sample_count=60 * NETWORK_WINDOW)

        assert len(parts) == part_count

    def test_doubt_neither_begins_nor_ends(self) -> None:
        """Between 0.35 and 0.5 nothing changes."""
        assert speech_parts([DOUBT] * 50, RULES, sample_count=50 * NETWORK_WINDOW) == []
        assert speech_parts([SPEECH] + [DOUBT] * 49, RULES, sample_count=25_600) == [(0, 25_600)]

    def test_speech_cancels_a_drop(self) -> None:
        """One window of speech within the 150 ms starts the count anew."""
        probabilities = [SPEECH, *[SILENCE] * 4, SPEECH, *[SILENCE] * 4]

        assert speech_parts(probabilities, RULES, sample_count=5_120) == [(0, 5_120)]


class TestSegments:
    """Rule 8: speech and silence, covering the window."""

    def test_cover_the_window(self) -> None:
        """Segments alternate and leave nothing out."""
        segments = split([(1_000, 9_000), (20_000, 30_000)], sample_count=40_000)

        assert segments == [
            Segment(start=0, end=1_000, is_speech=False),
            Segment(start=1_000, end=9_000, is_speech=True),
            Segment(start=9_000, end=20_000, is_speech=False),
            Segment(start=20_000, end=30_000, is_speech=True),
            Segment(start=30_000, end=40_000, is_speech=False),
        ]

    @pytest.mark.parametrize(("length", "is_speech"), [(5_279, False), (5_280, True)])
    def test_speech_shorter_than_330_ms_is_silence(self, length: int, *, is_speech: bool) -> None:
        """No word is that short: the segment stays, as silence."""
        assert split([(0, length)], sample_count=length) == [
            Segment(start=0, end=length, is_speech=is_speech)
        ]

    def test_silence_is_zeroed_in_a_copy(self) -> None:
        """What is recognised has no sound but speech; the window itself keeps everything."""
        samples = np.ones(10, np.float32)

        cleaned = silence_zeroed(samples, [Segment(start=0, end=4, is_speech=False)])

        assert cleaned.tolist() == [0] * 4 + [1] * 6
        assert samples.tolist() == [1] * 10


class TestTrackWindow:
    """Rules 1 to 11: what a tick makes of the window."""

    def test_offers_the_whole_window(self) -> None:
        """Every tick with new speech offers all from the window's beginning."""
        live = Live()

        first, second = live.hear_offered(("s", 2.0)), live.hear_offered(("s", 2.0))

        assert (first.start_seconds, first.end_seconds, first.new_audio_ms) == (0, 2, 2_000)
        assert (second.start_seconds, second.end_seconds, second.new_audio_ms) == (0, 4, 2_000)
        assert len(second.samples) == 4 * RATE

    def test_new_audio_counts_from_the_last_look(self) -> None:
        """Audio that piled up over missed ticks is all new."""
        live = Live()
        live.hear(("s", 2.0))

        assert live.hear_offered(("s", 5.5)).new_audio_ms == 5_500

    def test_too_short(self) -> None:
        """Less than one window of the network is not looked at; it counts as new the next time."""
        live = Live()

        assert live.hear(("s", 511 / RATE)) is None
        assert live.hear_offered(("s", 2.0)).new_audio_ms == 2_031

    def test_silence_around_speech_is_zeroed(self) -> None:
        """The offered copy has only the speech."""
        offer = Live().hear_offered(("-", 1.0), ("s", 0.5), ("-", 0.5))

        assert offer.samples[: RATE // 2].max() == 0
        assert offer.samples[round(1.2 * RATE)] == 0.5
        assert offer.samples[-RATE // 10 :].max() == 0

    def test_no_growth_offers_nothing_and_clears_after_3_s(self) -> None:
        """A muted speaker's window is kept for 3 s after the last audio, then thrown away."""
        live = Live()
        live.hear(("s", 2.0))

        assert live.hear() is None
        assert len(live.window) == 2 * RATE
        assert live.hear() is None
        assert len(live.window) == 0
        live.track_sample += 4 * RATE
        offer = live.hear_offered(("s", 2.0))
        assert (offer.start_seconds, offer.end_seconds, offer.new_audio_ms) == (6, 8, 2_000)

    @pytest.mark.parametrize(("seconds", "dropped"), [(9.98, 0), (10.0, 1)])
    def test_window_of_12_s_is_dropped(self, seconds: float, dropped: int) -> None:
        """At 12 s the window goes, unread, and is counted."""
        live = Live()
        live.hear(("s", 2.0))

        offer = live.hear(("s", seconds), after_seconds=seconds)

        assert live.window.windows_dropped == dropped
        assert (offer is None) == bool(dropped)

    def test_unmuted_silence_ends_in_a_drop(self) -> None:
        """Without any speech the window only grows, until it is dropped."""
        live = Live()

        offers = [live.hear(("-", 2.0)) for _ in range(6)]

        assert offers == [None] * 6
        assert live.window.windows_dropped == 1
        assert len(live.window) == 0

    def test_short_speech_is_offered_nowhere(self) -> None:
        """A click of 100 ms is no new speech."""
        assert Live().hear(("-", 1.0), ("s", 0.1), ("-", 0.9)) is None

    def test_new_silence_is_not_offered(self) -> None:
        """Once the speech is done, a tick of silence after it has nothing new."""
        live = Live()
        live.hear(("s", 1.0), ("-", 1.0))

        assert live.hear(("-", 1.5)) is None
        assert len(live.window) == 3.5 * RATE
        assert live.hear_offered(("s", 2.0)).end_seconds == 5.5

    def test_silence_of_3_s_finishes_the_window(self) -> None:
        """Silence counts from where it began, before what was done; at 3 s the window is over."""
        live = Live()
        live.hear(("s", 1.0), ("-", 1.0))

        live.hear(("-", 2.1))
        offer = live.hear_offered(("s", 2.0))

        assert offer.start_seconds == pytest.approx(4.1)
        assert live.window.windows_dropped == 0

    def test_done_inside_speech_looks_again(self) -> None:
        """Speech that was on at the last look makes the silence after it worth one more."""
        live = Live()
        live.hear(("s", 2.0))

        assert live.hear_offered(("-", 2.0)).end_seconds == 4

    def test_untaken_offer_counts_as_done(self) -> None:
        """Last words that found the queue full are not offered again."""
        live = Live()
        live.hear(("s", 1.5), ("-", 0.5))

        assert live.hear(("-", 1.5)) is None

    def test_cuts_whole_segments_to_8_s(self) -> None:
        """Above 8 s the oldest segments go, whole, after the offer of all."""
        live = Live()
        live.hear(("s", 2.0))
        live.hear(("-", 1.0), ("s", 3.0))

        offer = live.hear_offered(("s", 3.0))
        cut = live.hear_offered(("s", 2.0))

        assert (offer.start_seconds, offer.end_seconds) == (0, 9)
        # The first words and the silence after them: 8 s are left only without both or less.
        assert cut.start_seconds == pytest.approx(2.1, abs=0.05)
        assert cut.end_seconds == 11
        assert cut.new_audio_ms == 2_000

    def test_cut_moves_what_is_done(self) -> None:
        """After a cut, silence is still known to follow only what was done."""
        live = Live()
        live.hear(("s", 2.0))
        live.hear(("-", 1.0), ("s", 3.0))
        live.hear(("s", 2.5), ("-", 0.5))

        assert live.hear(("-", 1.0)) is None

    def test_one_long_segment_is_cut_to_its_end(self) -> None:
        """A speaker without a pause of 150 ms loses the whole window at once."""
        live = Live()
        live.hear(("s", 2.0))

        offer = live.hear_offered(("s", 7.0))
        following = live.hear_offered(("s", 2.0))

        assert (offer.start_seconds, offer.end_seconds) == (0, 9)
        assert (following.start_seconds, following.end_seconds) == (9, 11)
        assert following.new_audio_ms == 2_000

    def test_times_follow_holes(self) -> None:
        """A short mute closes up in the window, but its ends keep their places in the track."""
        live = Live()
        live.hear(("s", 2.0))
        live.track_sample += round(1.5 * RATE)

        offer = live.hear_offered(("s", 1.0))

        assert len(offer.samples) == 3 * RATE
        assert (offer.start_seconds, offer.end_seconds) == (0, 4.5)

    def test_times_follow_holes_through_a_cut(self) -> None:
        """Where the cut falls after a hole, the window begins at its place in the track."""
        live = Live()
        live.hear(("s", 2.0), ("-", 1.0))
        live.track_sample += RATE
        live.hear(("s", 3.0), ("-", 0.5))
        live.hear(("s", 3.0))

        offer = live.hear_offered(("s", 1.0))

        # 9.5 s of sound were held; the first 2 s of speech went, the silence was still needed.
        assert offer.start_seconds == pytest.approx(2.1, abs=0.05)
        assert offer.end_seconds == 11.5


def caption(text: str, start: float, end: float, speaker: str = "ann") -> Caption:
    """A caption of this window."""
    return Caption(
        speaker=speaker,
        text=text,
        window_start_seconds=start,
        window_end_seconds=end,
        new_audio_len_ms=2_000,
        emitted_seconds=end,
    )


def texts(*captions: Caption) -> list[str]:
    """The final texts, without their places."""
    return [final.text for final in final_texts(captions)]


class TestFinalTexts:
    """What a reader is left with."""

    def test_growing_window_replaces(self) -> None:
        """Of captions of one window only the last one counts."""
        assert texts(caption("one too", 0, 2), caption("one two three", 0, 4)) == ["one two three"]

    def test_next_window_is_a_text_of_its_own(self) -> None:
        """A window that begins where the last one ended, or later, takes nothing away."""
        assert final_texts(
            [caption("one", 0, 2), caption("two", 2, 4), caption("three", 9, 10)]
        ) == [
            FinalText(speaker="ann", start_seconds=0, text="one"),
            FinalText(speaker="ann", start_seconds=2, text="two"),
            FinalText(speaker="ann", start_seconds=9, text="three"),
        ]

    def test_cut_keeps_the_words_before_it(self) -> None:
        """Words that were cut off stay; what both captions have is taken once."""
        assert texts(
            caption("One two three, four five sex", 0, 9),
            caption("Three four five six seven.", 4, 11),
        ) == ["One two Three four five six seven."]

    def test_join_is_made_with_the_last_caption_after_the_cut(self) -> None:
        """A caption soon after the cut that is replaced itself leaves no trace."""
        assert texts(
            caption("one two three four", 0, 9),
            caption("tree for", 4, 9),
            caption("three four five", 4, 11),
        ) == ["one two three four five"]

    def test_several_cuts(self) -> None:
        """A long speech is joined window by window."""
        assert texts(
            caption("a b c d e", 0, 9), caption("c d e f g", 4, 13), caption("f g h i", 8, 16)
        ) == ["a b c d e f g h i"]

    def test_speakers_are_apart(self) -> None:
        """Captions of others in between change nothing; texts come by their start."""
        assert final_texts(
            [caption("x", 1, 3, "bob"), caption("a", 0, 4), caption("x y", 1, 5, "bob")]
        ) == [
            FinalText(speaker="ann", start_seconds=0, text="a"),
            FinalText(speaker="bob", start_seconds=1, text="x y"),
        ]

    def test_nothing(self) -> None:
        """Without captions there are no texts."""
        assert final_texts([]) == []


class TestSeam:
    """Where two captions that overlap are joined."""

    @pytest.mark.parametrize(
        ("old", "new", "cut_share", "place"),
        [
            ("a b c d", "c d e", 0.5, (2, 0)),
            ("A, b. c d?", "C d; e", 0.5, (2, 0)),
            ("a b c d", "x c d e", 0.5, (2, 1)),
            ("a b c d", "x y z", 0.5, (2, 0)),
            ("a b c d", "b x y", 0.75, (3, 0)),
            ("a b", "x a b c", 0.5, (0, 1)),
            ("a b c", "v w x y z a b", 0.0, (0, 0)),
            ("so far so far so good", "so far so good", 0.33, (2, 0)),
            ("go on go on", "go on then", 0.6, (2, 0)),
            ("go on go on", "go on then", 0.1, (0, 0)),
            ("", "a b", 0.5, (0, 0)),
            ("a b", "", 0.5, (1, 0)),
        ],
        ids=[
            "run",
            "spelling",
            "words before the run come from the old",
            "no run: share of time",
            "one word is no run",
            "old begins within new",
            "run too far into the new",
            "longest run",
            "of equal runs the one that fits the time, late",
            "of equal runs the one that fits the time, early",
            "no old words",
            "no new words",
        ],
    )
    def test_place(self, old: str, new: str, cut_share: float, place: tuple[int, int]) -> None:
        """How many old words stay and how many new ones are left out."""
        assert seam(old.split(), new.split(), cut_share=cut_share) == place


@pytest.fixture
def request_document(tmp_path: Path, models_directory: Path) -> dict[str, Any]:
    """What the benchmark asks for: one call of 7 s."""
    tracks = [(path.stem, str(path)) for path in sorted(SAMPLE_CALL.glob("*.ogg"))]
    return {
        "calls": [{"tracks": tracks}],
        "model_directory": str(models_directory / "tiny.en"),
        "stagger_seconds": 1.0,
        "seconds": 7.0,
        "result_path": str(tmp_path / "result.json"),
        "progress_path": str(tmp_path / "progress"),
    }


class TestSharedQueue:
    """Rule 10: one place for the windows of all tracks."""

    def test_full_queue_is_counted_and_not_waited_for(self, tmp_path: Path) -> None:
        """A window that finds the place taken is counted and gets no caption."""
        with AudioStream(SAMPLE_CALL / "nina.ogg") as stream:
            samples = next(stream.blocks()).samples[: 4 * RATE]
        write_packets(samples, tmp_path / "0", mute_after_seconds=None)
        tasks: queue.Queue[Any] = queue.Queue(QUEUE_WINDOWS)
        tasks.put_nowait("the window of somebody else")
        track = Track("nina", PacketQueue(tmp_path / "0"), tasks)

        track.run(started_at=time.monotonic() - 3.0, end_seconds=4.0)

        assert track.buffer_full == 1
        assert track.captions == []
        assert tasks.qsize() == 1


class TestProgram:
    """The whole baseline in real time, with its real engines."""

    PROGRAM = (sys.executable, "-m", "callsd_bench.captions.baseline.calls")

    def run(self, document: dict[str, Any]) -> "subprocess.CompletedProcess[bytes]":
        """Run it as the benchmark does."""
        return subprocess.run(
            self.PROGRAM,
            input=json.dumps(document).encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )

    @pytest.mark.alone
    def test_two_calls(self, request_document: dict[str, Any], tmp_path: Path) -> None:
        """Each call gets its captions, none before it was said, and progress is told."""
        request_document["calls"] *= 2

        ended = self.run(request_document)

        assert ended.returncode == 0, ended.stderr.decode()
        document = json.loads((tmp_path / "result.json").read_bytes())
        for call in (0, 1):
            captions = [item for item in document["captions"] if item["call"] == call]
            assert {item["speaker"] for item in captions} == {"nina"}
            assert all(item["emitted_seconds"] > item["window_end_seconds"] for item in captions)
            assert {item["window_start_seconds"] for item in captions} == {0.66}
            (final,) = [item for item in document["final_texts"] if item["call"] == call]
            assert "one question for the notes" in final["text"].lower()
            assert (final["speaker"], final["start_seconds"]) == ("nina", 0.66)
        assert document["windows_dropped"] == document["pkt_payload_ch_buf_full"] == 0
        assert document["jobs_cpu_seconds"] > 0.5
        assert 0 < float((tmp_path / "progress").read_text()) <= 1

    def test_missing_model(self, request_document: dict[str, Any], tmp_path: Path) -> None:
        """Without weights the run fails and says why, at once."""
        request_document["model_directory"] = str(tmp_path)

        ended = self.run(request_document)

        assert ended.returncode != 0
        assert "f16.bin" in ended.stderr.decode()
        assert not (tmp_path / "result.json").exists()

    def test_jobs_do_not_outlive_the_benchmark(self, request_document: dict[str, Any]) -> None:
        """When the program is killed, its jobs end within seconds, not with their calls."""
        del request_document["seconds"]
        with subprocess.Popen(
            self.PROGRAM, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as program:
            assert program.stdin is not None
            program.stdin.write(json.dumps(request_document).encode())
            program.stdin.close()
            job = self.started_job(psutil.Process(program.pid))
            program.send_signal(signal.SIGKILL)

        assert psutil.wait_procs([job], timeout=15)[1] == []

    @staticmethod
    def started_job(program: psutil.Process) -> psutil.Process:
        """The process of the only call, once it has its model."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for child in program.children():
                if "callsd_bench.captions.baseline.job" in child.cmdline() and child.threads()[5:]:
                    return child
            time.sleep(0.05)
        pytest.fail("no job was started", pytrace=False)
