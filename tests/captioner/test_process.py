# SPDX-License-Identifier: Apache-2.0
"""The captioner as the daemon meets it: a process, orders, reports."""

import itertools
import random

import jiwer
import numpy as np
import pytest
from whisper_normalizer.english import EnglishTextNormalizer

from callsd_ipc.v1 import worker_pb2
from callsd_worker.media.decode import SAMPLE_RATE_HZ, Samples
from tests.helpers.waiting import eventually

from .conftest import TOKEN, Captioner, StartCaptioner
from .sound import MAYA_SECONDS, MAYA_TEXT, cut, decoded, opus_pieces, pcm_pieces


EXIT_SECONDS = 5.0
OVERLOAD_TRACKS = 40

normalise = EnglishTextNormalizer()


def errors(said: str, heard: str) -> int:
    """Words that are wrong, missing or too many."""
    outcome = jiwer.process_words(normalise(said), normalise(heard) or "-")
    return outcome.substitutions + outcome.deletions + outcome.insertions


@pytest.fixture(scope="module")
def maya() -> Samples:
    """Maya's first turn."""
    return cut(decoded("maya"), MAYA_SECONDS)


class TestWords:
    """Sound in, words out."""

    def test_finals_say_what_was_said(self, shared_captioner: Captioner, maya: Samples) -> None:
        """Final words are right, in order, apart from each other, and positions only grow."""
        one, track = shared_captioner, shared_captioner.new_track()
        start = 100 * SAMPLE_RATE_HZ
        one.open(track, start_sample=0)
        one.hear(pcm_pieces(maya, track=track, start_sample=start))
        one.end_speech(track)

        finals = one.finals(track)
        assert errors(MAYA_TEXT, one.text(track)) <= 1
        assert all(start <= w.start_sample < w.end_sample for w in finals)
        assert all(a.end_sample <= b.start_sample for a, b in itertools.pairwise(finals))
        processed = [update.processed_sample for update in one.update(track)]
        assert processed == sorted(processed)
        assert processed[-1] >= finals[-1].end_sample
        assert one.hellos[0].token == TOKEN
        assert one.statuses[0].peak_memory_bytes > 0
        assert one.statuses[0].engine == "ctranslate2"

    def test_speech_begins_and_ends(self, shared_captioner: Captioner, maya: Samples) -> None:
        """Viewers are told of speech as it begins and ends, by turns."""
        one, track = shared_captioner, shared_captioner.new_track()
        one.open(track)
        one.hear(pcm_pieces(maya, track=track))
        one.end_speech(track)

        changes = [update.speech for update in one.update(track) if update.speech]
        assert changes[0] == worker_pb2.SPEECH_CHANGE_BEGIN
        assert changes[-1] == worker_pb2.SPEECH_CHANGE_END
        assert all(a != b for a, b in itertools.pairwise(changes))

    def test_opus_that_is_lost_and_late(self, shared_captioner: Captioner) -> None:
        """With 5 % of the packets lost and others in changed order the words still come."""
        one, track = shared_captioner, shared_captioner.new_track()
        chance = random.Random(7)  # noqa: S311 - the same losses each time
        whole = opus_pieces("maya", MAYA_SECONDS, track=track)
        pieces = [whole[0], *(p for p in whole[1:-1] if chance.random() >= 0.05), whole[-1]]
        for index in range(0, len(pieces) - 2, 9):
            pieces[index], pieces[index + 1] = pieces[index + 1], pieces[index]
        one.open(track, is_opus=True)
        one.hear(pieces)
        one.end_speech(track)

        assert errors(MAYA_TEXT, one.text(track)) <= 3
        assert one.skipped_samples(track) == (len(whole) - len(pieces)) * 320
        assert len(pieces) < len(whole)

    def test_damaged_packets(self, shared_captioner: Captioner) -> None:
        """Empty, cut and random packets are heard over; the words after them are right."""
        one, track = shared_captioner, shared_captioner.new_track()
        pieces = opus_pieces("maya", MAYA_SECONDS, track=track)
        chance = random.Random(3)  # noqa: S311 - the same damage each time
        for index in (3, 4, 5, 6, 7):
            pieces[index].data = chance.randbytes(index * index)
        pieces[8].data = b""
        pieces[9].data = b"\x03"
        one.open(track, is_opus=True)
        one.hear(pieces)
        one.end_speech(track)

        assert errors(MAYA_TEXT, one.text(track)) <= 2
        assert one.skipped_samples(track) >= 640

    def test_replay_doubles_nothing(self, shared_captioner: Captioner) -> None:
        """What lies before the track's start is known: only what follows becomes words."""
        one = shared_captioner
        first, second = one.new_track(), one.new_track()
        one.open(first, is_opus=True)
        one.hear(opus_pieces("maya", MAYA_SECONDS, track=first))
        one.end_speech(first)
        sentence = one.finals(first)[0]
        one.open(second, is_opus=True, start_sample=sentence.end_sample)
        one.hear(opus_pieces("maya", MAYA_SECONDS, track=second))
        one.end_speech(second)

        assert len(one.finals(first)) >= 2
        assert one.finals(second)[0].start_sample >= sentence.end_sample
        assert errors(MAYA_TEXT, f"{sentence.text} {one.text(second)}") <= 2

    def test_it_keeps_nothing(self, captioner: StartCaptioner, maya: Samples) -> None:
        """Whatever is said, no file comes of it but the log: it needs to see no job's directory.

        Of its model it has names only, which lead to what it was handed.
        """
        one = captioner().loaded()
        one.open()
        one.hear(pcm_pieces(maya))
        one.end_speech()
        one.send(stop=worker_pb2.Stop())

        assert one.process.wait(EXIT_SECONDS) == 0
        assert {file.name for file in one.directory.iterdir()} == {"log.txt", "inputs"}
        inputs = [path for path in one.directory.rglob("inputs/**/*") if not path.is_dir()]
        assert {path.is_symlink() for path in inputs} == {True}
        assert {str(path.readlink()).rpartition("/")[0] for path in inputs} == {"/proc/self/fd"}

    def test_two_calls_share_the_costs(self, captioner: StartCaptioner, maya: Samples) -> None:
        """Each call is charged for its own speech, and a silent one for next to nothing."""
        one = captioner(workers=2).loaded()
        one.open(track=1, job_id="talks")
        one.open(track=2, job_id="is-silent")
        one.hear(pcm_pieces(maya, track=1))
        one.hear(pcm_pieces(maya * 0, track=2))
        one.end_speech(1)
        one.end_speech(2)

        def costs() -> dict[str, float]:
            return {cost.job_id: cost.cpu_seconds for cost in one.statuses[-1].costs}

        eventually(lambda: len(costs()) == 2, "both are charged")
        found = costs()
        assert found["talks"] > 0.05
        assert found["is-silent"] < 0.2 * found["talks"]
        assert not one.finals(2)

    def test_what_is_closed_is_silent(self, shared_captioner: Captioner, maya: Samples) -> None:
        """A track that is closed is not heard of again, and its number may not harm others."""
        one = shared_captioner
        closed, other = one.new_track(), one.new_track()
        one.open(closed)
        one.open(other)
        one.send(close=worker_pb2.CloseTrack(track=closed))
        one.hear(pcm_pieces(maya, track=closed) + pcm_pieces(maya, track=other))
        one.end_speech(other)

        assert not one.update(closed)
        assert errors(MAYA_TEXT, one.text(other)) <= 1


