"""Small images and archives of them, and what is counted of a folder, an archive or a list."""

from __future__ import annotations

import base64
import io
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.data.decode import BadImage, decode
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard


def picture(seed: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


FILES = {f"{i:03d}.png": picture(i) for i in range(7)}


def tar_bytes(files: dict[str, bytes], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def images(shards: list[Shard]) -> list[bytes | str]:
    """What the readers give: bytes, or the reason for an image that is lost."""
    return [d.reason if isinstance(d, BadImage) else d for s in shards for _, d in ShardReader(s)]


IMAGES = list(FILES.values())
RAW = pa.array(IMAGES[:2], pa.binary())
BASE64 = [base64.b64encode(data) for data in IMAGES[:2]]


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)
    return path


def tally(url: str | list[str], **options: Any) -> dict[str, int]:
    """How many images count, and the reasons of those that do not; `damaged` archives too."""
    counts: Counter[str] = Counter()
    for shard in find(url, **options):
        reader = ShardReader(Shard.from_row(shard.to_row()), options.get("storage"))
        for _, data in reader:
            try:
                if isinstance(data, BadImage):
                    raise data
                decode(data)
                counts["counted"] += 1
            except BadImage as bad:
                counts[bad.reason] += 1
        counts["damaged"] += bool(reader.damage)
    return {key: count for key, count in counts.items() if count}


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
