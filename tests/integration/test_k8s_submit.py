"""k8s/submit.py against an API server on this machine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.manifests import K8S, Manifest, container, one, pods, rendered

Start = Callable[[], None]


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
        rayjob = self.server.rayjobs.get(name)
        if rayjob is None:
            self.reply(404, {"message": f'rayjobs.ray.io "{name}" not found'})
            return
        if "ownerReferences" in rayjob["metadata"] and stages:
            rayjob["status"] = stages.pop(0) if len(stages) > 1 else stages[0]
        self.reply(200, rayjob)

    def do_POST(self) -> None:
        assert self.path == self.folder
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rayjob = self.server.rayjobs.setdefault(body["metadata"]["name"], body)
        self.reply(201 if rayjob is body else 409, body)


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
    errors = capsys.readouterr().err
    assert f"RayJob {RUN}: found" in errors
    assert errors.count("asking again") == 5


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
