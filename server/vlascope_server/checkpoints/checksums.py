"""What a bucket or hub says of a file's content, and whether the file that came has it.

Each place has its own way: Google's buckets give MD5 or CRC32C, the Hugging Face hub SHA-256 or git's id of a blob, S3 an ETag
that is an MD5 in some cases only, web servers what they like and most nothing.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_BLOCK = 16 << 20
Kind = Literal["sha256", "git-sha1", "md5", "crc32c"]
_ORDER: tuple[Kind, ...] = ("sha256", "git-sha1", "md5", "crc32c")
"""The strongest first."""


@dataclasses.dataclass(frozen=True)
class Checksum:
    """A checksum of a file's content.

    Attributes:
        kind: `git-sha1` is git's id of a blob: SHA-1 of a line with the size, then the content.
        value: hexadecimal digits.
    """

    kind: Kind
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"

    def of(self, path: Path) -> Checksum:
        """The same kind of checksum of a file here."""
        if self.kind == "crc32c":
            digest = google_crc32c.Checksum()
        else:
            digest = hashlib.new(self.kind.removeprefix("git-"), usedforsecurity=False)
            if self.kind == "git-sha1":
                digest.update(f"blob {path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return Checksum(self.kind, digest.digest().hex())


def checksum_of(filesystem: AbstractFileSystem, info: Mapping[str, Any]) -> Checksum | None:
    """The strongest checksum that a place gives of a file's content; None where it gives none.

    Args:
        filesystem: fsspec's, of the place.
        info: what `filesystem.info` says of the file.
    """
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple | list) else (filesystem.protocol,)
    given = _of_s3(filesystem, info["name"]) if {"s3", "s3a"} & set(protocols) else _of_others(info)
    return next((Checksum(kind, value) for kind in _ORDER if (value := given.get(kind))), None)


def _of_others(info: Mapping[str, Any]) -> dict[Kind, str | None]:
    lfs, digests = info.get("lfs"), {}
    for part in str(info.get("Digest") or "").split(","):  # RFC 3230
        name, _, value = part.strip().partition("=")
        digests[name.lower()] = value
    return {
        "sha256": (lfs["sha256"] if lfs else None) or _hex(digests.get("sha-256"), 32),
        "git-sha1": None if lfs else info.get("blob_id"),
        "md5": _hex(info.get("md5Hash") or info.get("Content-MD5"), 16) or _hex(digests.get("md5"), 16),
        "crc32c": _hex(info.get("crc32c"), 4),
    }


def _of_s3(filesystem: Any, name: str) -> dict[Kind, str | None]:
    """S3 says in its answer for one object, and not in lists, how that is encrypted and which checksums it keeps."""
    bucket, key, _ = filesystem.split_path(name)
    head = filesystem.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    etag = str(head.get("ETag", "")).strip('"')
    # of an object that came in parts, or is encrypted with a key of one's own, the ETag is no MD5 of the content
    plain = head.get("ServerSideEncryption") in (None, "AES256") and not head.get("SSECustomerAlgorithm")
    whole = head.get("ChecksumType") != "COMPOSITE"
    return {
        "sha256": _hex(head.get("ChecksumSHA256"), 32) if whole else None,
        "md5": etag if plain and re.fullmatch("[0-9a-f]{32}", etag) else None,
        "crc32c": _hex(head.get("ChecksumCRC32C"), 4) if whole else None,
    }


def _hex(text: str | None, size: int) -> str | None:
    """Base64 as hexadecimal digits; None where it is not of so many bytes."""
    try:
        value = base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return value.hex() if len(value) == size else None
