"""Summarise a VDNA for its manifest: how complete it is, and how it was made.

manifest = {"dataset": name, **summary(vdna)}
"""

from __future__ import annotations

from typing import Any

from distributions import VDNA


def summary(vdna: VDNA) -> dict[str, Any]:
    """Entries of the manifest that follow from a VDNA alone."""
    spec, ledger = vdna.spec, vdna.ledger
    return {
        "extractor": spec.extractor,
        "images": vdna.images,
        "skipped": sum(ledger.skipped.values()),
        "skipped_by_reason": ledger.skipped,
        "damaged_shards": len(ledger.damaged),
        "shards": len(ledger),
        "architecture": spec.architecture,
        "weights": spec.weights,
        "preprocessing": spec.preprocessing,
        "precision": spec.precision,
        "distributions": list(spec.distributions),
        "positions": {name: spec.samples_of(name) for name in spec.distributions},
        "ranges": spec.ranges.id if spec.ranges and spec.needs_ranges else "",
        "network": spec.network_id,
        "spec": spec.id,
        "layers": dict(spec.layers),
        **_flows(vdna),
        **({} if ledger.noticed is None else {"noticed": dict(ledger.noticed)}),
    }


def _flows(vdna: VDNA) -> dict[str, Any]:
    """The share of activations clamped to the histogram axes, and the number of activations that were not finite."""
    flows: dict[str, Any] = {"clamped_share": 0.0, "not_finite": 0}
    if vdna.has("histogram"):
        everything = vdna.part(None)
        below, above, nan = (
            int(vdna.rows(f"histogram_{flow}", everything).sum()) for flow in ("below", "above", "nan")
        )
        flows["clamped_share"] = (below + above) / max(int(vdna.histogram().sum()), 1)
        flows["not_finite"] = nan
    if vdna.has("activation-ranges"):
        flows["not_finite"] = int(vdna.rows("range_nonfinite", vdna.part(None)).sum())
    return flows