class TestFiles:
    """How a captioner comes by its model."""

    def test_asked_with_the_token(self, captioner: StartCaptioner) -> None:
        """It asks for its model's files by their names, and shows its token each time."""
        one = captioner().loaded()

        manifest = [pin.path for pin in one.work.model_files]
        assert [request.name for request in one.asked] == [f"model/{path}" for path in manifest]
        assert {request.hello.token for request in one.asked} == {TOKEN}

    def test_no_disk_in_common(self, captioner: StartCaptioner, maya: Samples) -> None:
        """A captioner without a file socket is sent its model, and serves as well."""
        one = captioner(is_detached=True).loaded()
        one.open()
        one.hear(pcm_pieces(maya))
        one.end_speech()

        assert errors(MAYA_TEXT, one.text()) <= 1
        for pin in one.work.model_files:
            copy = one.directory / "inputs" / "model" / pin.path
            assert copy.stat().st_size == pin.size_bytes

    def test_log_goes_on(self, captioner: StartCaptioner) -> None:
        """Its log is reported from where the daemon has it, and comes to what it wrote."""
        one = captioner(log_kept=5).loaded()

        def parts() -> list[worker_pb2.LogData]:
            return [r.log for r in list(one.reports) if r.HasField("log")]

        eventually(lambda: "loaded" in "".join(p.data.decode() for p in parts()), "it is told")
        assert parts()[0].offset == 5
        assert one.log().encode()[5:].startswith(b"".join(part.data for part in parts()))


