"""As much of the hub as reading models and data sets asks for, served from folders."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

SHA = "1" * 40
NOWHERE = "http://127.0.0.1:9"
"""An endpoint that refuses every connection."""
ROOT = Path(__file__).parents[1]


class Hub(BaseHTTPRequestHandler):
    """Repositories by name, those of data sets as "datasets/org/name"; None is one under terms."""

    repositories: Mapping[str, Path | None]

    def do_HEAD(self) -> None:
        self.do_GET(send=False)

    def do_GET(self, send: bool = True) -> None:
        name, root, rest = self.find()
        if name is None:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"}, send)
        if root is None:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"}, send)
        what, _, rest = rest.strip("/").partition("/")
        revision, _, inside = rest.partition("/")
        if what and revision not in ("main", SHA):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"}, send)
        if what == "tree":
            tree = [entry(root, path) for path in sorted((root / inside).iterdir())]
            return self.answer(200, json.dumps(tree).encode(), {}, send)
        if what == "resolve":
            path = root / inside
            if not path.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"}, send)
            content = path.read_bytes()
            tag = hashlib.sha1(content).hexdigest()
            return self.answer(200, content, {"ETag": f'"{tag}"'}, send)
        names = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]
        info = {
            "id": name.removeprefix("datasets/"),
            "sha": SHA,
            "siblings": [{"rfilename": name} for name in names],
            "cardData": {"license": "cc-by-4.0", "pretty_name": "Tiny pets"},
        }
        return self.answer(200, json.dumps(info).encode(), {}, send)

    def do_POST(self) -> None:
        _, root, _ = self.find()
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert root is not None
        found = [entry(root, root / name) for name in asked["paths"] if (root / name).exists()]
        self.answer(200, json.dumps(found).encode(), {}, True)

    def find(self) -> tuple[str | None, Path | None, str]:
        """Return the repository's name and folder, and what of it is asked for."""
        path = self.path.split("?")[0].lstrip("/").removeprefix("api/").removeprefix("models/")
        for name, root in self.repositories.items():
            if f"{path}/".startswith(f"{name}/"):
                return name, root, path.removeprefix(name)
        return None, None, ""

    def answer(self, code: int, content: bytes, headers: dict[str, str], send: bool) -> None:
        self.send_response(code)
        for key, value in {"X-Repo-Commit": SHA, **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send:
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def entry(root: Path, path: Path) -> dict[str, Any]:
    """Return a file or folder as a listing has it."""
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0"}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": name}


@contextmanager
def served(repositories: Mapping[str, Path | None]) -> Iterator[str]:
    """Serve the repositories, and give the endpoint."""
    kind = type("Here", (Hub,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """Return the environment of a process that is connected to `endpoint` and caches in `home`."""
    there = {k: v for k, v in os.environ.items() if not k.endswith(("_OFFLINE", "_TOKEN"))}
    there |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return there | {"FINETUNE_CACHE": str(home / "finetune"), "PYTHONPATH": str(ROOT)}


def ask(script: str, endpoint: str, home: Path, *asked: Any) -> list[Any]:
    """Run a script in a fresh process, as the libraries read their environment once.

    It gets what is asked for as a JSON argument and prints a line of JSON for each.
    """
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(asked)],
        capture_output=True,
        text=True,
        env=environment(endpoint, home),
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
