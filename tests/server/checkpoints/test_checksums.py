"""What comes from a bucket or a hub is what they say it is: each spoken to over a socket, as their own clients speak."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import zlib

import fsspec
import gcsfs.core
import google_crc32c
import pytest
from fsspec.config import conf
from fsspec.registry import _registry
from vlascope_server.checkpoints import CheckpointError, load_checkpoint, remote
from vlascope_server.checkpoints.checksums import Checksum, checksum_of

from .conftest import PI0, assert_same, draw
from .places import COMMIT, GoogleBucket, Hub, git_blob, served

PARAMS = "params/_METADATA"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def contents(saved) -> dict[str, bytes]:
    return {str(path.relative_to(saved)): path.read_bytes() for path in saved.rglob("*") if path.is_file()}


@pytest.fixture
def bucket(contents, monkeypatch):
    """gs://bucket/run/1000, and its server."""
    with served(GoogleBucket, {f"run/1000/{name}": content for name, content in contents.items()}) as (address, server):
        # not the newer client: it asks over gRPC which kind of bucket this is
        monkeypatch.setitem(_registry, "gs", gcsfs.core.GCSFileSystem)
        options = {"endpoint_url": address, "token": "anon", "skip_instance_cache": True, "use_listings_cache": False}
        monkeypatch.setitem(conf, "gs", options)
        monkeypatch.setitem(conf, "gcs", options)
        yield "gs://bucket/run/1000", server, "run/1000/"


@pytest.fixture
def hub(contents, monkeypatch):
    """hf://lab/thing, and its server."""
    with served(Hub, contents) as (address, server):
        monkeypatch.setitem(conf, "hf", {"endpoint": address, "token": False, "skip_instance_cache": True})
        yield f"hf://lab/thing@{COMMIT}", server, ""


@pytest.fixture(params=["bucket", "composite", "hub"])
def place(request):
    """Each place, with the kinds of checksum that it gives."""
    url, server, prefix = request.getfixturevalue("hub" if request.param == "hub" else "bucket")
    server.composite = request.param == "composite"
    return (
        url,
        server,
        prefix,
        {"bucket": {"md5"}, "composite": {"crc32c"}, "hub": {"sha256", "git-sha1"}}[request.param],
    )


def test_a_checkpoint_comes_with_its_checksums(place, caplog):
    url, server, _, kinds = place
    with caplog.at_level(logging.WARNING, logger="vlascope_server"):
        checkpoint = load_checkpoint(url, dtype="float32")
    assert_same(checkpoint.params, draw(PI0))
    assert checkpoint.path is not None
    marker = json.loads((checkpoint.path / ".vlascope-complete.json").read_text())
    assert marker["checksums"].keys() == marker["files"].keys()
    assert {text.split()[0] for text in marker["checksums"].values()} == kinds
    assert "no checksum" not in caplog.text
    server.requests.clear()
    load_checkpoint(url)
    assert server.requests == []


def test_a_file_that_came_damaged_is_named_and_comes_again(place, cache, contents):
    url, server, prefix, _ = place
    server.damaged.add(prefix + PARAMS)  # of the right size
    with pytest.raises(
        CheckpointError, match=rf"{PARAMS}: came with \S+ \w+, expected \S+ \w+ as the place says"
    ) as error:
        load_checkpoint(url)
    assert "\n" not in str(error.value)
    assert not list(cache.rglob("_METADATA*")), "nothing is left of it, and nothing is taken for whole"
    server.damaged.clear()
    assert_same(load_checkpoint(url, dtype="float32").params, draw(PI0))


def test_a_file_that_changed_there_is_not_kept_because_its_size_is_the_same(place, cache, contents):
    url, server, _, _ = place
    folder = remote.fetch(url)
    (folder / ".vlascope-complete.json").unlink()  # as after a download that broke off
    (folder / PARAMS).write_bytes(b"x" * len(contents[PARAMS]))
    server.requests.clear()
    assert remote.fetch(url) == folder
    assert (folder / PARAMS).read_bytes() == contents[PARAMS]
    downloaded = {path for _, path in server.requests if "resolve" in path or "alt=media" in path}
    assert downloaded, "it came again"
    assert all("_METADATA" in path for path in downloaded), "the others did not"


