"""Reading ahead through an object store that fails."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader, in_turn
from pipeline.storage import ahead
from tests.helpers import flaky, object_store
from tests.helpers.samples import tar_bytes


def test_through_a_store_that_fails(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real S3 server behind a proxy that spoils every fifth request: a tar in forty ranges, and loose files."""
    files = {f"{i:02d}.png": np.random.default_rng(i).bytes(9_000) for i in range(45)}
    monkeypatch.setattr(ahead, "MIN_RANGE_BYTES", 1000)
    with object_store.serve(tmp_path_factory.mktemp("s3")) as store:
        url = store.bucket("shards")
        store.filesystem().pipe({"shards/x.tar": tar_bytes(files), **{f"shards/y/{k}": v for k, v in files.items()}})
        plan = flaky.Plan(rate=0.2, seed=2, silence_s=5)
        with flaky.FlakyProxy(store.endpoint, plan) as proxy:
            near, far = (
                {"key": store.key, "secret": store.secret, "endpoint_url": end}
                for end in (store.endpoint, proxy.endpoint)
            )
            shards = [shard for name in ("x.tar", "y") for shard in find(f"{url}/{name}", storage=near)]
            readers = [ShardReader(shard, far, 3) for shard in shards]
            contents = [data for _, _, data in in_turn(readers)]
        assert contents == [*files.values()] * 2
        assert len(set(proxy.injected)) > 5
