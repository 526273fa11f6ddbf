"""The manifests as kubectl renders them, the image file, the operator's guide, and what starts the nightly run."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.config.arguments import arguments, for_hydra
from pipeline.config.settings import Settings
from tests.helpers.commands import ROOT, settings
from tests.helpers.manifests import K8S, OVERLAYS, Manifest, container, kubectl, load, one, pods, ray_parts, rendered

CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "crds"))


every = pytest.mark.parametrize("name", ["base", *OVERLAYS])


overlays = pytest.mark.parametrize("name", OVERLAYS)


def unknown(value: Any, schema: Manifest, path: str = "") -> list[str]:
    """Properties that a CRD's schema does not name; the API server would drop them without a word."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in unknown(item, schema.get("items", {}), f"{path}[{i}]")]
    if not isinstance(value, dict) or (path in (".metadata", "") and "properties" not in schema):
        return []
    paths = []
    for key, item in value.items():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        if inner is None:
            paths.append(f"{path}.{key}")
        elif isinstance(inner, dict):
            paths += unknown(item, inner, f"{path}.{key}")
    return paths


@cache
def crd(kind: str) -> Manifest:
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not at hand: no {path}; set KUBERAY_CRDS")
    (definition,) = [document for document in load(path.read_text()) if document]
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    return dict(version["schema"]["openAPIV3Schema"])


@every
def test_kuberay_accepts_the_rayjob(name: str) -> None:
    rayjob = one(rendered(name), "RayJob")
    jsonschema.Draft202012Validator(crd("RayJob")).validate(rayjob)
    assert unknown(rayjob, crd("RayJob")) == []
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "c"}}
    cluster["spec"] = rayjob["spec"]["rayClusterSpec"]
    jsonschema.Draft202012Validator(crd("RayCluster")).validate(cluster)
    assert unknown(cluster, crd("RayCluster")) == []


def test_a_misspelt_field_is_found() -> None:
    rayjob = json.loads(json.dumps(one(rendered("gpu"), "RayJob")))
    rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ressources"] = {}
    (path,) = unknown(rayjob, crd("RayJob"))
    assert path == ".spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].ressources"


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@every
def test_kubernetes_accepts_the_rest(name: str, version: str) -> None:
    """From the oldest version that the guide promises."""
    kinds = {m["kind"]: m for m in rendered(name)}
    assert set(kinds) == {"ConfigMap", "CronJob", "NetworkPolicy", "RayJob", "Role", "RoleBinding", "ServiceAccount"}
    rayjob = kinds.pop("RayJob")
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "part"}}
    parts = [{**wrapped, "template": template} for template in ray_parts(rayjob).values()]
    for manifest in (*parts, *(m for m in rendered(name) if m is not rayjob)):
        kubernetes_validate.validate(manifest, version, strict=True)


@overlays
def test_everything_lands_in_one_namespace(name: str) -> None:
    manifests = rendered(name)
    assert {m["metadata"]["namespace"] for m in manifests} == {"vdna"}
    assert one(manifests, "RoleBinding")["subjects"] == [
        {"kind": "ServiceAccount", "name": "vdna-submit", "namespace": "vdna"}
    ]


