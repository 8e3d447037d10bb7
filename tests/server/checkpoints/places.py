"""A bucket of Google's and the Hugging Face hub as web servers of our own, as far as their clients ask them.

Files are bytes in a dictionary; `damaged` ones come with a byte changed, of the right size.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping

import google_crc32c

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Place(http.server.BaseHTTPRequestHandler):
    """What both have in common; a subclass is made for each server.

    Attributes:
        files: name -> content.
        damaged: names of files that come damaged.
        requests: methods and paths so far.
    """

    protocol_version = "HTTP/1.1"
    files: Mapping[str, bytes]
    damaged: set[str]
    requests: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.requests.append((self.command, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        self.answer(urllib.parse.unquote(url.path), dict(urllib.parse.parse_qsl(url.query)))

    do_HEAD = do_POST = do_GET  # noqa: N815

    def answer(self, path: str, query: dict[str, str]) -> None:
        raise NotImplementedError

    def give(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def give_json(self, content: object, status: int = 200) -> None:
        self.give(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def give_file(self, name: str, headers: Mapping[str, str] | None = None) -> None:
        content = self.files[name]
        if name in self.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted or self.command == "HEAD":
            return self.give(content, headers=headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        said = {"Content-Range": f"bytes {first}-{last}/{len(content)}", **(headers or {})}
        return self.give(content[first : last + 1], 206, said)

    def log_message(self, format: str, *args: object) -> None:
        pass


class GoogleBucket(Place):
    """The JSON API of one bucket; `composite` objects have no MD5."""

    composite: bool = False

    def answer(self, path: str, query: dict[str, str]) -> None:
        found = re.fullmatch(r"(/download)?/storage/v1/b/bucket/o(?:/(.*))?", path)
        if not found:
            return self.give_json({"error": {"code": 404, "message": path}}, 404)
        if found[2] is None:
            names = [name for name in sorted(self.files) if name.startswith(query.get("prefix", ""))]
            return self.give_json({"kind": "storage#objects", "items": [self.facts(name) for name in names]})
        if found[2] not in self.files:
            return self.give_json({"error": {"code": 404, "message": "no such object"}}, 404)
        if found[1] or query.get("alt") == "media":
            return self.give_file(found[2])
        return self.give_json(self.facts(found[2]))

    def facts(self, name: str) -> dict[str, str]:
        content = self.files[name]
        facts = {
            "kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(content)), "generation": "1",
            "crc32c": base64.b64encode(google_crc32c.Checksum(content).digest()).decode(), "etag": "CAE=",
        }  # fmt: skip
        return facts if self.composite else {**facts, "md5Hash": _base64_md5(content)}


class Hub(Place):
    """A repository of the Hugging Face hub at `COMMIT`; files of more than 1000 bytes are LFS's."""

    repository = "lab/thing"
    commit = COMMIT

    def answer(self, path: str, query: dict[str, str]) -> None:
        ours = re.escape(self.repository)
        found = re.fullmatch(rf"(/api)?(?:/models|/datasets)?/{ours}(?:/([a-z-]+)(?:/([^/]+)(?:/(.*))?)?)?", path)
        if not found or (found[3] or self.commit) not in (self.commit, "main"):
            return self.give_json({"error": "no such revision"}, 404)
        what, name = found[2], found[4] or ""
        if what == "paths-info":
            body = self.body.decode()
            asked = json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body)["paths"]
            return self.give_json([facts for path in asked for facts in self.facts(path)])
        if what == "tree":
            return self.give_json(
                [facts for path in sorted(self.files) if path.startswith(name) for facts in self.facts(path)]
            )
        if what == "resolve" and name in self.files:
            (facts,) = self.facts(name)
            etag = facts["lfs"]["oid"] if "lfs" in facts else facts["oid"]
            return self.give_file(name, {"X-Repo-Commit": self.commit, "ETag": f'"{etag}"'})
        if what in (None, "revision"):
            siblings = [{"rfilename": name} for name in sorted(self.files)]
            return self.give_json(
                {"id": self.repository, "sha": self.commit, "siblings": siblings, "private": False, "tags": []}
            )
        return self.give_json({"error": "no such file"}, 404)

    def facts(self, path: str) -> list[dict]:
        if path not in self.files:
            inside = any(name.startswith(f"{path}/") for name in self.files)
            return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40}] if inside else []
        content = self.files[path]
        facts = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
        if len(content) <= 1000:
            return [facts]
        sha256 = hashlib.sha256(content).hexdigest()
        return [{**facts, "oid": "1" * 40, "lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}}]


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def served(kind: type[Place], files: Mapping[str, bytes]) -> Iterator[tuple[str, type[Place]]]:
    """A running server: its address, and its class to break or to ask what it was asked."""
    handler = type("OneOf", (kind,), {"files": files, "damaged": set(), "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
    finally:
        server.shutdown()
        server.server_close()


def _base64_md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
