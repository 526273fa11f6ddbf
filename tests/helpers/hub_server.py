"""A stand-in of the Hugging Face hub on this machine: its endpoints of files, of their list and of commits, no more.

with hub_server(monkeypatch, tmp_path) as files:
    files["datasets/me/vdnas/digits.json"] = b"{}"
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import huggingface_hub
import pytest

from tests.helpers.servers import web_server

FIRST = "0" * 40


class Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    refusals: list[int]
    """Statuses of the next answers, before any is a proper one."""
    commits: list[str]

    def do_HEAD(self) -> None:
        self._file(False)

    def do_GET(self) -> None:
        if "/tree/main" in self.path:
            return self._tree()
        if self.path.endswith("/revision/main"):
            return self._say(200, json.dumps({"id": "me/vdnas", "sha": self.commits[-1]}).encode(), {})
        return self._file(True)

    def _tree(self) -> None:
        folder = self.path.removeprefix("/api/").partition("/tree/main")[0] + "/"
        files = {name.removeprefix(folder): data for name, data in self.files.items() if name.startswith(folder)}
        listed = [{"type": "file", "path": path, "size": len(data), "oid": FIRST} for path, data in files.items()]
        return self._say(200, json.dumps(listed).encode(), {})

    def _file(self, whole: bool) -> None:
        if self.refusals:
            return self._say(self.refusals.pop(0), b"", {"Retry-After": "0"})
        name = re.sub(r"/resolve/(main|[0-9a-f]{40})/", "/", self.path.removeprefix("/"))
        data = self.files.get(name)
        if data is None:
            return self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(data).hexdigest()
        return self._say(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commits[-1]}, whole)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            made = f"{self.headers['Host']}/datasets/{request.get('organization', 'me')}/{request['name']}"
            return self._say(200, json.dumps({"url": f"http://{made}"}).encode(), {})
        kind, repository = self.path.removeprefix("/api/").split("/", 1)
        if "/preupload/" in repository:
            files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self._say(200, json.dumps({"files": files}).encode(), {})
        repository = repository.partition("/commit/")[0]
        if not repository.startswith("me/"):
            return self._say(403, b"", {})
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", self.commits[-1]) != self.commits[-1]:
            return self._say(412, b"", {})
        for line in lines:
            if line["key"] == "file":
                prefix = "" if kind == "models" else f"{kind}/"
                content = base64.b64decode(line["value"]["content"])
                self.files[f"{prefix}{repository}/{line['value']['path']}"] = content
        self.commits.append(f"{len(self.commits):040x}")
        url = f"http://127.0.0.1/{repository}/commit/{self.commits[-1]}"
        return self._say(200, json.dumps({"commitUrl": url, "commitOid": self.commits[-1]}).encode(), {})

    def _say(self, status: int, data: bytes, headers: dict[str, str], whole: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(data)


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch, folder: Path, refusals: list[int]) -> Iterator[dict[str, bytes]]:
    """Its files, by `OWNER/NAME/FILE` or `datasets/OWNER/NAME/FILE`; huggingface_hub asks it meanwhile."""
    files: dict[str, bytes] = {}
    with web_server(type("Filled", (Hub,), {"files": files, "refusals": refusals, "commits": [FIRST]})) as url:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield files
