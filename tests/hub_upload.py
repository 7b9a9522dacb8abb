"""As much of the hub as a push asks for: repositories in folders, and faults one after another."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from hub_server import SHA, Hub

WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
"""Tokens of the user "me"."""
LARGE = 4096
"""Bytes from which a file goes another way than the commit itself."""


@dataclass
class Store:
    """What the server holds, and what it is to do wrong."""

    path: Path
    repositories: dict[str, Path | None] = field(default_factory=dict)
    """Folders by name; those of `open` are the public ones."""
    public: set[str] = field(default_factory=set)
    commits: dict[str, list[str]] = field(default_factory=dict)
    """The subjects of all commits by repository and branch; the first is that of its creation."""
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[tuple[str, str, Any]] = field(default_factory=list)
    """(method, pattern of the path, what happens); each happens once, the first that fits.

    A number is a status, a dict its headers too; "drop" breaks the connection before anything was
    done, "lost" after, and a function is called before.
    """
    sent: list[bytes] = field(default_factory=list)
    endpoint: str = ""
    lock: Any = field(default_factory=Lock)

    def make(self, name: str, *, public: bool = True) -> Path:
        """Make a repository with a first commit."""
        self.repositories[name] = folder = self.path / name.replace("/", "--")
        folder.mkdir()
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.commits[name] = ["initial commit"]
        if public:
            self.public.add(name)
        return folder

    def head(self, key: str) -> str:
        """Return the commit that a repository or one of its branches stands at."""
        return hashlib.sha1(f"{key} {len(self.commits[key])}".encode()).hexdigest()

    def fault(self, method: str, path: str) -> Any:
        """Return what is to go wrong with a request, None if nothing."""
        with self.lock:
            for place, (verb, pattern, what) in enumerate(self.faults):
                if verb == method and re.search(pattern, path):
                    del self.faults[place]
                    return what
        return None


class Upload(Hub):
    """Answers the client's calls for a push, and leaves those for reading to `Hub`."""

    protocol_version = "HTTP/1.1"
    store: Store

    def setup(self) -> None:
        super().setup()
        self.repositories = self.store.repositories

    def do_GET(self, send: bool = True) -> None:
        for name in self.store.commits:
            self.path = self.path.replace(self.store.head(name), SHA)
        path = self.path.split("?")[0]
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path)
        if not found or not send or (found[1] in self.repositories and not self.ours(found[1])):
            return super().do_GET(send)
        name, rest = found[1], found[2] or ""
        self.acted("GET", lambda _: self.read(name, rest))

    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        for pattern, act in (
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", lambda _: (200, {"errors": [], "warnings": []})),
            (r"/api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<branch>.+)", self.branch),
            (r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<branch>.+)", self.preupload),
            (r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<branch>.+)", self.commit),
            (r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/objects/verify", lambda _: (200, {})),
        ):
            if found := re.fullmatch(pattern, path):
                part = found.groupdict()
                return self.acted("POST", lambda body, act=act, part=part: act(body, **part))
        return super().do_POST()

    def do_PUT(self) -> None:
        def keep(body: bytes) -> tuple[int, Any]:
            self.store.objects[self.path.rpartition("/")[2]] = body
            return 200, {}

        self.acted("PUT", keep)

    def acted(self, method: str, act: Any) -> None:
        """Do what a request asks for, and answer, unless a fault comes between."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.store.fault(method, self.path)
        if callable(fault):
            fault()
        if fault == "drop":
            return self.drop()
        if isinstance(fault, int):
            return self.tell(fault, {"error": "injected"}, {})
        if isinstance(fault, dict):
            headers = dict(fault)
            return self.tell(headers.pop("status"), {"error": "injected"}, headers)
        if method != "PUT" and "validate-yaml" not in self.path and "verify" not in self.path:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in (WRITER, READER) and (token or method != "GET"):
                said = {"X-Error-Message": "Invalid credentials in Authorization header"}
                return self.tell(401, {"error": "Invalid credentials"}, said)
        code, content = act(body)
        if fault == "lost":
            return self.drop()
        self.tell(code, content, {"X-Error-Code": "RepoNotFound"} if code == 404 else {})

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def tell(self, code: int, content: Any, headers: Mapping[str, str]) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(text)

    def writes(self) -> bool:
        return (self.headers.get("Authorization") or "").endswith(WRITER)

    def ours(self, name: str) -> bool:
        return name in self.store.commits

    def key(self, name: str, branch: str) -> str:
        return name if branch == "main" else f"{name}@{branch}"

    def folder(self, name: str) -> Path:
        folder = self.store.repositories[name]
        assert folder is not None
        return folder

    def read(self, name: str, rest: str) -> tuple[int, Any]:
        known = name in self.store.public or self.headers.get("Authorization")
        if not self.ours(name) or not known:
            return 404, {"error": "Repository not found"}
        if rest == "/auth-check/write":
            return (200, {}) if self.writes() else (403, {"error": "no right to write"})
        key = self.key(name, rest.rpartition("/")[2]) if rest.startswith("/revision") else name
        if rest.startswith("/tree"):
            every = [] if rest.count("/") > 2 else self.files(name)
            return 200, [self.entry(path, name) for path in every]
        names = [
            {"rfilename": p.relative_to(self.folder(name)).as_posix()} for p in self.files(name)
        ]
        private = name not in self.store.public
        return 200, {
            "id": name, "sha": self.store.head(key), "private": private, "siblings": names,
        }  # fmt: skip

    def files(self, name: str) -> list[Path]:
        return sorted(p for p in self.folder(name).rglob("*") if p.is_file())

    def entry(self, path: Path, name: str) -> dict[str, Any]:
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        told = {"type": "file", "path": path.relative_to(self.folder(name)).as_posix()}
        told |= {"size": len(content), "oid": git}
        if large(path.name, len(content)):
            sha = hashlib.sha256(content).hexdigest()
            told["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
        return told

    def create(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        if asked["organization"] != "me" or not self.writes():
            return 403, {"error": "You don't have the rights to create a model here"}
        name = f"me/{asked['name']}"
        told = {"url": f"{self.store.endpoint}/{name}"}
        if self.ours(name):
            return 409, told
        self.store.make(name, public=asked.get("visibility") != "private")
        return 200, told

    def branch(self, body: bytes, name: str, branch: str) -> tuple[int, Any]:
        key = self.key(name, branch)
        if key in self.store.commits:
            return 409, {"error": "exists"}
        self.store.commits[key] = list(self.store.commits[name])
        return 200, {}

    def preupload(self, body: bytes, name: str, branch: str) -> tuple[int, Any]:
        told = []
        for file in json.loads(body)["files"]:
            path = self.folder(name) / file["path"]
            entry = self.entry(path, name) if path.is_file() else {}
            mode = "lfs" if large(file["path"], file["size"]) else "regular"
            oid = entry.get("lfs", entry).get("oid")
            told.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            told[-1] |= {"oid": oid} if oid else {}
        return 200, {"files": told}

    def batch(self, body: bytes, name: str) -> tuple[int, Any]:
        told = []
        for item in json.loads(body)["objects"]:
            one = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.store.objects:
                one["actions"] = {
                    "upload": {"href": f"{self.store.endpoint}/objects/{item['oid']}"},
                    "verify": {"href": f"{self.store.endpoint}/objects/verify"},
                }
            told.append(one)
        return 200, {"transfer": "basic", "objects": told}

    def commit(self, body: bytes, name: str, branch: str) -> tuple[int, Any]:
        self.store.sent.append(body)
        key = self.key(name, branch)
        header, *operations = [json.loads(line) for line in body.splitlines()]
        parent = header["value"].get("parentCommit")
        if not self.writes():
            return 403, {"error": "no right to write"}
        if parent not in (None, self.store.head(key)):
            return 412, {"error": "A commit has happened since"}
        for operation in operations:
            value = operation["value"]
            path = self.folder(name) / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if operation["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                path.write_bytes(self.store.objects[value["oid"]])
            else:
                path.unlink()
        self.store.commits[key].append(header["value"]["summary"])
        sha = self.store.head(key)
        return 200, {"commitUrl": f"{self.store.endpoint}/{name}/commit/{sha}", "commitOid": sha}


def large(name: str, size: int) -> bool:
    return name.endswith(".safetensors") or size >= LARGE


@contextmanager
def serving(store: Store) -> Iterator[Store]:
    """Serve a store, and set its endpoint."""
    kind = type("Here", (Upload,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
