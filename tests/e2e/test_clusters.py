"""Clusters that somebody else started: a job on one, and one that loses a node. Every node is on this machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.processes import is_alive, under, wait_until, wait_until_gone
from e2e.test_workers import WITHOUT_BATCH_STATISTICS

pytestmark = pytest.mark.e2e

WEIGHT = "distill.losses.logits.weight"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
Rows = Callable[[Path], dict[str, dict[str, str]]]
TrialJson = Callable[[Path, str], dict[str, Any]]


@dataclass(frozen=True)
class Client:
    """Who may use a cluster: its address, and the environment that holds its token."""

    address: str
    environment: dict[str, str]


def study(tiny: Tiny, **changes: Any) -> dict[str, Any]:
    return {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "choice", "values": [3.0, 30.0]}},
        "search": {"type": "grid", "seed": 1},
        **changes,
    }


def options(tiny: Tiny, iterations: int, val_interval: int) -> list[str]:
    return [
        "--data-root", str(tiny.data_root), "--size", "32", "--batch-size", "2", "--iters", str(iterations),
        "--val-interval", str(val_interval),
    ]  # fmt: skip


def environment(sandbox: Sandbox, name: str) -> dict[str, str]:
    """Of a cluster with temporary files and a token of its own."""
    folder = sandbox.root / name
    (folder / "ray").mkdir(parents=True)
    own = {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(TIMEOUT_S),  # Ray's own 60 s are too few where others are at work
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return {**sandbox.environment(), **own}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a cluster's process with the context, and with it all that it started."""
    try:
        yield
    finally:
        below = under(process.pid)
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
        for pid in filter(is_alive, below):
            os.kill(pid, signal.SIGKILL)
        wait_until_gone(below)


# ---------------------------------------------------------------------------------------------------------
# A job


