"""One object of any store: what is tried again and what is not, what is never opened, what is never shown."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.data.discovery import find, public
from pipeline.data.plan import Plan
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard, group
from pipeline.errors import SourceChangedError, UserError
from pipeline.storage import objects
from pipeline.storage.folder import ObjectStore
from pipeline.storage.objects import StoreFault, filesystem, open_object, read_object, retry
from pipeline.storage.urls import redact, signed, unsigned
from tests.helpers.commands import ROOT
from tests.helpers.material import spec
from tests.helpers.servers import web_server

DATA = np.random.default_rng(0).bytes(300_000)
AZURE = "sv=2024-11-04&se=2030-01-01&sp=r&sig=c2VjcmV0"
AMAZON = "X-Amz-Algorithm=AWS4&X-Amz-Credential=KEY%2F2026&X-Amz-Signature=0123abcd"


class Failing(fsspec.AbstractFileSystem):
    """Holds one object and raises what it is told to, one after another, before it gives any of it."""

    protocol = "memory"

    def __init__(self, *faults: Exception | int, **options: Any) -> None:
        super().__init__(**options)
        self.faults = list(faults)
        self.asked: list[tuple[int | None, int | None]] = []

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": len(DATA), "type": "file", "ETag": "e"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        self.asked.append((start, end))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        return DATA[start:end][:fault]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 1e-3)
    Failing.clear_instance_cache()


class TestPatience:
    def test_a_stream_goes_on_where_it_was_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Errors, short and empty answers: every byte once, and none asked for again."""
        monkeypatch.setattr(objects, "BLOCK", 100_000)
        fs = Failing(OSError("reset"), 60_000, 0, ConnectionError("gone"), 1, skip_instance_cache=True)
        with open_object(fs, "x", fs.info("x"), 5) as file:
            assert file.read() == DATA
        assert fs.asked[0] == fs.asked[1] == (0, 100_000)
        assert fs.asked[2] == fs.asked[3] == (60_000, 160_000)

    def test_it_can_be_read_anywhere(self) -> None:
        fs = Failing(skip_instance_cache=True)
        with open_object(fs, "x", fs.info("x")) as file:
            file.seek(-10, 2)
            assert file.read() == DATA[-10:]
            file.seek(7)
            assert file.read(5) == DATA[7:12]

    def test_a_whole_object_is_whole(self) -> None:
        fs = Failing(1000, OSError("SlowDown"), skip_instance_cache=True)
        assert read_object(fs, "x", 5) == DATA

    def test_the_budget_is_kept(self, caplog: pytest.LogCaptureFixture) -> None:
        fs = Failing(*[OSError("SlowDown")] * 10_000, skip_instance_cache=True)
        with caplog.at_level(logging.WARNING), pytest.raises(StoreFault, match=r"given up after \d+ tries in 0.2 s"):
            read_object(fs, "x", 0.2)
        assert "trying again (SlowDown)" in caplog.text

    @pytest.mark.parametrize("fault", [FileNotFoundError("x"), PermissionError("x"), ValueError("x")])
    def test_what_cannot_pass_is_raised_at_once(self, fault: Exception) -> None:
        fs = Failing(*[fault] * 10, skip_instance_cache=True)
        with pytest.raises(type(fault)):
            read_object(fs, "x", 5)
        assert len(fs.asked) == 1

    @pytest.mark.parametrize(
        ("status", "kind"), [(403, PermissionError), (412, FileExistsError), (416, PermissionError)]
    )
    def test_a_refusal_is_no_fault(self, status: int, kind: type[Exception]) -> None:
        class Refused(Exception):
            pass

        def ask() -> None:
            error = Refused()
            error.status = status  # type: ignore[attr-defined]
            raise error

        with pytest.raises(kind):
            retry(ask, 5, "x")

    @pytest.mark.parametrize("status", [400, 408, 429, 500, 503])
    def test_too_many_requests_pass(self, status: int) -> None:
        class Busy(Exception):
            pass

        tries: list[int] = []

        def ask() -> int:
            tries.append(status)
            if len(tries) < 3:
                error = Busy()
                error.status = status  # type: ignore[attr-defined]
                raise error
            return len(tries)

        assert retry(ask, 5, "x") == 3


