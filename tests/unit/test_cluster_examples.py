"""The examples under docs/cluster fit what reads them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

FIELDS = {  # fields of the RayJob that KubeRay documents (ray.io/v1), as far as the example uses them
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        "entrypoint", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
        "rayClusterSpec", "submissionMode", "activeDeadlineSeconds", "suspend",
    },
    "spec.rayClusterSpec": {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams", "template", "serviceType"},
}  # fmt: skip
WORKER = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


@pytest.fixture
def examples(repo: Path) -> Path:
    return repo / "docs" / "cluster"


def test_autoscaler(examples: Path) -> None:
    schema = json.loads(Path(ray.__file__).parent.joinpath("autoscaler", "ray-schema.json").read_text())
    config = yaml.safe_load((examples / "autoscaler.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]


def test_ray_job(examples: Path) -> None:
    job = yaml.safe_load((examples / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    for where, expected in FIELDS.items():
        part: dict[str, Any] = job
        for key in filter(None, where.split(".")):
            part = part[key]
        assert set(part) <= expected, where
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert set(container["resources"]) == {"requests", "limits"}
    assert isinstance(yaml.safe_load(job["spec"]["runtimeEnvYAML"]), dict)


def test_slurm_script(examples: Path) -> None:
    done = subprocess.run(["bash", "-n", examples / "slurm.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
