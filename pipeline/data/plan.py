"""The plan of a dataset: its tasks and the network that measures them. Stages exchange it through the store.

data = Plan(dataset, network_spec(extractor), tasks).to_bytes()
plan = Plan.from_bytes(data, storage)
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distributions import HistogramAxes, Spec
from distributions.spec import DECIDING
from extractors import Extractor
from pipeline.data.shards import Shard, Task

OBSERVE = ("activation-ranges",)
BROKEN = (OSError, EOFError, zlib.error)
"""Exceptions of gzip for data that it cannot unpack."""
MALFORMED = (StopIteration, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions for contents that are no plan, in addition to `ValueError`."""
MAX_LINE = 64 << 20
"""Largest number of bytes of a task in a plan. A longer line is not read to its end, and is refused."""


@dataclass(frozen=True)
class Plan:
    """A dataset's description, its tasks, and the network: the spec of a VDNA with activation ranges only."""

    dataset: dict[str, Any]
    network_spec: Spec
    tasks: tuple[Task, ...]

    def spec(self, distributions: Sequence[str], ranges: HistogramAxes | None, positions: Mapping[str, str]) -> Spec:
        """The spec of the plan's VDNAs with these distributions, histogram axes and positions."""
        return replace(self.network_spec, distributions=tuple(distributions), ranges=ranges, positions=positions)

    def fingerprint(self, spec: Spec) -> str:
        """Hash of the spec, and of the shards and their grouping. It identifies the VDNA that the plan leads to."""
        return hashlib.sha256(json.dumps([spec.id, [task.id for task in self.tasks]]).encode()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """The plan as gzipped lines of JSON: one for the dataset and the network, then one for each task."""
        n = self.network_spec
        head = {
            "dataset": self.dataset,
            "extractor": n.extractor,
            "architecture": n.architecture,
            "weights": n.weights,
            "preprocessing": n.preprocessing,
            "precision": n.precision,
            "layers": list(n.layers.items()),
        }
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=2, mtime=0) as lines:
            lines.write(f"{json.dumps(head)}\n".encode())
            for task in self.tasks:
                lines.write(f"{json.dumps([shard.to_row() for shard in task.shards])}\n".encode())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, storage: Mapping[str, Any]) -> Plan:
        """The plan in `data`. Its tasks get the fsspec options `storage`. Raises `ValueError` for other data."""
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                lines = iter(lambda: unpacked.readline(MAX_LINE), b"")
                head = json.loads(next(lines))
                layers = {str(layer): int(neurons) for layer, neurons in head["layers"]}
                arch, weights, preprocessing, precision = (str(head[name]) for name in DECIDING)
                network = Spec(str(head["extractor"]), arch, weights, preprocessing, precision, layers, OBSERVE)
                rows = (tuple(map(Shard.from_row, json.loads(line))) for line in lines)
                tasks = tuple(Task(index, shards, storage) for index, shards in enumerate(rows))
            return cls(head["dataset"], network, tasks)
        except (*BROKEN, *MALFORMED) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def network_spec(extractor: Extractor) -> Spec:
    """The spec of a VDNA that an extractor can make before there are histogram axes."""
    return Spec(
        extractor=extractor.name,
        architecture=extractor.architecture,
        weights=extractor.weights_sha256,
        preprocessing=extractor.preprocess.id,
        precision=extractor.precision,
        layers=extractor.layers,
        distributions=OBSERVE,
    )
