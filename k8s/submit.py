"""Start the nightly run, a copy of the suspended RayJob template, and wait until it ends.

    python submit.py        # in the CronJob's pod

The run is named after the Job that the pod belongs to, so a pod that takes over finds the run of its
predecessor instead of making a second one. The Job owns it: the two go together. Exit codes: 0 the run
succeeded; 1 it failed, or nothing can be started; 75 the API server gave no answer for too long.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PASSING = {401, 408, 429, 500, 502, 503, 504}
"""Answers after which is asked again; 401 because keys and tokens are replaced now and then."""
PATIENCE_SECONDS = 1800.0
POLL_SECONDS = 15.0


class Failed(Exception):
    """Why there is no successful run, in one line."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


class RayJobs:
    """The RayJobs of a namespace. When the API server fails it is asked again, ever more slowly."""

    def __init__(self, connect: Callable[[], HTTPConnection], account: Path) -> None:
        self._connect, self._token = connect, account / "token"
        self._path = f"/apis/ray.io/v1/namespaces/{(account / 'namespace').read_text().strip()}/rayjobs"

    def get(self, name: str) -> dict[str, Any]:
        code, answer = self._ask("GET", f"{self._path}/{name}")
        if code != 200:
            raise Failed(f"cannot read RayJob {name}: HTTP {code}: {_message(answer)}")
        return dict(json.loads(answer))

    def create(self, body: Mapping[str, Any]) -> bool:
        """False if there is one of that name already."""
        code, answer = self._ask("POST", self._path, json.dumps(body).encode())
        if code not in (201, 409):
            raise Failed(f"cannot create RayJob {body['metadata']['name']}: HTTP {code}: {_message(answer)}")
        return code == 201

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        started, pause = time.monotonic(), 1.0
        while True:
            # The token is read each time: Kubernetes replaces the file before the one in it expires.
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", "Content-Type": "application/json"}
            try:
                with closing(self._connect()) as connection:
                    connection.request(method, path, body, headers)
                    response = connection.getresponse()
                    answer = response.read()
                if response.status not in PASSING:
                    return response.status, answer
                fault = f"HTTP {response.status}: {_message(answer)}"
            except (OSError, HTTPException) as error:
                fault = f"{type(error).__name__}: {error}"
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise Failed(f"no answer from the API server: {fault}", os.EX_TEMPFAIL)
            say(f"asking again in {pause:g} s: {fault}")
            time.sleep(pause)
            pause = min(2 * pause, 60.0)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):  # not from the API server itself
        return answer[:200].decode(errors="replace").strip()


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def copy(template: Mapping[str, Any], name: str, owner: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    """A RayJob to start, from what an operator wrote in the template; nothing of what the server added."""
    old = template["metadata"]
    metadata = {
        "name": name,
        "labels": {**old.get("labels", {}), **labels},
        "annotations": {k: v for k, v in old.get("annotations", {}).items() if not k.startswith("kubectl.")},
        "ownerReferences": [owner],
    }
    kind = {key: template[key] for key in ("apiVersion", "kind")}
    return {**kind, "metadata": metadata, "spec": {**template["spec"], "suspend": False}}


def run(rayjobs: RayJobs, template: str, job: str, uid: str, labels: Mapping[str, str]) -> None:
    """Start the Job's run, or find it, and wait for its success; `Failed` says why there is none."""
    # Not the Job's own name: KubeRay calls its Job that submits to Ray like the RayJob, and would take ours for it.
    name = f"{job}-{uid[:8]}"
    # Not marked as the controller: Kueue would look for its queue's label at the Job.
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
    created = rayjobs.create(copy(rayjobs.get(template), name, owner, labels))
    seen = "created" if created else "found"
    say(f"RayJob {name}: {seen}")
    while True:
        status = rayjobs.get(name).get("status", {})
        stage = status.get("jobDeploymentStatus") or seen
        if stage != seen:
            say(f"RayJob {name}: {stage}")
            seen = stage
        if stage == "Complete" and status.get("jobStatus") == "SUCCEEDED":
            return
        if stage in ("Complete", "Failed", "ValidationFailed"):
            reason = status.get("reason") or status.get("jobStatus")
            # Ray's message ends with the driver's last lines; those of `pipeline.run` that matter begin so.
            lines = (status.get("message") or "no message").splitlines()
            told = "; ".join(line for line in lines if line.startswith("error: ")) or lines[0]
            raise Failed(f"{name}: {stage}, {reason}: {told} (kubectl logs job/{name} has more)")
        time.sleep(POLL_SECONDS)


def main() -> int:
    env, tls = os.environ, ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    host, port = env["KUBERNETES_SERVICE_HOST"], int(env["KUBERNETES_SERVICE_PORT"])
    rayjobs = RayJobs(lambda: HTTPSConnection(host, port, timeout=30, context=tls), ACCOUNT)
    labels = dict(pair.split("=", 1) for pair in env["RUN_LABELS"].split(",") if pair)
    try:
        run(rayjobs, env["TEMPLATE"], env["JOB_NAME"], env["JOB_UID"], labels)
    except Failed as failed:
        say(f"error: {failed}")
        return failed.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