class TestSecrets:
    @pytest.mark.parametrize("query", [AZURE, AMAZON, "token=abc", "access_token=abc"])
    @pytest.mark.parametrize("rest", ["", "id=3"])
    def test_a_signature_is_no_part_of_a_name(self, query: str, rest: str) -> None:
        url = "https://h/x.tar" + (f"?{rest}" if rest else "")
        name, signing = unsigned(f"https://h/x.tar?{rest}{'&' if rest else ''}{query}")
        assert (name, signing) == (url, query)
        assert unsigned(signed(name, signing)) == (name, signing)

    def test_other_queries_are(self) -> None:
        for url in ("https://h/x.tar", "https://h/get?id=7&se=1", "/local/a?token=b.tar"):
            assert unsigned(url) == (url, "")

    def test_what_people_see_hides_them(self) -> None:
        text = redact(f"403, url='https://h/x.tar?{AMAZON}&id=3' and s3://key:secret@b/c")
        assert not any(word in text for word in ("0123abcd", "KEY", "secret"))
        assert "id=3" in text

    def test_a_password_in_a_url_is_refused(self) -> None:
        for url in ("https://me:secret@h/x.tar", "https://secret@h/x.tar", "s3://me:se/cret@bucket/c"):
            with pytest.raises(UserError, match=r"must not hold a password.*environment") as raised:
                filesystem(url, {})
            assert "secret" not in str(raised.value)
            assert "cret@" not in str(raised.value)
        with pytest.raises(UserError, match="must not hold a password"):
            ObjectStore("s3://me:secret@bucket/c")

    def test_a_plan_does_not_store_them(self, served: str) -> None:
        """Nor do they make another task of the same shard, signed anew."""
        one, other = (group(find(f"{served}/x.tar?token={token}"), 1) for token in ("tok1", "tok2"))
        assert one[0].id == other[0].id
        plan = Plan({"name": "x"}, spec(None, ("activation-ranges",)), tuple(one))
        back = Plan.from_bytes(plan.to_bytes(), {})
        assert back == plan
        assert "tok1" not in repr((plan, back))
        assert one[0].shards[0].signing == ("token=tok1",)
        assert back.tasks[0].shards[0].signing == ()


