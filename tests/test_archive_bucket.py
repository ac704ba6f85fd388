"""An archive in an object store: in memory, over S3's requests, and where there is none."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from archive_support import Keeper, archive_at, archiving, event_of, recorded
from callback_peer import deliveries_in, hurry, make_due, until
from faulty_platform import FaultyPlatform, always, http, unreachable
from object_server import BUCKET, KEY, KEY_ID, object_server, store_at
from obstore.store import HTTPStore, LocalStore, MemoryStore
from test_archive_destination import pieces_of, put

from qmc_async import ConfigError, RecordingArchive
from qmc_async.archive.destination import Bucket, Folder, destination_at

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ("2026/01/31/4711.wav", "a/%2Eb c.wav", "录音/1.wav", "~!@#$&'()*+,;=[x]{y}.wav")
SECRETS = ("planted-password", "planted-signature", "planted-user", KEY, KEY_ID)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("where", ["memory", "s3"])
async def test_a_bucket_keeps_files(key: str, where: str) -> None:
    """What was put is there under its key, until it is replaced or deleted."""
    async with object_server() as server:
        bucket = destination_at(MemoryStore() if where == "memory" else store_at(server.url))
        first = await put(bucket, key, b"one")
        assert where == "memory" or server.objects == {f"rec/{key}": b"one"}
        assert await bucket.read(key) == b"one"
        stat = await bucket.stat(key)
        assert stat is not None
        assert (stat.length, stat.version) == (3, first)
        assert await put(bucket, key, b"other") != first
        assert await bucket.read(key) == b"other"
        assert await bucket.keys() == [key]
        await bucket.delete(key)
        await bucket.delete(key)
        assert await bucket.keys() == []
        assert await bucket.read(key) is None
        assert await bucket.stat(key) is None
        assert await pieces_of(bucket, key) == []


async def test_a_long_file_goes_and_comes_in_parts() -> None:
    """No request is so long that it could not end in time, and no file is in memory as a whole."""
    data = os.urandom((20 << 20) + 1)
    async with object_server() as server:
        bucket = destination_at(store_at(server.url))
        version = await put(bucket, "long", data)
        assert server.objects == {"rec/long": data}
        assert len(server.asked) > 4
        found = await bucket.stat("long")
        assert found is not None
        assert found.version == version
        pieces = await pieces_of(bucket, "long")
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= 8 << 20


async def test_a_recording_in_a_bucket(tmp_path: Path) -> None:
    """An archive in an object store is whole, and nothing of it stays on this machine."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    async with (
        object_server() as server,
        FaultyPlatform(Keeper()) as platform,
        archive_at(store_at(server.url), platform.url, key="{call_id}") as archive,
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(scratch))
            assert await archive.archive(event_of())
        assert not await archive.archive(event_of())
        assert set(server.objects) == {"rec/4711.wav", "rec/4711.json"}
        changes = [one for one in server.asked if not one.startswith(("GET", "HEAD"))]
        # Nothing is deleted where nothing was: who may only add to a bucket can archive.
        assert changes == ["PUT rec/4711.wav", "PUT rec/4711.json"]
    assert not list(scratch.iterdir())


