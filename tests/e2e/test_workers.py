"""Several training workers: the same student as one worker, from the same global batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from wandb_files import offline_runs

from e2e.conftest import TIMEOUT_S, Sandbox

pytestmark = pytest.mark.e2e

WEIGHT, RATE = "distill.losses.logits.weight", "optim_wrapper.optimizer.lr"
ITERATIONS = 20
ABSURD = 1e30  # a learning rate: the second iteration's loss is NaN
# Two workers with half a batch each compute what one computes with all of it only where nothing looks across the
# batch, as BatchNorm does, and mmseg's mean over weighted classes, and where no worker draws random numbers.
GROUP_NORM = "{'type': 'GN', 'num_groups': 2}"
WITHOUT_BATCH_STATISTICS = [
    "--set", f"model.backbone.norm_cfg={GROUP_NORM}", "--set", f"model.decode_head.norm_cfg={GROUP_NORM}",
    "--set", "model.decode_head.dropout_ratio=0", "--set", "model.decode_head.loss_decode.class_weight=None",
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 4, "--val-interval", 3]


@pytest.fixture(scope="module")
def runs(sandbox: Sandbox, tiny: Tiny, small: list[object]) -> list[Path]:
    """The same distilled run with one worker and with two."""
    folders = [sandbox.root / "one", sandbox.root / "two"]
    for workers, folder in enumerate(folders, start=1):
        sandbox.run(
            "train", tiny.folder / "distill.py", "--work-dir", folder, "--workers", workers, "--seed", 4, *small,
            "--iters", ITERATIONS, "--val-interval", 10, *WITHOUT_BATCH_STATISTICS,
            "--set", "default_hooks.logger.interval=1", "--track", "wandb",
        )  # fmt: skip
    return folders


@pytest.fixture
def another_ray(sandbox: Sandbox) -> Iterator[None]:
    """A second Ray on the machine, as another user's: Ray's own search for "the" Ray then finds several."""
    (folder := sandbox.root / "r").mkdir()
    code = (
        "import ray, sys; ray.init(address='local', num_cpus=1, include_dashboard=False); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**sandbox.environment(), "RAY_TMPDIR": str(folder)}, cwd=sandbox.cwd,
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield
        process.stdin.close()
        process.wait(timeout=TIMEOUT_S)


def test_same_files_and_metrics(runs: list[Path]) -> None:
    left, right = (
        {file.name for file in folder.iterdir() if file.suffix in (".pth", ".py", ".json")} for folder in runs
    )
    assert (
        left
        == right
        == {
            "best.pth",
            "last.pth",
            "student.pth",
            "student.py",
            "config.py",
            "metrics.json",
            "teacher.json",
            "tracking.json",
        }
    )
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in runs]
    assert metrics[0].keys() == metrics[1].keys()
    assert [left["seed"] for left in metrics] == [4, 4] and [left["iter"] for left in metrics] == [ITERATIONS] * 2
    assert metrics[0]["teacher_mIoU"] == metrics[1]["teacher_mIoU"]
    assert abs(metrics[0]["last"]["mIoU"] - metrics[1]["last"]["mIoU"]) < 0.5  # a pixel on the boundary may tip over


def test_two_workers_make_one_run_of_wandb(runs: list[Path]) -> None:
    (left,), (right,) = (offline_runs(folder) for folder in runs)
    assert [iteration for iteration, _ in right.series("mIoU")] == [10, ITERATIONS]
    assert [(iteration, pytest.approx(score, abs=0.5)) for iteration, score in left.series("mIoU")] == right.series(
        "mIoU"
    )


def test_same_student(runs: list[Path]) -> None:
    """Weights and the losses' adapters, after all steps of averaged gradients."""
    left, right = (torch.load(folder / "last.pth", weights_only=True)["state_dict"] for folder in runs)
    assert left.keys() == right.keys() and any(key.startswith("terms.") for key in left)
    apart = max((value.double() - right[key].double()).abs().max().item() for key, value in left.items())
    assert apart < 1e-5