@pytest.fixture
def head(sandbox: Sandbox) -> Iterator[tuple[Client, int]]:
    """`ray start --head`, as whoever runs a cluster does it; with its process id. The address is that of its jobs."""
    names = (
        "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
        "ray-client-server-port", "node-manager-port", "object-manager-port", "runtime-env-agent-port",
    )  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [*RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2", "--include-dashboard=true"]
    command += ["--node-ip-address=127.0.0.1", *(f"--{name}={port}" for name, port in ports.items())]
    variables = environment(sandbox, "h")
    with open(sandbox.root / "head.log", "w") as log:
        process = subprocess.Popen(command, env=variables, cwd=sandbox.cwd, stdout=log, stderr=log, text=True)
    with ended(process):
        wait_until(lambda: answers(ports["dashboard-port"]), process)
        yield Client(f"http://127.0.0.1:{ports['dashboard-port']}", variables), process.pid


@pytest.fixture
def project(sandbox: Sandbox, tiny: Tiny, repo: Path) -> Path:
    """A working directory such as this repository, with what is in the way there."""
    folder = sandbox.root / "project"
    shutil.copytree(repo / "rdistill", folder / "rdistill", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repo / ".gitignore", folder)
    for name in (".venv", "data", "work_dirs"):
        (folder / name).mkdir()
        (folder / name / "large").write_bytes(os.urandom(10**7))
    (folder / "sweeps").mkdir()
    shutil.copy(sandbox.sweep_file("small", study(tiny)), folder / "sweeps")
    return folder


@pytest.mark.slow
def test_a_job(sandbox: Sandbox, tiny: Tiny, head: tuple[Client, int], project: Path, rows: Rows) -> None:
    """Submitted as docs/cluster says: the job's sweep runs on the cluster it is in, and starts none of its own."""
    client, pid = head
    work_dir = sandbox.root / "job"
    sweep = ["python", "-m", "rdistill", "sweep", "sweeps/small.yaml", "--work-dir", work_dir, *options(tiny, 4, 2)]
    submitted = subprocess.Popen(
        [*RAY, "job", "submit", "--address", client.address, "--working-dir", ".", "--", *map(str, sweep)],
        env=client.environment, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with submitted as process:
        servers = set()
        try:
            wait_until(lambda: servers.update(under(pid, "gcs_server")) or process.poll() is not None)
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0 and "succeeded" in output, output
    assert f"{work_dir}/best.pth" in output
    assert len(servers) == 1
    table = rows(work_dir)
    assert set(table) == {"baseline", "t0001", "t0002"}
    assert {(row["status"], row["iterations"]) for row in table.values()} == {("finished", "4")}
    assert {(work_dir / name).is_file() for name in ("best.pth", "best.py")} == {True}

    (sent,) = (sandbox.root / "h" / "ray" / "session_latest").glob("runtime_resources/working_dir_files/_ray_pkg_*/")
    assert {file.name for file in sent.iterdir()} - {".gitignore"} == {"rdistill", "sweeps"}
    assert (sent / "rdistill" / "data" / "synthetic.py").is_file()  # though `data/` stays behind
    assert sum(file.stat().st_size for file in sent.rglob("*.*")) < 3 * 10**6


# ---------------------------------------------------------------------------------------------------------
# A node that is lost

# Prints its nodes, of a number that its first argument gives; loses each node whose number it reads, with all that runs
# on it; ends with its input.
NODES = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster()
# The head has a dashboard where a trial has several workers: Ray frees by it what a lost node's trial had reserved.
count, dashboard = map(int, sys.argv[1:])
nodes = [cluster.add_node(num_cpus=1, include_dashboard=bool(dashboard) and number == 0) for number in range(count)]
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps([cluster.address, raylets]), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
cluster.shutdown()
"""


@dataclass(frozen=True)
class Nodes:
    """A cluster of nodes with one CPU each, the first of them the head."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen[str]
    raylets: list[int]

    def lose_one_that_trains(self) -> None:
        """With -9, and not the head."""
        lost = next(number for number in range(len(self.raylets) - 1, 0, -1) if self.trains(number))
        on_it = under(self.raylets[lost])
        assert self.process.stdin is not None
        self.process.stdin.write(f"{lost}\n")
        self.process.stdin.flush()
        for pid in on_it:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    def trains(self, number: int) -> bool:
        return bool(under(self.raylets[number], "TrainWorker"))


@contextmanager
def nodes(sandbox: Sandbox, name: str, count: int, *, dashboard: bool = False) -> Iterator[Nodes]:
    variables = environment(sandbox, name)
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, cwd=sandbox.cwd)
    cluster = subprocess.Popen([sys.executable, "-c", NODES, str(count), str(int(dashboard))], **pipes)
    with ended(cluster):
        address, raylets = json.loads(cluster.stdout.readline())
        yield Nodes(address, variables, cluster, raylets)


@contextmanager
def command(there: Nodes, sandbox: Sandbox, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """``rdistill ARGUMENTS`` on a cluster; ends with the context."""
    words = [sys.executable, "-m", "rdistill", *map(str, arguments), "--address", there.address]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=there.environment, cwd=sandbox.cwd)
    with subprocess.Popen(words, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.slow
def test_fewer_workers_where_a_node_is_gone(sandbox: Sandbox, tiny: Tiny) -> None:
    """Elastic: one worker goes on with the whole batch, and ends with what two would have come to."""
    elastic, fixed = sandbox.root / "elastic", sandbox.root / "not-elastic"
    run = [tiny.folder / "distill.py", *options(tiny, 60, 5), "--batch-size", "4", *WITHOUT_BATCH_STATISTICS]
    two = ["--workers", 2, "--min-workers", 1, "--cpus-per-worker", 1]
    with (
        nodes(sandbox, "e", 2) as there,
        command(there, sandbox, "train", *run, "--work-dir", elastic, *two) as process,
    ):
        wait_until((elastic / "last.pth").is_file, process)
        there.lose_one_that_trains()
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0 and "starting again from the last checkpoint (1 of 3)" in out, (out, err)
    sandbox.run("train", *run, "--work-dir", fixed)
    actual, expected = (torch.load(folder / "last.pth", weights_only=True) for folder in (elastic, fixed))
    assert actual["meta"]["iter"] == expected["meta"]["iter"] == 60
    pairs = [(value.double(), expected["state_dict"][key].double()) for key, value in actual["state_dict"].items()]
    assert max((mine - yours).abs().max().item() for mine, yours in pairs) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("size", ["auto", "off"])
def test_the_loss_of_a_node(sandbox: Sandbox, tiny: Tiny, rows: Rows, trial_json: TrialJson, size: str) -> None:
    """One that trains, with -9, of three: two-worker trials, in a cohort or by themselves, go on with the other two."""
    work_dir = sandbox.root / f"nodes-{size}"
    file = sandbox.sweep_file(f"nodes-{size}", study(tiny, trial={"workers": 2}, cohort={"size": size}))
    sweep = ["sweep", file, "--work-dir", work_dir, *options(tiny, 60, 10), "--batch-size", "4"]
    with nodes(sandbox, f"n-{size}", 3, dashboard=True) as there, command(there, sandbox, *sweep) as process:
        wait_until(lambda: list(work_dir.glob("trials/*/last.pth")), process)
        there.lose_one_that_trains()
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, (out, err)
    assert "has no dashboard" not in out
    table = rows(work_dir)
    assert set(table) == {"baseline", "t0001", "t0002"}
    for name, row in table.items():
        assert (row["status"], row["iterations"]) == ("finished", "60"), (row, out)
        history = trial_json(work_dir, name)["history"]
        assert [entry["iter"] for entry in history] == list(range(10, 61, 10)), name


def test_a_cluster_without_a_dashboard_is_noted(sandbox: Sandbox, tiny: Tiny) -> None:
    """Where trials have several workers, before anything waits for what Ray cannot free."""
    file = sandbox.sweep_file("two-workers", study(tiny, trial={"workers": 2}))
    sweep = ["sweep", file, "--work-dir", sandbox.root / "two-workers", *options(tiny, 4, 2)]
    with nodes(sandbox, "w", 1) as there, command(there, sandbox, *sweep) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2 and "one trial takes 2 CPU (the cluster has 1)" in err, (out, err)
    (line,) = out.splitlines()
    assert line.startswith(f"note      the cluster at {there.address} has no dashboard. By it, Ray frees the workers ")