async def test_an_object_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again until it is back; its errors show no credentials."""
    hurry(monkeypatch)
    async with (
        object_server() as server,
        FaultyPlatform(Keeper()) as platform,
        archiving(tmp_path, platform.url, store_at(server.url)) as there,
    ):
        server.status = 503
        await there.post(recorded())
        await until(lambda: there.waits_for("the archive in S3Store: "))
        server.status = 200
        make_due(tmp_path)
        await until(lambda: deliveries_in(tmp_path) == {"archive": ("done", 0, None)})
        assert len(server.objects) == 2
    for secret in SECRETS:
        assert secret not in caplog.text


async def test_every_operation_tells_what_went_wrong_without_a_secret() -> None:
    """Each raises `OSError`, as a disk does, with the place, and no chained exception."""
    async with unreachable() as url:
        bucket = destination_at(store_at(url))
        for work in (
            lambda: put(bucket, "k", b"x"),
            lambda: bucket.read("k"),
            lambda: bucket.stat("k"),
            lambda: bucket.delete("k"),
            lambda: pieces_of(bucket, "k"),
            bucket.keys,
        ):
            with pytest.raises(OSError, match="the archive in S3Store: ") as caught:
                await work()
            error = caught.value
            assert error.__cause__ is error.__context__ is None
            assert "\n" not in str(error)
            assert len(str(error)) < 400
            assert not any(secret in repr(error) for secret in SECRETS)


async def test_a_password_in_an_address_of_the_store() -> None:
    """What obstore quotes of the address loses its password and its signature."""
    url = "http://planted-user:planted-password@127.0.0.1:9/x?sig=planted-signature"
    store = HTTPStore(url, retry_config={"max_retries": 0})
    bucket = destination_at(store)
    with pytest.raises(OSError, match="HTTPStore") as caught:
        await put(bucket, "k", b"x")
    assert not any(secret in str(caught.value) for secret in SECRETS)


async def test_a_store_that_gives_no_version() -> None:
    """A web server that does not tag what it was sent is an archive too."""
    async with FaultyPlatform(Keeper()) as platform, object_server() as server:
        store = HTTPStore(server.url, client_options={"allow_http": True})
        async with archive_at(store, platform.url, key="{call_id}") as archive:
            server.tags_what_is_put = False
            assert await archive.archive(event_of())
        assert set(server.objects) == {"4711.wav", "4711.json"}


# --- what is meant -----------------------------------------------------------------------------


def test_urls_of_object_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what obstore makes of them, called by their address without the rest."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    bucket = destination_at("s3://planted-user:planted-password@b/a?sig=planted-signature")
    assert isinstance(bucket, Bucket)
    assert bucket.place == "s3://b/a"
    store: Any = vars(bucket)["_store"]
    assert (store.config["bucket"], store.prefix) == ("b", "a")


async def test_a_url_leads_to_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment's endpoint and credentials, as for Alibaba's OSS."""
    async with object_server() as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        monkeypatch.setenv("AWS_ENDPOINT", server.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        await put(destination_at(f"s3://{BUCKET}/here"), "k", b"x")
        assert server.objects == {"here/k": b"x"}


@pytest.mark.parametrize(
    "url",
    [
        "ftp://planted-user:planted-password@host/x?sig=planted-signature",
        "nope://planted-user:planted@planted-password@host",
        "s3://planted-user:planted-password@bu^cket/x",
        "abfss://planted-user:planted-password@x/y",
        "s3://",
        "s3://[",
        "://",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    """One line that names the setting, and quotes neither a password nor a signature."""
    with pytest.raises(ConfigError, match=r"^destination: ") as caught:
        destination_at(url)
    error = caught.value
    assert error.setting == "destination"
    assert "\n" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert not any(secret in str(error) for secret in SECRETS)


@pytest.mark.parametrize("given", [None, 5, b"recordings", object(), MemoryStore, ["a"]])
def test_objects_that_are_no_destination(given: Any) -> None:  # noqa: ANN401 - callers err
    """The error says what there is, and of what type this was."""
    with pytest.raises(ConfigError, match=r"must be a folder, a URL .* not ") as caught:
        destination_at(given)
    assert type(given).__name__ in str(caught.value)


@pytest.mark.parametrize("given", ["s3://bucket/prefix", MemoryStore()])
async def test_without_obstore(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 - both kinds
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'qmc-async\[archive\]'") as caught:
        destination_at(given)
    assert caught.value.setting == "destination"


async def test_a_local_store_is_a_folder(tmp_path: Path) -> None:
    """Obstore would not wait for the disk; its prefix is the folder, and without one it is /."""
    folder = destination_at(LocalStore(tmp_path))
    assert isinstance(folder, Folder)
    assert folder.place == str(tmp_path)
    assert destination_at(LocalStore()).place == "/"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("<Error><Code>SignatureDoesNotMatch</Code>%s</Error>", "SignatureDoesNotMatch"),
        ("<Error>%s<Code>AccessDenied</Code></Error>", "AccessDenied"),
        ("<html>%s</html>", "403"),
    ],
)
async def test_what_a_store_quotes(body: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that shows which signature it got is not repeated; why it refuses is."""
    quoted = f"<SignatureProvided>planted-signature</SignatureProvided><Id>{KEY_ID}</Id>"
    refusal = http((body % quoted).encode(), "403 Forbidden", "Content-Type: application/xml\r\n")
    async with FaultyPlatform(always(refusal)) as store:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        monkeypatch.setenv("AWS_ENDPOINT", store.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        with pytest.raises(OSError, match=told) as caught:
            await destination_at("s3://bucket/prefix").keys()
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


async def test_its_representation_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive's repr has its place, without what may be secret in the URL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    url = "s3://planted-user:planted-password@b/a?sig=planted-signature"
    async with archive_at(url, "http://127.0.0.1:9") as archive:
        assert isinstance(archive, RecordingArchive)
        assert repr(archive) == "RecordingArchive('s3://b/a')"
