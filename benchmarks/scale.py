"""What each trial of a sweep costs the driver and the storage: sweeps of many trials without training.

python -m benchmarks.scale [--trials 10 100 1000] [--places machine cluster] [--search random] [--profile]

Everything in a sweep except the training: Ray Tune, the searcher, records, the console, `summary.json`, `results.csv`,
the winner. A trial writes what a real trial does, with 200 loss entries and 5 validations, which it reports
immediately, but no weights and no log of mmengine. `machine` is the cluster that rdistill starts on one machine;
`cluster` is four nodes of two logical CPUs, all on this machine. Each sweep runs in its own process. A thousand trials
take about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
from mmengine.config import Config
from rich.console import Console

from benchmarks.turns import REPO, distill_config, print_machine
from rdistill._compat.mmengine import config_dict
from rdistill.config.load import LoadedConfig, Shortcuts, load_config
from rdistill.config.render import config_source
from rdistill.core.files import write_json
from rdistill.core.storage import open_work_dir
from rdistill.distributed.cluster import connected, require_resources
from rdistill.schemas.run import RunMetrics, Scores
from rdistill.sweeps.findings.conclude import conclude
from rdistill.sweeps.findings.summary import FINISHED, SweepFacts
from rdistill.sweeps.monitor.console import SweepConsole
from rdistill.sweeps.run import run_phases
from rdistill.sweeps.search.tune import Team
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.sweeps.trial.trial import LOSSES_KEPT, Study
from rdistill.training.hooks import RunListener
from rdistill.training.ray_train import Resources
from rdistill.training.run import RunOptions

NODES, CPUS = 4, 2  # nodes of the simulated cluster, and CPUs of each
VALIDATIONS, ITERATIONS = 5, 1000
PLACES = ("machine", "cluster")
SPACE = {
    "distill.task_weight": {"type": "uniform", "low": 0.25, "high": 1.0},
    "distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 100.0},
    "distill.losses.logits.tau": {"type": "uniform", "low": 1.0, "high": 8.0},
}


def no_training(
    run: LoadedConfig, folder: Path, options: RunOptions, listener: RunListener, *, config_text: str
) -> RunMetrics:
    """Replaces ``rdistill.training.run.train_run``: immediately reports what a training would report."""
    listener.training_started(first_iteration=0, last_iteration=ITERATIONS, facts={"effective": dict(options.swept)})
    metrics: RunMetrics = {}
    for step in range(1, LOSSES_KEPT + 1):
        iteration = step * ITERATIONS // LOSSES_KEPT
        loss = 1 / (3 + iteration + sum(options.swept.values()))  # no two trials report the same
        names = ("loss", "decode.loss_ce", "decode.acc_seg", "distill.loss_logits", "distill.raw_logits", "lr")
        listener.stepped(iteration, {name: loss * (1 + index) for index, name in enumerate(names)})
        if step % (LOSSES_KEPT // VALIDATIONS) == 0:
            score = round(90 - 100 * loss, 4)
            metrics = {"aAcc": score, "mIoU": score, "mAcc": score, "IoU": {"background": 99.0, "disc": score}}
            listener.validated(iteration, metrics)
    for name in ("trial.py", "config.py", "student.py"):
        (folder / name).write_text(config_text)
    (folder / "student.pth").touch()
    return metrics


def sweep(trials: int, search: str, folder: Path) -> None:
    """A sweep without training, into an empty folder."""
    content = {
        "config": str(distill_config("slim")),
        "space": SPACE,
        "search": {"type": search, "num_trials": trials, "seed": 0},
        "cohort": {"size": "off"},
    }
    spec = parse_sweep(content, "scale")
    shortcuts = Shortcuts(iters=ITERATIONS, val_interval=ITERATIONS // VALIDATIONS)
    whole = load_config(distill_config("slim"), {}, shortcuts, with_data=False)
    losses = {"logits": {"type": "KL", "on": "logits", "weight": 3.0, "tau": 1.0}}
    distill = {"teachers": [{"config": "teacher.py", "checkpoint": "teacher.pth"}], "losses": losses}
    base = LoadedConfig.of(Config({**config_dict(whole).to_dict(), "distill": {**distill, "task_weight": 1.0}}))
    train = partial(no_training, config_text=config_source(whole))
    resources, teacher = Resources(1, 1.0, 0.0), [Scores(mIoU=90.0)]
    processes = require_resources(resources.per_worker(), "a trial")
    with open_work_dir(folder) as here, open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere)
        study = Study(base, spec, str(here.where), teacher, False)
        team = Team(here, study, resources, processes, console.print, train)
        shown = SweepConsole(console, folder, ITERATIONS)
        facts = SweepFacts(spec, trials, 1, ITERATIONS, teacher, processes)
        folder.mkdir(parents=True)
        write_json(folder / "study.json", {"sweep": spec.model_dump(), "config": config_dict(whole).to_dict()})
        status, summary = run_phases(team, facts, shown, [], False)
        assert status == FINISHED, status
        order = conclude(here, summary, console)
    assert [record.status for record in order] == ["finished"] * (trials + 1)


@contextmanager
def simulated_cluster() -> Iterator[None]:
    """Several nodes on this machine, joined."""
    from ray.cluster_utils import Cluster

    Path(os.environ["RAY_TMPDIR"], "ray").mkdir(parents=True, exist_ok=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=CPUS)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure(trials: int, where: str, search: str, folder: Path, profile: str | None) -> dict[str, Any]:
    """Seconds of one sweep's driver, and bytes a trial by what they are in."""
    os.environ.update(RAY_TMPDIR=str(folder), RAY_AIR_NEW_OUTPUT="0", RAY_USAGE_STATS_ENABLED="0")
    # Ray's is 15: its processes would hardly ever run beside other work.
    os.environ.update(RAY_worker_niceness="0")
    profiler = cProfile.Profile()
    with simulated_cluster() if where == "cluster" else connected(None, folder):
        wall, cpu = time.perf_counter(), time.process_time()
        with profiler if profile else nullcontext():
            sweep(trials, search, folder / "s")
        figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    if profile:
        profiler.dump_stats(profile)
    sizes: Counter[str] = Counter()
    for file in (folder / "s").rglob("*"):
        if file.is_file():
            sizes[file.relative_to(folder / "s").parts[0]] += file.stat().st_size
    return {**figures, "bytes": {name: size / (trials + 1) for name, size in sizes.most_common()}}