@pytest.fixture
def served() -> Iterator[str]:
    """A web server that gives DATA as x.tar, asks for a token, and knows ranges only below /ranges."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "token=" not in self.path:
                self.send_error(403)
                return
            body, asked = DATA, self.headers.get("Range")
            if asked and "/ranges/" in self.path:
                start, end = asked.removeprefix("bytes=").split("-")
                body = DATA[int(start) : int(end) + 1]
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    with web_server(Handler) as url:
        yield url


@pytest.mark.parametrize("folder", ["ranges", "plain"])
def test_servers_with_and_without_ranges(served: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "BLOCK", 100_000)
    fs, path = filesystem(f"{served}/{folder}/x.tar?token=t", {})
    with open_object(fs, path, fs.info(path)) as file:
        assert file.read() == DATA
    monkeypatch.setattr(objects, "MAX_IN_MEMORY", 100_000)
    if folder == "plain":
        with pytest.raises(UserError, match="gives no parts of objects") as raised:
            open_object(fs, path, fs.info(path))
        assert "token=t" not in str(raised.value)


def test_no_permission_is_said_at_once(served: str) -> None:
    with pytest.raises(UserError, match="no permission"):
        find(f"{served}/x.tar")


@pytest.mark.parametrize(
    "url",
    [
        "simplecache::s3://bucket/x.tar",
        "reference://x",
        "zip://x.tar::file:///tmp/y.zip",
        "github://a:b@c/x.tar",
        "python://x",
        "nosuch://bucket/x.tar",
    ],
)
def test_what_is_no_plain_store_is_not_opened(url: str) -> None:
    with pytest.raises(UserError, match="cannot open this kind of URL; allowed are paths and file, "):
        find(url)
    with pytest.raises(UserError, match="cannot open this kind of URL"):
        list(ShardReader(Shard("tar", url, 1, "")))


def test_a_list_from_elsewhere_names_no_files_of_this_machine(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for line in ("/etc/passwd.png", f"file://{tmp_path}/x.png"):
        memory.pipe_file("/list.txt", line.encode())
        with pytest.raises(UserError, match="must not name files of this machine"):
            find("memory://list.txt")


def test_a_file_that_was_there_is_not_lost(tmp_path: Path) -> None:
    """A store that is out of reach, or refuses for now, fails the task; it does not become a reason in the ledger."""
    (tmp_path / "x.png").write_bytes(DATA)
    shard = find(str(tmp_path / "x.png"))[0]
    (tmp_path / "x.png").rename(tmp_path / "y.png")
    with pytest.raises(FileNotFoundError):
        list(ShardReader(shard))


def test_loose_files_have_the_version_that_was_planned(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(DATA)
    shard = find(str(tmp_path / "x.png"))[0]
    assert len(list(ShardReader(shard))) == 1
    (tmp_path / "x.png").write_bytes(DATA[::-1])
    os.utime(tmp_path / "x.png", (1, 1))
    with pytest.raises(SourceChangedError, match="files have changed"):
        list(ShardReader(shard))


def test_one_image_under_two_signatures_is_one(served: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{served}/x.png?token=a\n{served}/x.png?token=b\n")
    with pytest.raises(UserError, match="named more than once") as raised:
        find(str(tmp_path / "list.txt"))
    assert "token=a" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/x.tar?X-Amz-Signature=s", "https://h/x.tar"),
        ("{https://h/a.tar?sig=s&sv=1,https://h/b.tar?x-oss-signature=s}", ["https://h/a.tar", "https://h/b.tar"]),
        ("https://h/a.tar?{token=s1,token=s2}", ["https://h/a.tar", "https://h/a.tar"]),
        (("https://h/a.tar?auth=s", "b.tar"), ["https://h/a.tar", "b.tar"]),
        ("s3://b/{000..999}.tar", "s3://b/{000..999}.tar"),
    ],
)
def test_what_a_catalogue_says_of_the_source(url: str | tuple[str, ...], shown: str | list[str]) -> None:
    assert public(url) == shown


def test_an_empty_object_needs_no_range(served: str) -> None:
    fs, path = filesystem(f"{served}/ranges/x.tar?token=t", {})
    with open_object(fs, path, {"size": 0}) as file:
        assert file.read() == b""


def test_only_the_object_itself_is_removed(tmp_path: Path) -> None:
    """A name with brackets is no pattern."""
    for root in (str(tmp_path), "memory://brackets"):
        for name in ("cat[1]", "cat1"):
            ObjectStore(f"{root}/{name}").put("x/y", b"data")
        ObjectStore(f"{root}/cat[1]").remove("x/y")
        assert ObjectStore(f"{root}/cat[1]").get("x/y") is None
        assert ObjectStore(f"{root}/cat1").get("x/y") == b"data"


def test_what_a_dead_writer_left_is_not_read(tmp_path: Path) -> None:
    folder = ObjectStore(str(tmp_path))
    folder.put("g/a", b"data")
    (tmp_path / "g" / "b.1.ab.tmp").write_bytes(b"")
    assert folder.get_group("g") == {"a": b"data"}
    assert folder.names("g") == ["a"]


def test_a_writer_killed_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pipeline.storage.folder import ObjectStore; "
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL); "
        f"ObjectStore({str(tmp_path)!r}).put('g/a', b'data')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list((tmp_path / "g").iterdir()) == []


def test_without_nameless_files_a_file_still_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    folder = ObjectStore(str(tmp_path))
    folder.put("g/a", b"old")
    folder.put("g/a", b"new")
    assert folder.put_new("g/b", b"first") == folder.put_new("g/b", b"second") == b"first"
    assert folder.get_group("g") == {"a": b"new", "b": b"first"}
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_object_that_changed_since_it_was_planned(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(DATA)
    (tmp_path / "x.zip").write_bytes(DATA)
    files, archive = find(str(tmp_path / "x.png")) + find(str(tmp_path / "x.zip"))
    (tmp_path / "x.png").write_bytes(DATA[1:])
    (tmp_path / "x.zip").write_bytes(DATA[::-1])
    for shard in (files, archive):
        with pytest.raises(SourceChangedError, match="has changed since it was planned: run the command again"):
            list(ShardReader(shard))


def test_who_is_first_writes(tmp_path: Path) -> None:
    for url in (str(tmp_path), "memory://first"):
        folder = ObjectStore(url)
        assert folder.put_new("a/b", b"one") == b"one"
        assert folder.put_new("a/b", b"two") == b"one"
        assert folder.get("a/b") == b"one"
    assert not list(tmp_path.rglob("*.tmp"))


def test_many_writers_and_one_first(tmp_path: Path) -> None:
    folder, told = ObjectStore(str(tmp_path)), []
    threads = [
        threading.Thread(target=lambda i=i: told.append(folder.put_new("x", f"{i}".encode()))) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(told) == {folder.get("x")}


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://b/c", {"endpoint_url": "127.0.0.1:9"}, "option endpoint_url of its store: give http://HOST:PORT"),
        ("s3://b/c", {"endpoint_url": "GEHEIM"}, "option endpoint_url of its store"),
        ("s3://b/c", {"client_kwargs": {"endpoint_url": "h:9"}}, "option client_kwargs.endpoint_url of its store"),
        ("s3://b/c", {"client_kwargs": "GEHEIM"}, "option client_kwargs of its store holds others"),
        ("http://127.0.0.1:9/c", {"headers": "GEHEIM"}, "option headers of its store holds others"),
        ("ftp://127.0.0.1:9/c", {}, "cannot be opened"),
    ],
)
def test_a_catalogue_that_cannot_be_opened_is_named(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ObjectStore(url, options).get("catalogue.json")
    assert str(error.value).startswith(f"catalogue={url}: ")
    assert message in str(error.value)
    assert "GEHEIM" not in str(error.value)