def test_a_list_of_sizes_alone_is_not_enough(bucket, cache):
    """As a vlascope left it that knew no checksums: the place is asked once, and nothing comes twice."""
    url, server, _ = bucket
    marker = remote.fetch(url) / ".vlascope-complete.json"
    said = json.loads(marker.read_text())
    del said["checksums"]
    marker.write_text(json.dumps(said))
    server.requests.clear()
    remote.fetch(url)
    assert server.requests
    assert not [path for _, path in server.requests if "alt=media" in path]
    assert "checksums" in json.loads(marker.read_text())


def test_a_place_without_checksums_is_said(saved, caplog):
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    for path in saved.rglob("*"):
        if path.is_file():
            filesystem.pipe(f"/plain/1000/{path.relative_to(saved)}", path.read_bytes())
    with caplog.at_level(logging.WARNING, logger="vlascope_server"):
        remote.fetch("memory://plain/1000")
    count = sum(path.is_file() for path in saved.rglob("*"))
    assert f"no checksum is given for {count} of {count} files: their sizes are checked" in caplog.text


class OtherPlace:
    protocol = ("https", "http")


class S3:
    """s3fs, as far as checksums need it."""

    protocol = ("s3", "s3a")

    def __init__(self, **head: str):
        self.head = head

    def split_path(self, name: str) -> tuple[str, str, None]:
        bucket, _, key = name.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **options: str) -> dict[str, str]:
        assert (method, options) == ("head_object", {"Bucket": "b", "Key": "k/x", "ChecksumMode": "ENABLED"})
        return self.head


CONTENT = b"parameters" * 1000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False)
SHA256 = hashlib.sha256(CONTENT)
CRC = google_crc32c.Checksum(CONTENT)


def base(digest) -> str:
    return base64.b64encode(digest.digest()).decode()


@pytest.mark.parametrize(
    ("filesystem", "info", "kind"),
    [
        (OtherPlace(), {"Content-MD5": base(MD5)}, "md5"),
        (OtherPlace(), {"Digest": f"md5={base(MD5)},SHA-256={base(SHA256)}"}, "sha256"),
        (OtherPlace(), {"md5Hash": base(MD5), "crc32c": base(CRC)}, "md5"),
        (OtherPlace(), {"crc32c": base(CRC)}, "crc32c"),
        (OtherPlace(), {"blob_id": git_blob(CONTENT)}, "git-sha1"),
        (OtherPlace(), {"blob_id": "0" * 40, "lfs": {"sha256": SHA256.hexdigest()}}, "sha256"),
        (OtherPlace(), {"ETag": f'"{MD5.hexdigest()}"'}, None),  # whatever it is, nobody says that it is an MD5
        (OtherPlace(), {"Digest": "adler32=03da0195", "Content-MD5": "no base64!"}, None),
        (S3(ETag=f'"{MD5.hexdigest()}"'), {}, "md5"),
        (S3(ETag=f'"{MD5.hexdigest()}"', ServerSideEncryption="AES256"), {}, "md5"),
        (S3(ETag=f'"{"0" * 32}"', ServerSideEncryption="aws:kms"), {}, None),
        (S3(ETag=f'"{"0" * 32}"', SSECustomerAlgorithm="AES256"), {}, None),
        (S3(ETag=f'"{"0" * 32}-3"'), {}, None),  # came in parts
        (S3(ETag=f'"{"0" * 32}-3"', ChecksumCRC32C=base(CRC), ChecksumType="FULL_OBJECT"), {}, "crc32c"),
        (S3(ETag=f'"{"0" * 32}-3"', ChecksumSHA256=base(SHA256), ChecksumType="COMPOSITE"), {}, None),
        (S3(ETag=f'"{MD5.hexdigest()}"', ChecksumSHA256=base(SHA256)), {}, "sha256"),
    ],
)  # fmt: skip
def test_the_strongest_checksum_that_a_place_gives(tmp_path, filesystem, info, kind):
    checksum = checksum_of(filesystem, {"name": "b/k/x", **info})
    assert (checksum and checksum.kind) == kind
    if checksum:
        (tmp_path / "file").write_bytes(CONTENT)
        assert checksum.of(tmp_path / "file") == checksum
        (tmp_path / "file").write_bytes(CONTENT[:-1] + b"S")
        assert checksum.of(tmp_path / "file") != checksum


def test_crc32c_is_googles_and_not_zlibs(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")
    assert Checksum("crc32c", "").of(tmp_path / "file").value == "e3069283"  # RFC 3720's check value
    assert f"{zlib.crc32(b'123456789'):08x}" == "cbf43926"
