"""A sweep as a job of a Ray cluster: submitted, followed to its end, its table read.

Run it: python examples/cluster_job.py DASHBOARD SWEEP WORK_DIR [OPTIONS OF rdistill sweep ...]

such as: python examples/cluster_job.py http://127.0.0.1:8265 sweeps/coef.yaml /shared/coef --data-root /shared/eyes

DASHBOARD is the address that `ray start --head` prints; a cluster with a token wants RAY_AUTH_MODE=token and
RAY_AUTH_TOKEN here too. This folder is sent along, without what .gitignore names: so data and teacher lie on a disk
that all nodes share, and WORK_DIR there or at a URI such as s3://bucket/coef. docs/cluster/README.md has the rest.
"""

from __future__ import annotations

import asyncio
import shlex
import sys

from ray.job_submission import JobStatus, JobSubmissionClient

import rdistill


async def follow(client: JobSubmissionClient, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="")


if len(sys.argv) < 4:
    sys.exit(__doc__)
address, sweep, work_dir, *options = sys.argv[1:]
try:
    client = JobSubmissionClient(address)
except ConnectionError:
    sys.exit(f"{address}: no Ray dashboard answers; start one by `ray start --head`, or give another address")
words = ["python", "-m", "rdistill", "sweep", sweep, "--work-dir", work_dir, *options]
job = client.submit_job(entrypoint=shlex.join(words), runtime_env={"working_dir": "."})
asyncio.run(follow(client, job))
if client.get_job_status(job) != JobStatus.SUCCEEDED:
    sys.exit(f"job {job}: {client.get_job_info(job).message}")
print(rdistill.load_results(work_dir)[["id", "status", "mIoU", "gain"]].to_string(index=False))