@every
def test_what_is_named_is_there(name: str) -> None:
    manifests = rendered(name)
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    for template in pods(manifests).values():
        spec = template["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in names
        for volume in spec.get("volumes", []):
            assert ("ConfigMap", volume["configMap"]["name"]) in names
        for source in container(template).get("envFrom", []):
            assert "secretRef" in source or ("ConfigMap", source["configMapRef"]["name"]) in names
    environment = {e["name"]: e.get("value") for e in container(pods(manifests)["cronjob"])["env"]}
    assert ("RayJob", environment["TEMPLATE"]) in names
    binding = one(manifests, "RoleBinding")
    assert ("Role", binding["roleRef"]["name"]) in names
    assert pods(manifests)["cronjob"]["spec"]["serviceAccountName"] == binding["subjects"][0]["name"]


@every
def test_no_pod_has_more_rights_than_it_needs(name: str) -> None:
    """The restricted Pod Security Standard, for the containers that KubeRay adds too."""
    manifests = rendered(name)
    cluster = one(manifests, "RayJob")["spec"]["rayClusterSpec"]
    contexts = [container(template)["securityContext"] for template in pods(manifests).values()]
    if cluster["enableInTreeAutoscaling"]:
        contexts.append(cluster["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged")
    for part, template in pods(manifests).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        if part in ("workers", "submitter"):
            assert spec["automountServiceAccountToken"] is False
    (rule,) = one(manifests, "Role")["rules"]
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}


@every
def test_memory_is_reserved(name: str) -> None:
    """A container that is given more than its node has is killed at the worst moment."""
    manifests = rendered(name)
    for template in pods(manifests).values():
        resources = container(template)["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


@every
def test_credentials_come_from_a_secret_that_is_not_here(name: str) -> None:
    manifests = rendered(name)
    assert not [m for m in manifests if m["kind"] == "Secret"]
    for part in ("head", "workers"):
        sources = container(pods(manifests)[part])["envFrom"]
        assert {"secretRef": {"name": "vdna-credentials", "optional": True}} in sources
    assert "runtimeEnvYAML" not in one(manifests, "RayJob")["spec"]
    assert not re.search(r"(?i)access_?key|session_?token|password|secret_", json.dumps(manifests))


@every
def test_ray_reaches_no_one_else(name: str) -> None:
    (rule,) = one(rendered(name), "NetworkPolicy")["spec"]["ingress"]
    near, operator = rule["from"]
    assert near == {"podSelector": {}}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert one(rendered(name), "RayJob")["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@every
def test_versions_agree(name: str) -> None:
    """Ray of the manifests and of the image; the image and the project."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    manifests = rendered(name)
    assert one(manifests, "RayJob")["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container(template)["image"] for template in pods(manifests).values()}
    assert images == {f"vdna-catalogue:{version}"}


@every
def test_nights_do_not_overlap_and_clusters_do_not_stay(name: str) -> None:
    manifests = rendered(name)
    cron = one(manifests, "CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert cron["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [1]
    rayjob = one(manifests, "RayJob")
    assert rayjob["spec"]["suspend"] is True
    assert not [label for label in rayjob["metadata"]["labels"] if "kueue" in label]
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
    assert rayjob["spec"]["backoffLimit"] > 0
    assert rayjob["spec"]["activeDeadlineSeconds"] > rayjob["spec"]["ttlSecondsAfterFinished"] > 0


def composed(manifests: list[Manifest], folder: Path) -> dict[str, Settings]:
    """The settings of each dataset of the run, by its command and the ConfigMaps where the head mounts them."""
    rayjob = one(manifests, "RayJob")
    entrypoint = rayjob["spec"]["entrypoint"]
    assert re.fullmatch(r"[A-Za-z0-9=/.,:_+ -]+", entrypoint), "a shell would read this"
    program, config_dir, given = entrypoint.split()[:3], entrypoint.split()[3:5], entrypoint.split()[5:]
    assert program == ["python", "-m", "pipeline.run"]
    assert config_dir[0] == "--config-dir"
    head = ray_parts(rayjob)["head"]
    volumes = {volume["name"]: volume["configMap"]["name"] for volume in head["spec"]["volumes"]}
    for mount in container(head)["volumeMounts"]:
        group = folder / Path(mount["mountPath"]).relative_to(config_dir[1])
        group.mkdir(parents=True)
        for file, text in one(manifests, "ConfigMap", volumes[mount["name"]])["data"].items():
            (group / file).write_text(text)
    (experiment,) = [a.split("=")[1] for a in given if a.startswith("+experiment=")]
    swept = yaml.safe_load((folder / "experiment" / f"{experiment}.yaml").read_text())
    datasets = swept["hydra"]["sweeper"]["params"]["dataset"].split(",")
    search = f"hydra.searchpath=[file://{folder}]"
    return {dataset: settings(search, *for_hydra(arguments([*given, f"dataset={dataset}"]))) for dataset in datasets}


@every
def test_the_command_is_a_valid_configuration(name: str, tmp_path: Path) -> None:
    run = composed(rendered(name), tmp_path)["mine"]
    assert run.pool.address == "auto"
    assert run.dataset.url.startswith("s3://")
    assert run.catalogue.startswith("s3://")
    assert run.pool.device == ("cpu" if name in ("base", "cpu") else "cuda")


@every
def test_all_actors_find_room(name: str, tmp_path: Path) -> None:
    """Ray takes the pods' limits for its resources; actors that never fit would be waited for in vain."""
    manifests = rendered(name)
    pool = composed(manifests, tmp_path)["mine"].pool
    assert pool.actors is not None, "auto counts what is there before the autoscaler has brought a worker"
    assert pool.threads is not None, "auto counts the cores of the driver"
    cluster = one(manifests, "RayJob")["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    limits = container(workers["template"])["resources"]["limits"]
    assert container(workers["template"])["resources"]["requests"] == limits
    assert int(limits["cpu"]) >= pool.threads
    in_a_pod = int(limits["cpu"]) // pool.threads
    gpus = int(limits.get("nvidia.com/gpu", 0))
    assert (pool.device == "cuda") == bool(gpus)
    if gpus:
        in_a_pod = min(in_a_pod, int(gpus / (pool.gpus_per_actor or 1)))
    assert pool.actors == in_a_pod * workers["maxReplicas"]
    autoscaled = cluster["enableInTreeAutoscaling"]
    assert (workers["minReplicas"], workers["replicas"]) == ((0, 0) if autoscaled else (workers["maxReplicas"],) * 2)


def test_spot_nodes_hold_workers_only() -> None:
    parts = ray_parts(one(rendered("spot-gpu"), "RayJob"))
    nodes = {part: template["spec"]["nodeSelector"]["capacity"] for part, template in parts.items()}
    assert nodes == {"head": "on-demand", "submitter": "on-demand", "workers": "spot"}
    assert {t["key"] for t in parts["workers"]["spec"]["tolerations"]} == {"nvidia.com/gpu", "capacity"}
    assert "tolerations" not in parts["head"]["spec"]


def test_kueue_gets_each_night_and_not_the_template() -> None:
    manifests = rendered("kueue")
    (labels,) = [e["value"] for e in container(pods(manifests)["cronjob"])["env"] if e["name"] == "RUN_LABELS"]
    assert labels == "kueue.x-k8s.io/queue-name=vdna-queue"
    cluster = one(manifests, "RayJob")["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False, "Kueue refuses it"
    assert "autoscalerOptions" not in cluster


def quantity(text: Any) -> float:
    """A Kubernetes quantity as a number: cores or bytes."""
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", str(text)).groups()
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def test_kueue_s_quota_holds_a_run() -> None:
    """Kueue starts a run as a whole, or never."""
    manifests = rendered("kueue")
    _, cluster_queue, local_queue = load((K8S / "overlays" / "kueue" / "queues.yaml").read_text())
    assert local_queue["metadata"] == {"name": "vdna-queue", "namespace": "vdna"}
    (group,) = cluster_queue["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    quota = {r["name"]: quantity(r["nominalQuota"]) for r in flavor["resources"]}
    (workers,) = one(manifests, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    asked: Counter[str] = Counter()
    for part, template in ray_parts(one(manifests, "RayJob")).items():
        for resource, amount in container(template)["resources"]["requests"].items():
            asked[resource] += quantity(amount) * (workers["replicas"] if part == "workers" else 1)  # type: ignore[assignment]
    assert set(quota) == set(asked) == set(group["coveredResources"])
    assert all(asked[resource] <= quota[resource] for resource in quota)


def test_the_image_file_fits_the_repository_and_the_manifests() -> None:
    text = (K8S / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    ignore = (K8S / "Dockerfile.dockerignore").read_text().split("\n")
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {source for word, rest in lines if word == "COPY" for source in rest.split()[:-1]}
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= copied
    (user,) = [rest for word, rest in lines if word == "USER"]
    manifests = rendered("base")
    assert {t["spec"]["securityContext"]["runAsUser"] for t in pods(manifests).values()} == {int(user)}
    assert f"--uid {user} " in text
    assert '"ray[default]"' in text
    assert "-c constraints.txt" in text
    command = container(pods(manifests)["cronjob"])["command"]
    assert f"COPY k8s/submit.py {command[1]}\n" in text


def test_the_guide_s_files_work(tmp_path: Path) -> None:
    """The overlay that the guide tells an operator to write renders, and runs what it says."""
    shutil.copytree(K8S, tmp_path / "k8s")
    ours = tmp_path / "k8s" / "overlays" / "ours"
    ours.mkdir()
    written = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "cluster.md").read_text(), re.M | re.S)
    for file, text in zip(("kustomization", "nightly", "photos"), written, strict=True):
        (ours / f"{file}.yaml").write_text(text)
    manifests = kubectl(ours)
    images = {container(template)["image"] for template in pods(manifests).values()}
    assert images == {"OUR-REGISTRY/vdna-catalogue:2025-03-14"}
    assert one(manifests, "ConfigMap", "vdna-environment")["data"]["RAY_DEDUP_LOGS"] == "0"
    (run,) = composed(manifests, tmp_path / "etc").values()
    assert run.dataset.url == "s3://our-bucket/photos/{00000..00127}.tar"
    assert (run.catalogue, run.max_bad_fraction) == ("s3://our-bucket/catalogue", 0.02)


def test_the_guide_speaks_of_what_is_there() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    queues = load((K8S / "overlays" / "kueue" / "queues.yaml").read_text())
    names = {m["metadata"]["name"] for m in [*rendered("spot-gpu"), *queues]} | {"vdna-credentials"}
    for word in re.findall(r"\bvdna-[a-z]+\b", text):
        assert word in names, word
    for path in re.findall(r"\bk8s/[\w./-]*\w", text):
        assert (ROOT / path).exists() or path == "k8s/overlays/ours", path
