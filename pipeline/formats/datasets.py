"""Converting VDNAs to and from labelled datasets, which `groups` stores as Zarr groups.

dataset = to_dataset(vdna, {"made": "today"})
from_dataset(dataset)                                       # the same VDNA, its digest checked
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from distributions import HistogramAxes, IncompatibleError, Ledger, ShardRecord, Spec
from distributions.spec import arrays_of, bins_of
from pipeline.errors import NEWER, DamagedError, UserError, damage

if TYPE_CHECKING:
    from distributions import VDNA

FORMAT = 1
MAX_NEURONS = 1 << 22
MAX_TEXT = 1 << 16
MAX_NUMBER = 1 << 53
LEDGER_TEXT = ("url", "part", "etag", "sha256", "damage")
LEDGER_NUMBERS = ("size", "counted", "lost_bytes")


def to_dataset(vdna: VDNA, attributes: Mapping[str, Any]) -> xr.Dataset:
    """A VDNA as a labelled dataset with the dimensions `neuron`, `bin`, `other`, `shard` and `reason`.

    The coordinate `layer` names the layer of each neuron, and `unit` is the neuron's index in its layer. `attributes`
    are added to the dataset's own.
    """
    spec = vdna.spec
    dims = {name: axes for distribution in spec.distributions for name, axes in arrays_of(distribution).items()}
    variables: dict[str, Any] = {name: (dims[name], array) for name, array in vdna.state().items()}
    if spec.ranges and spec.needs_ranges:
        variables["bin_low"] = ("neuron", spec.ranges.low)
        variables["bin_high"] = ("neuron", spec.ranges.high)
    records = list(vdna.ledger)
    reasons = sorted({reason for record in records for reason in record.skipped})
    for name in LEDGER_TEXT:
        variables[f"shard_{name}"] = ("shard", np.array([getattr(r, name) for r in records], dtype=object))
    for name in LEDGER_NUMBERS:
        variables[f"shard_{name}"] = ("shard", np.array([getattr(r, name) for r in records], dtype=np.int64))
    skipped = np.array([[r.skipped.get(reason, 0) for reason in reasons] for r in records], dtype=np.int64)
    variables["shard_skipped"] = (("shard", "reason"), skipped.reshape(len(records), len(reasons)))
    coordinates = {
        "layer": ("neuron", np.repeat(np.array(list(spec.layers), dtype=object), list(spec.layers.values()))),
        "unit": ("neuron", np.concatenate([np.arange(n) for n in spec.layers.values()])),
        "reason": ("reason", np.array(reasons, dtype=object)),
    }
    fixed = {
        "format": FORMAT,
        "spec": spec.id,
        "extractor": spec.extractor,
        "architecture": spec.architecture,
        "weights": spec.weights,
        "preprocessing": spec.preprocessing,
        "precision": spec.precision,
        "layers": json.dumps(dict(spec.layers)),
        "distributions": json.dumps(list(spec.distributions)),
        "positions": json.dumps(dict(spec.positions)),
        "digest": vdna.digest(),
        "sources": vdna.ledger.sources_digest(),
    }
    return xr.Dataset(variables, coordinates, {**attributes, **fixed})


def from_dataset(dataset: xr.Dataset, expected: Spec | None = None) -> VDNA:
    """The VDNA in a dataset.

    Raises `DamagedError` if the dataset holds no VDNA or its digests do not match, `IncompatibleError` if its spec is
    not `expected`, and `UserError` if a newer version wrote it. Nothing larger than the arrays of the spec is allocated
    before the checks.
    """
    with damage("its contents are not those of a VDNA"):
        spec = _spec(dataset)
    if expected is not None and spec.id != expected.id:
        raise IncompatibleError("made with another network, distributions or ranges")
    from distributions import VDNA  # imports torch, which the rest of this module does not need

    with damage("its contents are not those of a VDNA"):
        state, ledger = _state(dataset, spec), ledger_of(dataset)
        vdna = VDNA(spec)
        vdna.load(state, ledger)
        digests = {"spec": spec.id, "digest": vdna.digest(), "sources": vdna.ledger.sources_digest()}
    for name, digest in digests.items():
        if dataset.attrs.get(name) != digest:
            raise DamagedError(f"its contents are not those it was written with: another {name}")
    return vdna


def _spec(dataset: xr.Dataset) -> Spec:
    a = dataset.attrs
    network = (a["extractor"], a["architecture"], a["weights"], a["preprocessing"], a["precision"])
    layers, names = json.loads(a["layers"]), json.loads(a["distributions"])
    if type(a["format"]) is int and a["format"] > FORMAT:
        raise UserError(NEWER)
    sound = a["format"] == FORMAT and all(isinstance(text, str) for text in network)
    sound = sound and isinstance(layers, dict) and all(type(n) is int and n > 0 for n in layers.values())
    if not (sound and 0 < sum(layers.values()) <= MAX_NEURONS):
        raise DamagedError("its attributes are not those of a VDNA")
    ranges = None
    if "bin_low" in dataset:
        low, high = (_array(dataset, name, (sum(layers.values()),)) for name in ("bin_low", "bin_high"))
        ranges = HistogramAxes(layers, low, high, "exact")
    return Spec(*network, layers, tuple(names), ranges, json.loads(a.get("positions", "{}")))


def _state(dataset: xr.Dataset, spec: Spec) -> dict[str, np.ndarray]:
    sizes = {"neuron": sum(spec.layers.values()), "other": max(spec.layers.values())}
    state: dict[str, np.ndarray] = {}
    for distribution in spec.distributions:
        sizes["bin"] = bins_of(distribution) or 0
        for name, dims in arrays_of(distribution).items():
            state[name] = _array(dataset, name, tuple(sizes[dim] for dim in dims))
    return state


def ledger_of(dataset: xr.Dataset) -> Ledger:
    """The ledger in a dataset. Needs only the arrays `shard_…` and `reason`."""
    shape = dataset.sizes["shard"], dataset.sizes["reason"]
    numbers = {name: _array(dataset, f"shard_{name}", shape[:1]) for name in LEDGER_NUMBERS}
    texts = {name: _texts(dataset, f"shard_{name}") for name in LEDGER_TEXT}
    reasons, skipped = _texts(dataset, "reason"), _array(dataset, "shard_skipped", shape)
    for name, values in (*numbers.items(), ("skipped", skipped)):
        minimum = -1 if name == "size" else 0  # -1: the store did not state the size
        if values.dtype != np.int64 or (values < minimum).any() or (values > MAX_NUMBER).any():
            raise DamagedError(f"its ledger says impossible numbers {name}")
    rows = zip(*texts.values(), *(values.tolist() for values in numbers.values()), skipped.tolist(), strict=True)
    return Ledger(
        ShardRecord(
            **dict(zip((*texts, *numbers), columns, strict=True)),
            skipped={reason: n for reason, n in zip(reasons, counts, strict=True) if n},
        )
        for *columns, counts in rows
    )


def _array(dataset: xr.Dataset, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of numbers. Checks its shape before it decodes it."""
    variable = dataset[name]
    if variable.shape != shape or variable.dtype.kind not in "uif":
        raise DamagedError(f"its array {name} is {variable.dtype}{variable.shape} and not {shape}")
    return np.asarray(variable.to_numpy())


def _texts(dataset: xr.Dataset, name: str) -> list[str]:
    texts: list[str] = dataset[name].to_numpy().tolist()
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts):
        raise DamagedError(f"its {name} is not as this program writes it")
    return texts
