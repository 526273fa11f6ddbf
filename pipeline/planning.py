"""The plan: a dataset's tasks and the network that will see them. The stages agree on it through the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from distributions import Ranges, Spec
from extractors import Extractor
from pipeline.data.sources import Shard, Task

OBSERVE = ("activation-ranges",)


@dataclass(frozen=True)
class Plan:
    """`dataset` says what is known of it; `network` is the spec of a VDNA that only observes ranges."""

    dataset: dict[str, Any]
    network: Spec
    tasks: tuple[Task, ...]

    def spec(self, distributions: Sequence[str], ranges: Ranges | None) -> Spec:
        """The spec of this plan's VDNAs with other distributions."""
        return replace(self.network, distributions=tuple(distributions), ranges=ranges)

    def fingerprint(self, spec: Spec) -> str:
        """Hash of the spec and of every shard and its grouping: which VDNA this plan leads to."""
        return hashlib.sha256(json.dumps([spec.id, [task.id for task in self.tasks]]).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        n = self.network
        return {
            "dataset": self.dataset,
            "extractor": n.extractor,
            "architecture": n.architecture,
            "weights": n.weights,
            "preprocessing": n.preprocessing,
            "precision": n.precision,
            "layers": list(n.layers.items()),
            "tasks": [[vars(shard) for shard in task.shards] for task in self.tasks],
        }

    @classmethod
    def from_dict(cls, c: dict[str, Any]) -> Plan:
        layers = {layer: int(neurons) for layer, neurons in c["layers"]}
        fields = (c["extractor"], c["architecture"], c["weights"], c["preprocessing"], c["precision"])
        network = Spec(*fields, layers, OBSERVE)
        shards = [[Shard(**{**s, "members": tuple(s["members"])}) for s in task] for task in c["tasks"]]
        return cls(c["dataset"], network, tuple(Task(i, tuple(task)) for i, task in enumerate(shards)))


def network_spec(extractor: Extractor) -> Spec:
    """The spec of what a network observes before it has histogram axes."""
    return Spec(
        extractor=extractor.name,
        architecture=extractor.architecture,
        weights=extractor.weights_sha256,
        preprocessing=extractor.preprocess.id,
        precision=extractor.config.precision,
        layers=extractor.layers,
        distributions=OBSERVE,
    )
