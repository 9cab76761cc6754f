"""Ray's own books, asked of a cluster that runs: rdistill reads them through rdistill/_compat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

ASKS = """
import json, sys, time
import ray
from rdistill._compat.ray import ask_cluster, autoscaler_limits, bootstrap_address, demands, jobs_and_actors
from rdistill.distributed.cluster import connected, holders

@ray.remote(num_cpus=1)
class Holder:
    def ready(self):
        return True

with connected(None, sys.argv[1]):
    address = ray.get_runtime_context().gcs_address
    ask_cluster(bootstrap_address(address), 20)
    held = [Holder.options(num_cpus=ray.cluster_resources()["CPU"]).remote()]
    ray.get(held[0].ready.remote())
    held.append(Holder.remote())
    for _ in range(60):
        if {"CPU": 1.0} in (waiting := demands()):
            break
        time.sleep(0.5)
    jobs, actors = jobs_and_actors()
    print(json.dumps({"limits": dict(autoscaler_limits()), "waiting": waiting, "holders": holders(),
                      "states": sorted(actor["State"] for actor in actors), "jobs": len(jobs)}))
"""


@pytest.mark.e2e
def test_what_the_cluster_says_of_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKS, str(tmp_path / "c")], cwd=REPO, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["limits"] == {} and said["waiting"] == [{"CPU": 1.0}] and said["jobs"] == 1
    assert said["states"] == ["ALIVE", "PENDING_CREATION"]
    (line,) = said["holders"]
    assert line.startswith("1 Holder of `")
