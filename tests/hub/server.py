"""A hub on the loopback that speaks as much of the Hub's protocol as `huggingface_hub` needs to list and fetch repositories.

    with serving(folder) as hub:             # folder/<owner>/<name>/...; the real client asks this hub, and no other
        hub.tokens.add("hf_reader")
        ...

It tells who is asked for what (`requests`), and can be told to go wrong: see :class:`Hub`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".pth", ".bin", ".onnx", ".model")
"""Endings of files whose content the Hub keeps by its SHA-256."""


@dataclass
class Hub:
    """The folder that is served, who may read what, and what goes wrong."""

    folder: Path
    gated: set[str] = field(default_factory=set)
    """Repositories that are given to nobody without one of ``readers``."""
    tokens: set[str] = field(default_factory=set)
    """Known tokens; any other is refused as invalid."""
    readers: set[str] = field(default_factory=set)
    """Tokens whose owner has accepted the licences."""
    missing: set[str] = field(default_factory=set)
    """Files ("owner/name/file") that the repository does not have."""
    damaged: set[str] = field(default_factory=set)
    """Files of which other bytes arrive, as many."""
    cut: dict[str, int] = field(default_factory=dict)
    """File -> how often its connection breaks half-way."""
    waiting: dict[str, threading.Event] = field(default_factory=dict)
    """File -> what its second half waits for."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of everything that was asked."""
    sent: Counter[str] = field(default_factory=Counter)
    """File -> how many of its bytes were sent."""
    url: str = ""

    def fetched(self) -> list[str]:
        """Files whose content was asked for, as "owner/name/file"."""
        paths = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        return [re.sub(r"/resolve/[^/]+/", "/", path).lstrip("/") for path in paths]

    def files(self, repository: str) -> dict[str, Path]:
        root = self.folder / repository
        found = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
        return {name: path for name, path in found.items() if f"{repository}/{name}" not in self.missing}

    def commit(self, repository: str) -> str:
        return hashlib.sha1(repr([repository, sorted(self.files(repository))]).encode()).hexdigest()


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(path: Path) -> str:
    facts = path.stat()
    return _hash(path, facts.st_size, facts.st_mtime_ns)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        content = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        known = about or content
        if not known or not (self.hub.folder / known[1]).is_dir():
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        commit = self.hub.commit(known[1])
        if known.lastindex and known.lastindex > 1:
            revision = about[3] if about else known[2]
            if revision not in ("main", commit):
                return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if content:
            return self._file(content[1], commit, content[3])
        if about and about[2] == "tree":
            return self._json([self._entry(name, file) for name, file in self.hub.files(known[1]).items()], commit)
        siblings = [self._sibling(name, file) for name, file in self.hub.files(known[1]).items()]
        gated = "auto" if known[1] in self.hub.gated else False
        facts = {"_id": commit[:24], "id": known[1], "modelId": known[1], "private": False, "gated": gated}
        return self._json({**facts, "sha": commit, "siblings": siblings, "tags": []}, commit)

    def _entry(self, name: str, file: Path) -> dict[str, Any]:
        size, oid = file.stat().st_size, hash_of(file)
        entry: dict[str, Any] = {"type": "file", "oid": oid[:40], "size": size, "path": name}
        return {**entry, "lfs": {"oid": oid, "size": size, "pointerSize": 134}} if name.endswith(LARGE) else entry

    def _sibling(self, name: str, file: Path) -> dict[str, Any]:
        entry = self._entry(name, file)
        facts = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            facts["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}
        return facts

    def _may_read(self, repository: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository not in self.hub.gated or token in self.hub.readers:
            return True
        about = f"Access to model {repository} is restricted"
        if token and token not in self.hub.tokens:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif token:
            self._refuse(
                403, "GatedRepo", f"{about} and you are not in the authorized list. Visit it to ask for access."
            )
        else:
            self._refuse(401, "GatedRepo", f"{about}. You must have access to it and be authenticated to access it.")
        return False

    def _file(self, repository: str, commit: str, name: str) -> None:
        if not self._may_read(repository):
            return
        file, key = self.hub.files(repository).get(name), f"{repository}/{name}"
        if file is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data, etag = file.read_bytes(), hash_of(file)
        etag = etag if name.endswith(LARGE) else etag[:40]
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(begin[1]) if begin else 0
        self.send_response(206 if begin else 200)
        for header, value in (
            ("ETag", f'"{etag}"'),
            ("X-Repo-Commit", commit),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(len(data) - first)),
        ):
            self.send_header(header, value)
        if begin:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if key in self.hub.damaged:
            data = bytes(255 - byte for byte in data)
        half = first + (len(data) - first) // 2
        self.wfile.write(data[first:half])
        self.hub.sent[key] += half - first
        if self.hub.cut.get(key, 0) > 0:
            self.hub.cut[key] -= 1
            self.close_connection = True
            return
        if key in self.hub.waiting:
            self.wfile.flush()
            self.hub.waiting[key].wait(30)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data[half:])
            self.hub.sent[key] += len(data) - half

    def _json(self, content: Any, commit: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        for header, value in (
            ("Content-Type", "application/json"),
            ("X-Repo-Commit", commit),
            ("Content-Length", str(len(data))),
        ):
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def serving(folder: Path, machine: Path) -> Iterator[Hub]:
    """Serve ``folder``; in this process the real client asks it and no other, and keeps what it fetches in ``machine``."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(machine / "fetched"))
        patch.setattr("pipelines.core.weights._fetched", {})
        patch.setenv("LATENT_STUDIO_MODELS", str(machine))
        for name in ("HF_TOKEN", "LATENT_STUDIO_GEOREMOVER", "LATENT_STUDIO_NPNET"):
            patch.delenv(name, raising=False)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join(5)
