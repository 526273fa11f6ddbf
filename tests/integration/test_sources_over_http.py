"""Shards and images behind a web server, and that new contents there are noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.discovery import find
from pipeline.errors import UserError
from tests.helpers.samples import FILES, images, tar_bytes
from tests.helpers.servers import web_server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A static web server on loopback, without byte ranges."""

    class Static(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

    with web_server(Static) as url:
        yield url


def test_over_http(tmp_path: Path, served: str) -> None:
    for i in range(3):
        (tmp_path / f"{i}.tar").write_bytes(tar_bytes(dict(list(FILES.items())[2 * i : 2 * i + 2])))
    (tmp_path / "one.png").write_bytes(FILES["006.png"])
    shards = find([f"{served}/{{0..2}}.tar", f"{served}/one.png"])
    assert images(shards) == list(FILES.values())
    assert shards[0].size == (tmp_path / "0.tar").stat().st_size
    with pytest.raises(UserError, match="nothing is there"):
        find(f"{served}/3.tar")


def test_a_signed_url_is_judged_by_its_path(tmp_path: Path, served: str) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(FILES))
    assert images(find(f"{served}/x.tar?token=a.b/c")) == list(FILES.values())


def test_new_content_over_http_is_noticed(tmp_path: Path, served: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(FILES))
    before = find(f"{served}/x.tar")[0]
    os.utime(path, (1, 1))
    assert before.etag
    assert find(f"{served}/x.tar")[0] != before


def test_a_url_in_a_list_that_appears_later_is_noticed(tmp_path: Path, served: str) -> None:
    (tmp_path / "list.txt").write_text(f"{served}/late.png\n")
    before = find(str(tmp_path / "list.txt"))
    assert images(before) == ["missing file"]
    (tmp_path / "late.png").write_bytes(FILES["000.png"])
    after = find(str(tmp_path / "list.txt"))
    assert after != before
    assert images(after) == [FILES["000.png"]]
