"""Thumbnails of a dataset's first pictures for the site, made on request of the dataset's owner.

    thumbnails(store, plan, 8)                # ["thumbnails/0123456789abcdef.jpg", …]

The names of thumbnails are hashes of their contents. Thumbnails are published with the catalogue.
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
from pipeline.storage.folder import ObjectStore

FOLDER = "thumbnails"
SIDE = 160
"""Largest number of pixels of the longer side."""
QUALITY = 80


def thumbnails(store: ObjectStore, plan: Plan, number: int) -> list[str]:
    """Write thumbnails of the first `number` pictures that can be decoded, and return their paths in the store."""
    paths = []
    for data in islice(_pictures(plan), number):
        path = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:16]}.jpg"
        store.put(path, data)
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
