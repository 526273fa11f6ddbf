"""The manifests as kubectl renders them, the image file, the operator's guide, and what starts the nightly run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.config.arguments import arguments
from pipeline.config.settings import Settings
from tests.helpers.commands import ROOT, settings

K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu", "spot-gpu", "kueue")
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "crds"))
Manifest = dict[str, Any]
Start = Callable[[], None]


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
    (found,) = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    return found


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


every = pytest.mark.parametrize("name", ["base", *OVERLAYS])
overlays = pytest.mark.parametrize("name", OVERLAYS)


# --- what the API server would say


def unknown(value: Any, schema: Manifest, path: str = "") -> list[str]:
    """Properties that a CRD's schema does not name; the API server would drop them without a word."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in unknown(item, schema.get("items", {}), f"{path}[{i}]")]
    if not isinstance(value, dict) or (path in (".metadata", "") and "properties" not in schema):
        return []
    found = []
    for key, item in value.items():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        if inner is None:
            found.append(f"{path}.{key}")
        elif isinstance(inner, dict):
            found += unknown(item, inner, f"{path}.{key}")
    return found


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
    (found,) = unknown(rayjob, crd("RayJob"))
    assert found == ".spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].ressources"


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


# --- what the pods may do, and what they hold


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


# --- the run


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
    return {dataset: settings(search, *arguments([*given, f"dataset={dataset}"])) for dataset in datasets}


@every
def test_the_command_is_a_valid_configuration(name: str, tmp_path: Path) -> None:
    run = composed(rendered(name), tmp_path)["mine"]
    assert run.pool.address == "auto"
    assert run.dataset.url.startswith("s3://")  # type: ignore[union-attr]
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
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
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


# --- the image and the guide


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


# --- submit.py


@pytest.fixture
def submit() -> Any:
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("submit", K8S / "submit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server(ThreadingHTTPServer):
    """As much of a Kubernetes API server as RayJobs need."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rayjobs: dict[str, Manifest] = {}
        self.stages: list[Manifest] = []  # what the next reads of a run find as its status; the last one stays
        self.faults: list[int | None] = []  # of the next answers; None lets one pass
        self.tokens: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    folder = "/apis/ray.io/v1/namespaces/vdna/rayjobs"

    def log_message(self, *_: Any) -> None:
        """Not on the test's standard error."""

    def reply(self, code: int, body: Manifest) -> None:
        """The answer, or what the next fault makes of it: another code, or nothing at all (0)."""
        self.server.tokens.append(self.headers["Authorization"])
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == 0:
            self.close_connection = True
            return
        if fault is not None:
            code, body = fault, {"kind": "Status", "message": f"answer {fault}"}
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        name, stages = self.path.removeprefix(f"{self.folder}/"), self.server.stages
        found = self.server.rayjobs.get(name)
        if found is None:
            self.reply(404, {"message": f'rayjobs.ray.io "{name}" not found'})
            return
        if "ownerReferences" in found["metadata"] and stages:
            found["status"] = stages.pop(0) if len(stages) > 1 else stages[0]
        self.reply(200, found)

    def do_POST(self) -> None:
        assert self.path == self.folder
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        there = self.server.rayjobs.setdefault(body["metadata"]["name"], body)
        self.reply(201 if there is body else 409, body)


DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
UID = "0f1e2d3c-aaaa-bbbb-cccc-ddddeeeeffff"
RUN = "vdna-nightly-29384756-0f1e2d3c"


@pytest.fixture
def server() -> Iterator[Server]:
    """With the template as the API server would hand it out."""
    with Server() as server:
        template = json.loads(json.dumps(one(rendered("gpu"), "RayJob")))
        template["metadata"] |= {"uid": "t", "resourceVersion": "7", "finalizers": ["ray.io/rayjob-finalizer"]}
        template["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "", "team": "vision"}
        template["status"] = {"jobDeploymentStatus": "Suspended"}
        server.rayjobs["vdna-catalogue"] = template
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "namespace").write_text("vdna")
    (tmp_path / "token").write_text("first")
    return tmp_path


@pytest.fixture
def nightly(submit: Any, server: Server, account: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Does what the CronJob's pod does; its waits take no time, and replace the token."""

    def sleep(_: float) -> None:
        (account / "token").write_text("second")

    monkeypatch.setattr(submit.time, "sleep", sleep)

    def start() -> None:
        host, port = server.server_address[:2]
        rayjobs = submit.RayJobs(lambda: HTTPConnection(str(host), port, timeout=5), account)
        labels = {"kueue.x-k8s.io/queue-name": "vdna-queue"}
        submit.run(rayjobs, "vdna-catalogue", "vdna-nightly-29384756", UID, labels)

    return start


def test_the_copy_is_what_the_template_says(server: Server, nightly: Start) -> None:
    server.stages = [{}, {"jobDeploymentStatus": "Initializing"}, {"jobDeploymentStatus": "Running"}, DONE]
    nightly()
    template, run = server.rayjobs["vdna-catalogue"], server.rayjobs[RUN]
    assert run["metadata"] == {
        "name": RUN,
        "labels": {"app.kubernetes.io/part-of": "vdna-catalogue", "kueue.x-k8s.io/queue-name": "vdna-queue"},
        "annotations": {"team": "vision"},
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "vdna-nightly-29384756", "uid": UID},
        ],
    }
    assert run["spec"] == {**template["spec"], "suspend": False}
    assert template["spec"]["suspend"] is True
    assert {"apiVersion": run["apiVersion"], "kind": run["kind"]} == {"apiVersion": "ray.io/v1", "kind": "RayJob"}
    assert server.tokens[0] == "Bearer first"
    assert server.tokens[-1] == "Bearer second", "a token file is read again"
    assert len(RUN) <= 47, "KubeRay's limit"


