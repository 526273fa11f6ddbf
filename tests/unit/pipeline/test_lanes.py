"""Batches side by side measure what they would one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from distributions import VDNA, HistogramAxes
from extractors import Extractor, build
from pipeline.config.networks import named_extractor
from pipeline.data.plan import network_spec
from pipeline.data.readers import Sample, ShardReader
from pipeline.data.shards import Shard
from pipeline.extraction.feed import Feed
from pipeline.extraction.lanes import Batch, Lanes
from pipeline.extraction.sinks import VDNASink
from pipeline.measure.make import DISTRIBUTIONS


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return build(named_extractor("test_vit", weights="random"))


def through(lanes: Lanes, batches: Iterable[list[torch.Tensor]]) -> VDNA:
    with lanes.begin() as measuring:
        for batch in batches:
            measuring.put(Batch(batch, []))
        (sink,) = measuring.merged()
    assert isinstance(sink, VDNASink)
    return sink.vdna


def measured(extractor: Extractor, batches: list[list[torch.Tensor]], threads: int) -> VDNA:
    spec = network_spec(extractor)
    edge = np.full(sum(spec.layers.values()), 4.0)
    spec = replace(spec, distributions=DISTRIBUTIONS, ranges=HistogramAxes(spec.layers, -edge, edge))
    return through(Lanes(extractor, [partial(VDNASink, spec)], 4, threads), batches)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_any_number_of_lanes_measures_the_same(extractor: Extractor, count: int) -> None:
    size, draw = extractor.preprocess.size, torch.Generator().manual_seed(count)
    batches = [list(torch.randn(4 - (i == 6), 3, size, size, generator=draw)) for i in range(count)]
    one, again, two, twelve = (measured(extractor, batches, threads).state() for threads in (1, 2, 2, 12))
    for name in one:
        np.testing.assert_array_equal(again[name], two[name], err_msg=name)
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-5 + (name == "histogram"), err_msg=name)
        np.testing.assert_allclose(twelve[name], one[name], rtol=1e-5, atol=1e-5 + (name == "histogram"), err_msg=name)
    assert one["histogram"].sum() == two["histogram"].sum() == twelve["histogram"].sum()
    assert one["count"].tolist() == [4 * count - (count == 7)] * len(one["count"])


@pytest.mark.parametrize("error", [OSError("gone"), asyncio.CancelledError()])
def test_whatever_ends_the_reading_is_raised(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ShardReader) -> Iterator[Sample]:
        yield Sample("one", b"1")
        raise error

    monkeypatch.setattr(ShardReader, "samples", fail)
    with Feed([ShardReader(Shard("tar", "x.tar", 1, ""))], lambda key, _: key, 4, 1) as feed:
        images = iter(feed)
        assert next(images) == (0, Sample("one", b""), "one")
        with pytest.raises((OSError, RuntimeError), match=r"gone|reading was ended"):
            next(images)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_goes_wrong_is_raised_and_the_next_task_is_whole(extractor: Extractor, threads: int) -> None:
    size = extractor.preprocess.size
    good, wrong = [torch.zeros(3, size, size)], [torch.zeros(3, size, size), torch.zeros(3, size, 1)]

    def broken() -> Iterator[list[torch.Tensor]]:
        yield good
        raise ConnectionError("gone")

    factories = [partial(VDNASink, network_spec(extractor))]
    lanes = Lanes(extractor, factories, 4, threads)
    with pytest.raises(RuntimeError):
        through(lanes, [good, wrong, good, good, good, good, good])
    with pytest.raises(ConnectionError, match="gone"):
        through(lanes, broken())
    after, fresh = through(lanes, [good]), through(Lanes(extractor, factories, 4, 1), [good])
    for name, array in fresh.state().items():
        np.testing.assert_allclose(after.state()[name], array, rtol=1e-5, atol=1e-6)
