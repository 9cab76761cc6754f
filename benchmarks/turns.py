"""What the benchmarks share: pairs of models, runs that are timed in alternation, and tables."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from greenlet import greenlet
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.data.synthetic import generate
from rdistill.models.segmentor import build_segmentor
from rdistill.training.run import train

REPO = Path(__file__).parents[1]
# Name -> the config of the distilled student, and that of its teacher.
PAIRS = {
    "slim": ("deeplabv3plus_r50-r18-slim_optic-disc-128", "deeplabv3plus_r50-slim_optic-disc-128"),
    "r50-r18": ("deeplabv3plus_r50-r18_optic-disc", "deeplabv3plus_r50-d8_optic-disc"),
    "r101-r18": ("deeplabv3plus_r101-r18_optic-disc", "deeplabv3plus_r101-d8_optic-disc"),
    "r50-fast-scnn": ("deeplabv3plus_r50-fast-scnn_optic-disc-128", "deeplabv3plus_r50-d8_optic-disc"),
}
ENDLESS = 10**6  # iterations, more than any benchmark trains
# Processor seconds (of all threads and child processes) depend less on what else the machine does.
CLOCKS = {"wall": time.perf_counter, "cpu": lambda: sum(os.times()[:4])}


@contextmanager
def workbench() -> Iterator[Path]:
    """A folder with images of 128 pixels in ``data``; it is deleted when the benchmark ends."""
    warnings.filterwarnings("ignore")  # those of mmseg and mmengine
    # A short path, because Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="rd", dir="/tmp", ignore_cleanup_errors=True) as name:
        generate(Path(name, "data"), num_train=32, num_val=4, size=128)
        yield Path(name)


def untrained_teacher(pair: str, folder: Path) -> Path:
    """A checkpoint of the pair's teacher with random weights: they do not change the time that it takes."""
    file = folder / f"{pair}.pth"
    torch.manual_seed(0)
    teacher = REPO / "configs" / "teacher" / f"{PAIRS[pair][1]}.py"
    torch.save({"state_dict": build_segmentor(read_config_file(teacher).model).state_dict()}, file)
    return file


def distill_config(pair: str) -> Path:
    return REPO / "configs" / "distill" / f"{PAIRS[pair][0]}.py"


def endless_run(pair: str, folder: Path, data_root: Path | None = None) -> Config:
    """The pair's config at 128 pixels and 4 images a step, which never validates, without the teacher's cache.

    With a cache, all of the few images here would be known after a few steps, and no teacher would be left to share.
    """
    shortcuts = Shortcuts(
        data_root=str(data_root or folder / "data"), size="128", iters=ENDLESS, batch_size=4, val_interval=ENDLESS,
        teacher_checkpoint=str(untrained_teacher(pair, folder)),
    )  # fmt: skip
    return load_config(distill_config(pair), {"distill.cache": "off"}, shortcuts)


@HOOKS.register_module()
class Gate(Hook):
    """Pauses a run at the end of each iteration, until :meth:`SteppedRun.step` is called."""

    priority = "LOWEST"

    def __init__(self, name: str) -> None:
        self.run = RUNS[name]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.run.losses.append(outputs["loss"])
        self.run.pause()


class SteppedRun:
    """A whole `rdistill.training.run.train` with all its hooks, which is trained step by step.

    It runs in this thread, like what it is compared with, because a second thread that computes would slow down both.

    Attributes:
        losses: the total loss of each iteration.
    """

    def __init__(self, cfg: Config, work_dir: Path) -> None:
        self.losses: list[torch.Tensor] = []
        cfg = Config({**config_dict(cfg).to_dict(), "custom_hooks": [dict(type="Gate", name=str(work_dir))]})
        RUNS[str(work_dir)] = self

        def run() -> None:
            train(cfg, work_dir, teacher_metrics=[{}], check=False)

        self._greenlet = greenlet(run)
        self._greenlet.switch()  # the set-up and the first iteration

    def step(self, iterations: int = 1) -> None:
        """Trains this many more iterations."""
        for _ in range(iterations):
            self._greenlet.switch()

    def pause(self) -> None:
        """Returns to the caller of :meth:`step`; the hook calls this at the end of an iteration."""
        self._greenlet.parent.switch()


RUNS: dict[str, SteppedRun] = {}


def timed(work: Callable[[], Any], clock: str = "wall") -> float:
    """The seconds that ``work`` takes, by one of :data:`CLOCKS`."""
    since = CLOCKS[clock]()
    work()
    return CLOCKS[clock]() - since


def in_turn(first_way: Callable[[], float], second_way: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Measures both ``pairs`` times in alternation, so that other work of the machine slows down both alike."""
    timings = []
    for number in range(pairs):
        if number % 2:
            second = second_way()
            timings.append((first_way(), second))
        else:
            first = first_way()
            timings.append((first, second_way()))
    return timings


def parser_of(description: str | None, pair: str, pairs: int = 5) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default=pair, help="teacher and student")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="wall: seconds; cpu: processor seconds, for a busy machine"
    )
    parser.add_argument("--pairs", type=int, default=pairs, help="how often both are measured")
    return parser


def print_machine() -> None:
    """Prints the command and the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
    command = " ".join([f"{threads}python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    print(f"`{command}` on {os.cpu_count()} cores of {cpu},")
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )


def print_table(what: str, columns: tuple[str, str], timings: list[tuple[float, float]], **facts: Any) -> None:
    """Prints the command, the machine and a row of medians: Markdown for RESULTS.md."""
    print_machine()
    names = ["benchmark", *facts, *(f"{column}, s" for column in columns), "ratio, median", "min", "max", "pairs"]
    ratios = sorted(left / right for left, right in timings)
    seconds = [f"{statistics.median(column):.3f}" for column in zip(*timings, strict=True)]
    shown = [f"{ratio:.2f}" for ratio in (statistics.median(ratios), ratios[0], ratios[-1])]
    cells = [what, *map(str, facts.values()), *seconds, *shown, str(len(timings))]
    for row in (names, ["---"] * len(names), cells):
        print(f"| {' | '.join(row)} |", flush=True)
