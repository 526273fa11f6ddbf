"""Kubernetes manifests as kubectl renders them, and parts of them."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.commands import ROOT

K8S = ROOT / "k8s"


OVERLAYS = ("cpu", "gpu", "spot-gpu", "kueue")


Manifest = dict[str, Any]


def load(text: str) -> list[Any]:
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def kubectl(folder: Path) -> list[Manifest]:
    """A kustomization as the real kubectl renders it."""
    done = subprocess.run(
        [Path(sys.executable).parent / "kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kubectl warns: " + done.stderr
    return load(done.stdout)


@cache
def rendered(name: str) -> list[Manifest]:
    return kubectl(K8S / name if name == "base" else K8S / "overlays" / name)


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    (manifest,) = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    return manifest


def ray_parts(rayjob: Manifest) -> dict[str, Manifest]:
    """The pod templates of a RayJob."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {
        "head": cluster["headGroupSpec"]["template"],
        "workers": workers["template"],
        "submitter": rayjob["spec"]["submitterPodTemplate"],
    }


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    cronjob = one(manifests, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    return {**ray_parts(one(manifests, "RayJob")), "cronjob": cronjob}


def container(template: Manifest) -> Manifest:
    (only,) = template["spec"]["containers"]
    return dict(only)