def test_overload(captioner: StartCaptioner, maya: Samples) -> None:
    """Far more speech than can be worked off is announced as such; all words still come."""
    one = captioner().loaded()
    twice = np.concatenate([maya, maya])
    tracks = range(1, OVERLOAD_TRACKS + 1)
    for track in tracks:
        one.open(track=track, is_opus=False)
    by_time = zip(*(pcm_pieces(twice, track=track) for track in tracks), strict=True)
    one.hear([piece for pieces in by_time for piece in pieces], per_parcel=OVERLOAD_TRACKS)
    for track in tracks:
        one.send(end=worker_pb2.EndSpeech(track=track))
    eventually(
        lambda: all(one.drained(track) for track in tracks), "all is worked off", seconds=100
    )

    announced = [status for status in one.statuses if status.degraded]
    assert announced
    assert max(status.lag_seconds for status in announced) > 2
    assert max(status.load for status in one.statuses) > 0.8
    assert max(errors(f"{MAYA_TEXT} {MAYA_TEXT}", one.text(track)) for track in tracks) <= 3
    assert not any(one.skipped_samples(track) for track in tracks)


class TestEnd:
    """A captioner that is not needed goes."""

    def test_end_of_the_session(self, captioner: StartCaptioner, maya: Samples) -> None:
        """When the daemon ends the session in the middle of speech, the process ends at once."""
        one = captioner().loaded()
        one.open()
        one.hear(pcm_pieces(maya))
        one.hang_up()

        assert one.process.wait(EXIT_SECONDS) == 0

    def test_death_of_the_daemon(self, captioner: StartCaptioner) -> None:
        """When the server is gone, the process ends."""
        one = captioner().loaded()
        one.stop_server()

        assert one.process.wait(EXIT_SECONDS) == 0

    def test_stop(self, captioner: StartCaptioner) -> None:
        """It ends when it is told to."""
        one = captioner().loaded()
        one.send(stop=worker_pb2.Stop())

        assert one.process.wait(EXIT_SECONDS) == 0

    def test_no_model(self, captioner: StartCaptioner) -> None:
        """What no other captioner could do better is reported, then the process ends."""
        one = captioner(model_files=[])

        failures = eventually(
            lambda: [r.failure for r in one.reports if r.HasField("failure")], "it says why"
        )
        assert failures[0].reason == "MODEL_MISSING"
        assert "pull" in failures[0].message
        assert one.process.wait(EXIT_SECONDS) == 0

    def test_changed_model(self, captioner: StartCaptioner) -> None:
        """Files that are not what they were when they were verified are not opened."""
        pin = worker_pb2.FilePin(path="ctranslate2/config.json", sha256="0" * 64)
        one = captioner(model_files=[pin])

        failures = eventually(
            lambda: [r.failure for r in one.reports if r.HasField("failure")], "it says why"
        )
        assert failures[0].reason == "MODEL_INVALID"
