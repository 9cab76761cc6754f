"""Commands that train and evaluate, from the shell: their output, and that a run is repeated from its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPO, Command, Run, Tiny
from PIL import Image


@pytest.mark.e2e
def test_train_and_train_again(
    command: Command, tiny: Tiny, small: list[object], tmp_path: Path, state_equal: Callable[..., bool]
) -> None:
    """A run's own config repeats it, with its seed, from any directory and with nothing else said."""
    result = command(
        "train", tiny.folder / "distill.py", *small, "--seed", 3, "--work-dir", "a", "--num-data-workers", 0
    )
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{tiny.folder}/distill.py -> a" and lines[1].startswith("teacher   mIoU ")
    assert lines[-2].startswith("done      mIoU ") and lines[-1].startswith("student   a/student.pth with a/student.py")
    assert "validated iter 2  mIoU " in result.out
    again = command("train", "a/config.py", "--work-dir", "b")
    assert (again.status, again.err) == (0, "")
    first, second = (Run(tmp_path / name, {}) for name in "ab")
    assert state_equal(first.weights(), second.weights())
    assert {**first.written_metrics(), "seconds": 0} == {**second.written_metrics(), "seconds": 0}
    assert first.written_metrics()["seed"] == 3
    refused = command("train", "a/config.py", "--work-dir", "b")
    assert refused.status == 2 and "holds a run already; pass --resume" in refused.err
    assert command("train", "a/config.py", "--work-dir", "b", "--resume").status == 0


@pytest.mark.e2e
def test_eval_json_is_nothing_but_json(distilled_run: Run, tmp_path: Path) -> None:
    files = [distilled_run.folder / "student.py", distilled_run.folder / "student.pth"]
    arguments = [sys.executable, "-m", "rdistill", "eval", *map(str, files), "--json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        key: distilled_run.metrics[key] for key in ("mIoU", "aAcc", "mAcc", "IoU", "trivial")
    }
    assert done.stderr == "" and list(tmp_path.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.parametrize("scope", ["mmseg", "mmdet"])
def test_rdistills_own_data_classes_have_names_in_a_new_process(
    tiny: Tiny, paddleseg_root: Path, tmp_path: Path, scope: str
) -> None:
    """Reading a config is the first thing that a process does, perhaps in the scope of another package."""
    code = f"""
from mmengine.registry import init_default_scope
import rdistill
init_default_scope({scope!r})
cfg = rdistill.load_config({str(tiny.folder / "student.py")!r}, data_root={str(paddleseg_root)!r}, label_map="255=1")
dataset = cfg.train_dataloader.dataset
print(dataset.type, [step.type for step in dataset.pipeline if step.type == "MapLabels"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "PaddleSegDataset ['MapLabels']\n"


@pytest.mark.e2e
def test_check_takes_a_label_map(tiny: Tiny, small: list[object]) -> None:
    arguments = [sys.executable, "-m", "rdistill", "check", tiny.folder / "student.py", *small, "--label-map", "255=1"]
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.e2e
def test_the_installed_command(tmp_path: Path) -> None:
    """As a user starts it: a new process, no traceback."""
    arguments = [sys.executable, "-m", "rdistill", "train", "nothing.py"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: nothing.py: no such config file\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_a_name_that_is_no_text_is_printed(command: Command, distilled_run: Run, tmp_path: Path) -> None:
    not_utf8 = os.fsdecode(b"caf\xe9")
    image = tmp_path / f"{not_utf8}.png"
    Image.new("RGB", (32, 32)).save(image)
    config, weights = distilled_run.folder / "student.py", distilled_run.folder / "student.pth"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-m", "rdistill", "predict", config, weights, image, "--out", not_utf8],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9.png  " in done.stdout and done.stdout.endswith("overlays in caf\\udce9/overlays\n")
    assert (tmp_path / not_utf8 / "masks" / image.name).is_file()
