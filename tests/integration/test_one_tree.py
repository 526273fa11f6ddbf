"""One tree of odd names and files, through every kind of source: the same images."""

from __future__ import annotations

import hashlib
import io
import ssl
import tarfile
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from pipeline.data.decode import BadImage
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from tests.helpers import object_store
from tests.helpers.samples import picture
from tests.helpers.servers import static_server

IMAGES = (
    *("plain.png", "UPPER.PNG", "two.dots.png", "no-caption.png", "-dash.png", "_under.png", "café.png", "日本.png"),
    *("what?.png", "p?token=1.png", "a#b.png", "100%.png", "%41.png", "a::b.png", "[1].png", "st*r.png", "{1..2}.png"),
    *("a b.png", " lead.png", "k=v.png", "~.png", "+.png", "a&sig=1.png", "'\".png", "é\u2028.png", "a;b.png"),
    *("$x.png", "sub/plain.png", "sub/deeper [x]/a.png", "sub/what?/a#b.png", "train/0/1.png", "train/1/1.png"),
    *("a.tar.d/x.png",),
)
"""Each a picture of its own."""
HIDDEN = (
    *("._plain.png", ".hidden.png", ".ipynb_checkpoints/plain.png", "__MACOSX/._plain.png", "sub/__MACOSX/plain.png"),
    *("@eaDir/plain.png", "sub/@eaDir/plain.png", "sub/.thumbnails/plain.png", ".Trash-1000/files/plain.png"),
)
"""Pictures, left out by their names."""
OTHERS = {
    "plain.txt": b"/etc/hostname\nhttp://127.0.0.1:9/x.png\n",
    "sub/list.txt": b"plain.png\n",
    "labels.csv": b"plain.png,3\n",
    "plain.json": b'{"caption": "a.png"}',
    "Thumbs.db": b"\0",
    ".DS_Store": b"\0",
    "README": b"read me",
    "weights.bin": b"\0" * 9,
}
"""What lies beside pictures."""


LISTED = (*IMAGES, *HIDDEN, *(name for name in OTHERS if name not in ("README", "weights.bin")))
"""What lists name. To name a file whose name says nothing is to say that it is an image."""


def files() -> dict[str, bytes]:
    """The tree, by the path of each file."""
    pictures = {name: picture(seed) for seed, name in enumerate([*IMAGES, *HIDDEN])}
    return {**pictures, **OTHERS}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tree in `tree`, and beside it a tar, a zip and a list of its own images."""
    base = tmp_path_factory.mktemp("one") / "tree"
    for name, data in files().items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(data)
    with tarfile.open(base.parent / "tree.tar", "w") as tar, zipfile.ZipFile(base.parent / "tree.zip", "w") as archive:
        for name, data in files().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
            archive.writestr(name, data)
    (base.parent / "list.txt").write_text("".join(f"tree/{name}\n" for name in LISTED))
    (base.parent / "found.txt").write_text("".join(f"{base}/{name}\n" for name in LISTED))
    return base


@pytest.fixture(scope="module")
def sources(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, dict[str, Any]]]]:
    """Where the tree is read from, and the options of its store, by the kind of source."""
    base = tree.parent
    authority, trusted = trustme.CA(), tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with (
        pytest.MonkeyPatch.context() as patch,
        object_store.serve(tmp_path_factory.mktemp("s3")) as store,
        static_server(base, tls) as web,
    ):
        patch.setenv("SSL_CERT_FILE", str(trusted))
        fs = store.filesystem()
        options = {key: fs.storage_options[key] for key in ("key", "secret", "endpoint_url", "client_kwargs")}
        bucket = store.bucket("one")
        for name, data in files().items():
            fs.pipe_file(f"one/tree/{name}", data)
        for name in ("tree.tar", "tree.zip"):
            fs.pipe_file(f"one/{name}", (base / name).read_bytes())
        fs.pipe_file("one/list.txt", (base / "list.txt").read_bytes())
        quoted = "".join(f"{web}/tree/{urllib.parse.quote(name)}\n" for name in LISTED)
        (base / "web.txt").write_text(quoted)
        yield {
            "folder": (str(tree), {}),
            "folder/": (f"{tree}/", {}),
            "glob **": (f"{tree}/**", {}),
            "glob **/*.*": (f"{tree}/**/*.*", {}),
            "list": (f"{base}/list.txt", {}),
            "list of paths": (f"{base}/found.txt", {}),
            "tar": (f"{base}/tree.tar", {}),
            "zip": (f"{base}/tree.zip", {}),
            "S3 folder": (f"{bucket}/tree", options),
            "S3 glob": (f"{bucket}/tree/**", options),
            "S3 list": (f"{bucket}/list.txt", options),
            "S3 tar": (f"{bucket}/tree.tar", options),
            "S3 zip": (f"{bucket}/tree.zip", options),
            "https list": (f"{web}/list.txt", {}),
            "https list of URLs": (f"{web}/web.txt", {}),
            "https tar": (f"{web}/tree.tar", {}),
            "https zip": (f"{web}/tree.zip", {}),
        }


def read(url: str, storage: dict[str, Any]) -> dict[str, str]:
    """The SHA-256 of each image that is read, by its path in the tree; a reason where there is one."""
    digests: dict[str, str] = {}
    for shard in find(url, storage=storage):
        for number, (key, data) in enumerate(ShardReader(shard, storage)):
            name = key.partition("/")[2]
            if shard.kind == "files":
                name = shard.members[number].partition("/tree/")[2]
            if shard.url.startswith("http") and shard.kind == "files":
                name = urllib.parse.unquote(name)
            assert name not in digests, name
            digests[name] = data.reason if isinstance(data, BadImage) else hashlib.sha256(data).hexdigest()
    return digests


def test_the_same_images_through_every_source(sources: dict[str, tuple[str, dict[str, Any]]]) -> None:
    wanted = {name: hashlib.sha256(data).hexdigest() for name, data in files().items() if name in IMAGES}
    results = {kind: read(*source) for kind, source in sources.items()}
    for kind, digests in results.items():
        assert digests == wanted, kind