def in_a_process(*options: str) -> dict[str, Any]:
    """What :func:`measure` returns, run in its own process."""
    with tempfile.TemporaryDirectory(prefix="rd", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "benchmarks.scale", *options, "--folder", folder]
        paths = f"{REPO}:{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            command, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Runs the sweeps, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--search", choices=("random", "optuna"), default="random")
    parser.add_argument(
        "--profile", metavar="FILE", help="write cProfile's statistics of the last sweep; this slows it down"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set in the process that runs a single sweep
    args = parser.parse_args()
    if args.folder is not None:
        figures = measure(args.trials[0], args.places[0], args.search, args.folder, args.profile)
        print(json.dumps(figures))
        return
    print_machine()
    rows = ["place", "search", "trials", "driver CPU, s", "wall, s", "driver CPU a trial, ms", "wall a trial, s"]
    rows += ["KB a trial", "CPU a trial, divided by that of the row above"]
    print(f"| {' | '.join(rows)} |\n|{'---|' * len(rows)}", flush=True)
    for where in args.places:
        above = None
        for trials in args.trials:
            options = ["--trials", str(trials), "--places", where, "--search", args.search]
            options += ["--profile", args.profile] if args.profile else []
            figures = in_a_process(*options)
            each = figures["cpu"] / trials
            cells = [where, args.search, str(trials), f"{figures['cpu']:.1f}", f"{figures['wall']:.0f}"]
            cells += [
                f"{each * 1000:.0f}",
                f"{figures['wall'] / trials:.2f}",
                f"{sum(figures['bytes'].values()) / 1e3:.1f}",
            ]
            cells += ["" if above is None else f"{each / above:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            above = each
    kinds = ", ".join(f"{name} {size / 1e3:.1f}" for name, size in figures["bytes"].items())
    print(f"\nKB a trial of the last one: {kinds}")


if __name__ == "__main__":
    main()
