# SPDX-License-Identifier: Apache-2.0
"""Logs, artifacts and uploads over connections that break."""

from pathlib import Path
from uuid import uuid4

import pytest

from callsd import AsyncClient, Client, IntegrityError, InvalidRequestError
from callsd.v1.job_pb2 import FetchArtifactRequest
from tests.clients.scripted import CONTENT, Scripted


class TestFetchArtifact:
    """Results on their way here."""

    def test_goes_on_after_cuts(self, client: Client, scripted: Scripted, tmp_path: Path) -> None:
        """Each byte is there once, and no byte that has arrived is asked for again."""
        scripted.jobs.breaks = 3
        progress: list[tuple[int, int]] = []

        artifact = client.fetch_artifact(
            "a", "x.json", tmp_path / "x", progress=lambda *now: progress.append(now)
        )
        offsets = [
            request.offset
            for request in scripted.jobs.requests
            if isinstance(request, FetchArtifactRequest)
        ]

        assert (tmp_path / "x").read_bytes() == CONTENT
        assert artifact.name == "jobs/a/artifacts/x.json"
        assert offsets == [0, 200_000, 400_000, 600_000]
        assert progress[-1] == (len(CONTENT), len(CONTENT))
        assert progress == sorted(progress)

    async def test_asyncio_goes_on_after_cuts(self, scripted: Scripted, tmp_path: Path) -> None:
        """The same from asyncio."""
        scripted.jobs.breaks = 2
        async with AsyncClient(scripted.address) as client:
            await client.fetch_artifact("a", "x.json", tmp_path / "x")

        assert (tmp_path / "x").read_bytes() == CONTENT

    def test_wrong_bytes_leave_nothing(
        self, client: Client, scripted: Scripted, tmp_path: Path
    ) -> None:
        """What does not have the announced hash never gets the name, and the old file stays."""
        (tmp_path / "x").write_text("old")
        scripted.jobs.sha256 = "0" * 64

        with pytest.raises(IntegrityError):
            client.fetch_artifact("a", "x.json", tmp_path / "x")

        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x").read_text() == "old"

    def test_file_mode_follows_the_umask(self, client: Client, tmp_path: Path) -> None:
        """A result can be read by whom any new file can be read by."""
        (tmp_path / "other").touch()
        client.fetch_artifact("a", "x.json", tmp_path / "x")

        assert (tmp_path / "x").stat().st_mode == (tmp_path / "other").stat().st_mode


class TestReadLog:
    """Logs."""

    def test_goes_on_after_cuts(self, client: Client, scripted: Scripted) -> None:
        """A log is read once from end to end."""
        scripted.jobs.breaks = 3

        assert b"".join(client.read_log("a")) == CONTENT

    async def test_asyncio_goes_on_after_cuts(self, scripted: Scripted) -> None:
        """The same from asyncio."""
        scripted.jobs.breaks = 3
        async with AsyncClient(scripted.address) as client:
            pieces = [piece async for piece in client.read_log("a")]

        assert b"".join(pieces) == CONTENT


class TestUploadMedia:
    """Sound on its way there."""

    @pytest.fixture
    def sound(self, tmp_path: Path) -> Path:
        """A file of a megabyte."""
        path = tmp_path / "sound.wav"
        path.write_bytes(CONTENT)
        return path

    def test_goes_on_after_cuts(self, client: Client, scripted: Scripted, sound: Path) -> None:
        """No byte that has arrived is sent again."""
        scripted.media.breaks = 1
        progress: list[tuple[int, int]] = []

        upload = client.upload_media(sound, progress=lambda *now: progress.append(now))

        assert upload.complete
        assert scripted.media.received == CONTENT
        assert scripted.media.first_offsets == [0, 524_288]
        assert progress[-1] == (len(CONTENT), len(CONTENT))

    async def test_asyncio_goes_on_after_cuts(self, scripted: Scripted, sound: Path) -> None:
        """The same from asyncio."""
        scripted.media.breaks = 1
        async with AsyncClient(scripted.address) as client:
            assert (await client.upload_media(sound)).complete

        assert scripted.media.received == CONTENT

    def test_waits_for_the_lost_call_to_end(
        self, client: Client, scripted: Scripted, sound: Path
    ) -> None:
        """A server that is still at the lost call is asked again."""
        scripted.media.busy = 2

        assert client.upload_media(sound, upload_id=uuid4()).complete

    def test_an_empty_file_is_named(self, client: Client, tmp_path: Path) -> None:
        """Nothing is sent of a file that holds nothing, and the error says which it is."""
        (tmp_path / "nothing.ogg").touch()

        with pytest.raises(InvalidRequestError, match=r"nothing\.ogg is empty"):
            client.upload_media(tmp_path / "nothing.ogg")

    def test_complete_upload_is_not_sent_again(
        self, client: Client, scripted: Scripted, sound: Path
    ) -> None:
        """The id of a complete upload leads to it without a byte sent."""
        upload_id = uuid4()
        first = client.upload_media(sound, upload_id=upload_id)

        assert client.upload_media(sound, upload_id=upload_id) == first
        assert scripted.media.first_offsets == [0]

    def test_id_of_another_file(self, client: Client, sound: Path, tmp_path: Path) -> None:
        """An id used for another file is refused before anything is sent."""
        upload_id = uuid4()
        client.upload_media(sound, upload_id=upload_id)
        (tmp_path / "other").write_bytes(b"other")

        with pytest.raises(IntegrityError, match="another file"):
            client.upload_media(tmp_path / "other", upload_id=upload_id)
