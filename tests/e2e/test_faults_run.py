"""One run, and what may happen to it: killed, told to stop, a full disk, a damaged checkpoint. Everything for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.processes import under, wait_until

pytestmark = pytest.mark.e2e

Equal = Callable[[Any, Any], bool]
ITERATIONS = 60
KEEP_EVERY_5 = "{'type': 'CheckpointHook', 'by_epoch': False, 'interval': 5}"


@pytest.fixture(scope="module")
def arguments(tiny: Tiny) -> list[object]:
    """With dropout, flips, gradients accumulated over two batches, and a checkpoint every 5 iterations: amid them."""
    return [
        "train", tiny.folder / "distill.py", "--data-root", tiny.data_root, "--size", 32, "--batch-size", 4,
        "--val-interval", 20, "--iters", ITERATIONS, "--set", f"+default_hooks.checkpoint={KEEP_EVERY_5}",
        "--set", "+optim_wrapper.accumulative_counts=2", "--cpus-per-worker", 0.5,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(sandbox: Sandbox, arguments: list[object]) -> Path:
    """The run that nothing happens to."""
    sandbox.run(*arguments, "--work-dir", sandbox.root / "whole")
    return sandbox.root / "whole"


@pytest.fixture(scope="module")
def whole_group(sandbox: Sandbox, arguments: list[object]) -> Path:
    """The same on two workers."""
    sandbox.run(*arguments, "--workers", 2, "--work-dir", sandbox.root / "group")
    return sandbox.root / "group"


def weights(folder: Path, name: str = "last.pth") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)["state_dict"]


def same_run(folder: Path, second: Path, equal: Equal) -> bool:
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (folder, second)]
    own = {"seconds": 0, "teacher_cache": {}}  # these belong to a start, not to a run
    assert {**metrics[0], **own} == {**metrics[1], **own}
    return all(equal(weights(folder, name), weights(second, name)) for name in ("last.pth", "best.pth", "student.pth"))


def test_killed_and_resumed(sandbox: Sandbox, arguments: list[object], whole: Path, state_equal: Equal) -> None:
    """With -9, then with its newest checkpoint damaged: the weights are those of the run that nothing happened to."""
    work_dir = sandbox.root / "killed"
    with sandbox.start(*arguments, "--work-dir", work_dir) as process:
        wait_until((work_dir / "last.pth.previous").exists, process)
        process.kill()
        process.communicate()
    assert not (work_dir / "metrics.json").exists()
    damage(work_dir / "last.pth")
    done = sandbox.run(*arguments, "--work-dir", work_dir, "--resume")
    assert f"{work_dir}/last.pth is damaged" in done.stdout and "last.pth.previous" in done.stdout
    assert same_run(work_dir, whole, state_equal)
    again = sandbox.run(*arguments, "--work-dir", work_dir, "--resume")
    assert f"finished already, at iteration {ITERATIONS}" in again.stdout


def damage(file: Path) -> None:
    """One byte of a tensor is another."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop(
    sandbox: Sandbox, arguments: list[object], whole: Path, state_equal: Equal, number: signal.Signals
) -> None:
    work_dir = sandbox.root / f"stopped-{number.name}"
    with sandbox.start(*arguments, "--work-dir", work_dir) as process:
        wait_until((work_dir / "last.pth").exists, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number
    assert err.startswith("stopped at iteration ") and err.endswith("continue with --resume\n") and err.count("\n") == 1
    sandbox.run(*arguments, "--work-dir", work_dir, "--resume")
    assert same_run(work_dir, whole, state_equal)


def test_another_config_is_refused(sandbox: Sandbox, arguments: list[object], whole: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*")}
    done = sandbox.run(*arguments, "--work-dir", whole, "--resume", "--set", "optim_wrapper.optimizer.lr=0.5", status=2)
    assert done.stderr == (
        f"error: {whole}: --resume: optim_wrapper.optimizer.lr was 0.03, is 0.5; use another --work-dir for this other "
        f"run, or continue with `rdistill train {whole}/config.py --work-dir {whole} --resume`\n"
    )
    sandbox.run(*arguments, "--work-dir", whole, "--resume", "--num-data-workers", 1)  # is no other run
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*")} == before


@pytest.fixture
def small_disk(sandbox: Sandbox) -> Iterator[Path]:
    folder = sandbox.root / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_disk_is_full(
    sandbox: Sandbox, arguments: list[object], whole: Path, small_disk: Path, state_equal: Equal
) -> None:
    work_dir = small_disk / "run"
    with sandbox.start(*arguments, "--work-dir", work_dir) as process:
        wait_until((work_dir / "last.pth").exists, process)
        filler = small_disk / "filler"
        with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1 and err.count("\n") == 1, err
    assert err.startswith(f"error: {work_dir}") and "No space left on device; the last good checkpoint is" in err
    assert not list(work_dir.glob(".*.partial"))
    filler.unlink()
    sandbox.run(*arguments, "--work-dir", work_dir, "--resume")
    assert same_run(work_dir, whole, state_equal)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "whose"),
    [("TrainWorker", "worker "), ("TrainController", "Ray Train's own process was lost")],
    ids=["worker", "controller"],
)
def test_a_lost_process_of_a_group(
    sandbox: Sandbox, arguments: list[object], whole_group: Path, state_equal: Equal, title: str, whose: str
) -> None:
    """Killed with -9: all start again by themselves; the weights are those of two workers that lived."""
    work_dir = sandbox.root / f"lost-{title}"
    with sandbox.start(*arguments, "--workers", 2, "--work-dir", work_dir) as process:
        wait_until((work_dir / "last.pth").exists, process)
        os.kill(under(process.pid, title)[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, (out, err)
    for line in (whose, "was lost", "starting again from the last checkpoint (1 of 3)", "resumed   at"):
        assert line in out, out
    assert same_run(work_dir, whole_group, state_equal)