def logged(folder: Path) -> list[dict[str, float]]:
    """The losses of each iteration, as mmengine logs them."""
    (file,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_same_losses(runs: list[Path]) -> None:
    """Those of every iteration, the distillation's too: two workers log the mean of their halves."""
    left, right = (logged(folder) for folder in runs)
    assert len(left) == len(right) == ITERATIONS
    for actual, expected in zip(left, right, strict=True):
        losses = {name: value for name, value in actual.items() if "loss" in name}
        assert {"distill.loss_logits", "distill.loss_hidden", "decode.loss_ce"} <= losses.keys()
        assert losses == pytest.approx({name: v for name, v in expected.items() if "loss" in name}, rel=1e-5, abs=1e-5)
        assert actual["lr"] == expected["lr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", 3], "train_dataloader.batch_size: 3 images do not divide among 2 workers; set --batch-size"),
        (
            ["--set", "distill.features.student.1=backbone.layre4"],
            "distill.features.student[1]: feature 'backbone.layre4': EncoderDecoder has no layer 'backbone.layre4'; "
            "did you mean 'backbone.layer4'?",
        ),
        (["--cpus-per-worker", 999], "a run of 2 workers takes 1998 CPU (the cluster has"),
    ],
    ids=["batch does not divide", "wrong layer", "too many CPUs"],
)
def test_a_mistake_is_one_line(
    sandbox: Sandbox, tiny: Tiny, small: list[object], tmp_path: Path, arguments: list[object], message: str
) -> None:
    done = sandbox.run(
        "train",
        tiny.folder / "distill.py",
        "--work-dir",
        tmp_path / "run",
        "--workers",
        2,
        *small,
        *arguments,
        status=2,
    )
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.slow
def test_a_sweep_of_two_worker_trials(
    sandbox: Sandbox, tiny: Tiny, small: list[object], rows: Callable[[Path], dict[str, dict[str, str]]]
) -> None:
    """In a cohort of two workers: one student diverges and leaves both, the others are what they are alone."""
    content: dict[str, Any] = {
        "config": str(tiny.folder / "distill.py"),
        "set": {WEIGHT: 7.5},
        "space": {RATE: {"type": "choice", "values": [0.03, ABSURD]}},
        "search": {"type": "grid"},
        "trial": {"workers": 2},
    }
    work_dir = sandbox.root / "w"
    done = sandbox.run("sweep", sandbox.sweep_file("workers", content), "--work-dir", work_dir, *small, "--iters", 6)
    assert "1 cohort of up to 3 students that share a teacher" in done.stdout
    table = rows(work_dir)
    assert set(table) == {"baseline", "t0001", "t0002"}
    (failed,) = (name for name, row in table.items() if row["status"] == "failed")
    assert table[failed][RATE] == str(ABSURD) and "is not finite" in table[failed]["note"]
    for name in table.keys() - {failed}:
        trial = work_dir / "trials" / name
        assert (table[name]["status"], table[name]["iterations"]) == ("finished", "6")
        assert (trial / "student.pth").is_file()
        history = json.loads((trial / "trial.json").read_text())["history"]
        assert [entry["iter"] for entry in history] == [3, 6]
    assert (work_dir / "best.pth").is_file() and (work_dir / "best.py").is_file()
    (distilled,) = table.keys() - {failed, "baseline"}
    trial, alone = work_dir / "trials" / distilled, sandbox.root / "w-alone"
    sandbox.run("train", trial / "trial.py", "--work-dir", alone, "--workers", 2, "--cpus-per-worker", 0.5)
    actual, expected = (torch.load(folder / "last.pth", weights_only=True)["state_dict"] for folder in (trial, alone))
    assert actual.keys() == expected.keys() and all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.usefixtures("another_ray")
def test_a_sweep_of_two_worker_trials_is_confirmed_at_equal_cost(
    sandbox: Sandbox, tiny: Tiny, small: list[object], rows: Callable[[Path], dict[str, dict[str, str]]]
) -> None:
    """Each phase gives its CPUs back to the next, also where several Rays run on the machine."""
    content: dict[str, Any] = {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "choice", "values": [7.5]}},
        "search": {"type": "grid"},
        "trial": {"workers": 2, "cpus_per_worker": 1},
        "confirm": {"top": 1, "seeds": [1, 2]},
        "headroom": False,
    }
    work_dir = sandbox.root / "confirmed"
    done = sandbox.run("sweep", sandbox.sweep_file("confirmed", content), "--work-dir", work_dir, *small, "--iters", 6)
    table = rows(work_dir)
    names = {"baseline", "t0001", *(f"{name}-s{seed}" for name in ("t0001", "baseline") for seed in (1, 2))}
    assert set(table) == names | {f"baseline-as-t0001-s{seed}" for seed in (1, 2)}
    assert {row["status"] for row in table.values()} == {"finished"}
    assert "verdict   " in done.stdout
    arm = json.loads((work_dir / "summary.json").read_text())["confirmed"]["configurations"][0]
    assert set(arm["scores"]) == set(arm["equal_cost"]["scores"]) == {"1", "2"} and arm["equal_cost"]["iterations"] >= 1
    assert arm["seconds"]["real"] > 0
