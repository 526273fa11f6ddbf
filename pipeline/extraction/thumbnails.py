"""Small copies of a dataset's first pictures, for the site, where its owner asks for them.

    thumbnails(store, plan, 8)                # ["thumbnails/0123456789abcdef.jpg", …]

They are written under names by their contents, and published with the catalogue.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from pipeline.data.decode import BadImage, decode
from pipeline.data.plan import Plan
from pipeline.data.readers import ShardReader, in_turn
from pipeline.storage.folder import Folder

FOLDER = "thumbnails"
SIDE = 160
"""Pixels of the longer side, at most."""
QUALITY = 80


def thumbnails(folder: Folder, plan: Plan, number: int) -> list[str]:
    """Write so many, of the first pictures that can be read; their paths."""
    paths = []
    for data in islice(_pictures(plan), number):
        path = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:16]}.jpg"
        folder.put(path, data)
        paths.append(path)
    return paths


def _pictures(plan: Plan) -> Iterator[bytes]:
    for task in plan.tasks:
        for _, _, data in in_turn([ShardReader(shard, dict(task.storage)) for shard in task.shards]):
            if isinstance(data, BadImage):
                continue
            try:
                picture = Image.fromarray(decode(data, SIDE))
            except BadImage:
                continue
            picture.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=QUALITY)
            yield buffer.getvalue()