def test_a_pod_that_takes_over_finds_the_run(
    server: Server, nightly: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server.stages = [DONE]
    nightly()
    before = json.dumps(server.rayjobs)
    nightly()
    assert json.dumps(server.rayjobs) == before
    assert capsys.readouterr().err.splitlines()[0::2] == [f"RayJob {RUN}: created", f"RayJob {RUN}: found"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            {
                "jobDeploymentStatus": "Failed",
                "reason": "AppFailed",
                "message": "exit code 2, logs:\nerror: a\nx\nerror: b",
            },
            f"{RUN}: Failed, AppFailed: error: a; error: b (kubectl logs job/{RUN} has more)",
        ),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "Complete, STOPPED: no message"),
        (
            {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "name too long"},
            "ValidationFailed: name too long",
        ),
    ],
)
def test_a_run_that_fails_fails_the_job(
    submit: Any, server: Server, nightly: Start, status: Manifest, message: str
) -> None:
    server.stages = [{"jobDeploymentStatus": "Retrying"}, {"jobDeploymentStatus": "Suspended"}, status]
    with pytest.raises(submit.Failed, match=re.escape(message)) as failed:
        nightly()
    assert failed.value.code == 1
    assert "\n" not in str(failed.value)


def test_passing_faults_are_waited_for(server: Server, nightly: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """The creation succeeds though its answer is lost; made again, it finds what there is."""
    server.stages = [{"jobDeploymentStatus": "Running"}, DONE]
    server.faults = [503, None, 0, None, 500, 429, 401]
    nightly()
    assert set(server.rayjobs) == {"vdna-catalogue", RUN}
    said = capsys.readouterr().err
    assert f"RayJob {RUN}: found" in said
    assert said.count("asking again") == 5


def test_an_api_server_that_stays_away_is_another_pod_s_turn(
    submit: Any, server: Server, nightly: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "PATIENCE_SECONDS", -1)
    server.faults = [500]
    with pytest.raises(submit.Failed, match="no answer from the API server: HTTP 500: answer 500") as failed:
        nightly()
    assert failed.value.code == 75


def test_what_is_not_allowed_is_said_in_one_line(submit: Any, server: Server, nightly: Start) -> None:
    server.faults = [403]
    with pytest.raises(submit.Failed, match=r"^cannot read RayJob vdna-catalogue: HTTP 403: answer 403$"):
        nightly()
    server.rayjobs.clear()
    with pytest.raises(submit.Failed, match=r'^cannot read RayJob vdna-catalogue: HTTP 404: rayjobs.ray.io "vdna-'):
        nightly()


def test_a_run_that_is_deleted_is_no_success(
    submit: Any, server: Server, nightly: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stages = [{"jobDeploymentStatus": "Running"}]
    monkeypatch.setattr(submit.time, "sleep", lambda _: server.rayjobs.pop(RUN))
    with pytest.raises(submit.Failed, match=f"cannot read RayJob {RUN}: HTTP 404"):
        nightly()


def test_the_program_by_tls_with_the_pod_s_environment(
    submit: Any, server: Server, account: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment is the manifest's; the certificate is checked against the service account's authority."""
    if not shutil.which("openssl"):
        pytest.skip("makes its certificate with openssl, which is not here")
    for name in ("ca", "other"):
        request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=api -addext subjectAltName=IP:127.0.0.1"
        command = ["openssl", *request.split(), "-keyout", f"{name}.key", "-out", f"{name}.crt"]
        subprocess.run(command, cwd=account, check=True, capture_output=True, timeout=60)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(account / "ca.crt", account / "ca.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.stages = [DONE]
    monkeypatch.setattr(submit, "ACCOUNT", account)
    host, port = server.server_address[:2]
    given = {"KUBERNETES_SERVICE_HOST": str(host), "KUBERNETES_SERVICE_PORT": str(port), "JOB_UID": UID}
    given |= {"JOB_NAME": "vdna-nightly-29384756"}
    from_manifest = container(pods(rendered("kueue"))["cronjob"])["env"]
    for entry in from_manifest:
        monkeypatch.setenv(entry["name"], entry.get("value") or given[entry["name"]])
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert submit.main() == 0
    assert server.rayjobs[RUN]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "vdna-queue"
    monkeypatch.setenv("TEMPLATE", "nowhere")
    assert submit.main() == 1
    (account / "other.crt").replace(account / "ca.crt")
    monkeypatch.setattr(submit, "PATIENCE_SECONDS", -1)
    assert submit.main() == 75
    assert "certificate verify failed" in capsys.readouterr().err
