"""Files from elsewhere, a checkpoint or a sweep file: data for every command, whatever they hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config

from e2e.conftest import Sandbox
from rdistill.models.segmentor import build_segmentor

pytestmark = pytest.mark.e2e

SPACE = {"distill.losses.logits.weight": {"type": "choice", "values": [1.0]}}
SECRET = "feedface" * 5


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.fixture(scope="module")
def ran(sandbox: Sandbox) -> Path:
    return sandbox.root / "ran"


@pytest.fixture(scope="module")
def harmful(sandbox: Sandbox, ran: Path, tiny: Tiny) -> Path:
    """The student's weights, with code that makes the file ``ran``."""
    file = sandbox.root / "harmful.pth"
    torch.save({"state_dict": build_segmentor(tiny.load("student").model).state_dict(), "meta": Touch(ran)}, file)
    return file


DOORS = [
    "check", "check a teacher", "train", "train from", "train under", "eval", "predict", "export", "layers", "sweep",
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_no_command_runs_what_a_checkpoint_carries(
    sandbox: Sandbox, tiny: Tiny, harmful: Path, ran: Path, door: str
) -> None:
    if door == "export":
        pytest.importorskip("onnx")
    student, distill = tiny.folder / "student.py", tiny.folder / "distill.py"
    small = ["--data-root", tiny.data_root, "--size", 32]
    short = [*small, "--batch-size", 2, "--val-interval", 2, "--iters", 2, "--work-dir", sandbox.root / door]
    pretrained = ["--set", f"model.pretrained={harmful}"]
    sweep = sandbox.sweep_file("harmful", {"config": str(distill), "space": SPACE, "search": {"type": "grid"}})
    command = {
        "check": ["check", student, *small, *pretrained],
        "check a teacher": ["check", distill, *small, "--teacher-checkpoint", harmful],
        "train": ["train", student, *short, *pretrained],
        "train from": ["train", student, *short, "--set", f"+load_from={harmful}"],
        "train under": ["train", distill, *short, "--teacher-checkpoint", harmful],
        "eval": ["eval", student, harmful, *small],
        "predict": ["predict", student, harmful, tiny.data_root / "img_dir" / "val", "--out", sandbox.root / "masks"],
        "export": ["export", student, harmful, sandbox.root / "a.onnx", *small],
        "layers": ["layers", student, *pretrained],
        "sweep": ["sweep", sweep, *short, *pretrained],
    }[door]
    done = sandbox.run(*command, status=0 if door == "layers" else 2)  # which needs shapes alone, and loads nothing
    assert not ran.exists()
    if door != "layers":
        expected = [line for line in (done.stdout + done.stderr).splitlines() if "Python code" in line]
        assert len(expected) == 1 and str(harmful) in expected[0] and "Traceback" not in done.stderr


def test_a_sweep_file_is_data(sandbox: Sandbox, tiny: Tiny, ran: Path) -> None:
    """Its keys and values are no code, and mmengine finds nothing in what is written to replace."""
    small = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 2]
    content: dict[str, Any] = {"config": str(tiny.folder / "distill.py"), "space": SPACE, "search": {"type": "grid"}}
    code = f"+a = 1\nimport os; os.system('touch {ran}')\nb"
    done = sandbox.run("sweep", sandbox.sweep_file("code", {**content, "set": {code: 1}}), *small, status=2)
    assert "is no key" in done.stderr and "Traceback" not in done.stderr
    classes = ["{{$WANDB_API_KEY:none}}", f"a\nimport os; os.system('touch {ran}')"]
    notes = {"my-note": "{{ fileBasename }}", code: code}
    meta = {f"+{name}_dataloader.dataset.metainfo": {"classes": classes} for name in ("train", "val")}
    sweep = sandbox.sweep_file("data", {**content, "set": {**meta, "+notes": notes}})
    work_dir = sandbox.root / "data"
    sandbox.run("sweep", sweep, *small, "--work-dir", work_dir, variables={"WANDB_API_KEY": SECRET})
    best = work_dir / "best.py"
    for file in (best, *work_dir.glob("trials/*/trial.py")):
        assert "{{" not in file.read_text()
        assert Config.fromfile(str(file)).val_dataloader.dataset.metainfo.classes == classes
    predict = ["predict", best, work_dir / "best.pth", tiny.data_root / "img_dir" / "val", "--out", sandbox.root / "m"]
    done = sandbox.run(*predict, variables={"WANDB_API_KEY": SECRET})
    assert SECRET not in done.stdout + done.stderr and not ran.exists()
    kept = [file for file in work_dir.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert kept == []
