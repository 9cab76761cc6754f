"""Teachers of other libraries through whole commands: checked, scored, taught from, swept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import library_models as made
import pytest
import torch
from conftest import Tiny
from torch import Tensor, nn

from e2e.conftest import Sandbox

pytestmark = pytest.mark.e2e
Rows = Callable[[Path], dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def small(tiny_without_teacher: Tiny) -> list[object]:
    root = tiny_without_teacher.data_root
    return ["--data-root", root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]


def config(sandbox: Sandbox, tiny: Tiny, name: str, path: str, rest: str, kind: str = "hf", **more: object) -> Path:
    file, entry = sandbox.root / f"{name}.py", {"type": kind, "path": path, **more}
    file.write_text(f"_base_ = ['{tiny.folder}/student.py']\ndistill = dict(teachers=[{entry!r}], {rest})\n")
    return file


class OfThreeClasses(nn.Module):
    """Random weights; a map and logits of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.stem(images).relu()
        return maps, self.head(maps)


@pytest.fixture(scope="module")
def onnx_file(sandbox: Sandbox) -> Path:
    pytest.importorskip("onnxruntime")
    file, names = sandbox.root / "teacher.onnx", ["maps", "logits"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = OfThreeClasses().eval()
    torch.onnx.export(
        net, (torch.zeros(1, 3, 32, 32),), str(file), dynamo=False, input_names=["image"], output_names=names,
        dynamic_axes={name: {0: "n", 2: "h", 3: "w"} for name in ("image", *names)},
    )  # fmt: skip
    return file


OF_ONNX = dict(kind="onnx", logits="logits", mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4])


def test_a_segformer_teaches_and_is_swept(
    sandbox: Sandbox, tiny_without_teacher: Tiny, small: list[object], rows: Rows
) -> None:
    folder = made.save(made.segformer, sandbox.root / "segformer")
    losses = "losses=dict(logits=dict(type='KL'))"
    file = config(sandbox, tiny_without_teacher, "segformer_student", str(folder), losses)
    work_dir = sandbox.root / "from-segformer"
    assert "classes    2 of the student, 2 of the teachers" in sandbox.run("check", file, *small).stdout
    done = sandbox.run("train", file, "--work-dir", work_dir, *small)
    assert done.stderr == "" and "teacher   mIoU" in done.stdout
    metrics = json.loads((work_dir / "metrics.json").read_text())
    assert metrics["teacher_mIoU"] > 0 and "a teacher of kind hf" in (work_dir / "model_card.md").read_text()
    assert "segformer" not in (work_dir / "student.py").read_text()
    content = {
        "config": str(file),
        "space": {"distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 9.0}},
        "search": {"type": "random", "num_trials": 2},
        "headroom": "off",
    }
    sweep = sandbox.root / "swept-segformer"
    done = sandbox.run("sweep", sandbox.sweep_file("segformer", content), "--work-dir", sweep, *small)
    assert done.stderr == "" and {row["status"] for row in rows(sweep).values()} == {"finished"}


def test_a_teacher_of_other_classes(sandbox: Sandbox, tiny_without_teacher: Tiny, small: list[object]) -> None:
    """Of five classes, two of which are one of the student's, and one of which it does not have."""
    folder = made.save(made.segformer, sandbox.root / "segformer5", ("cup", "sky", "rim", "sand", "rest"))
    classes = {"cup": "optic disc", "rim": "optic disc", "rest": "background", "sand": "background"}
    losses = "losses=dict(logits=dict(type='KL'))"
    file = config(sandbox, tiny_without_teacher, "mapped", str(folder), losses, classes=classes, unmapped="renormalise")
    checked = sandbox.run("check", file, *small).stdout
    assert "cup + rim" in checked and "sky" in checked
    work_dir = sandbox.root / "from-mapped"
    done = sandbox.run("train", file, "--work-dir", work_dir, *small)
    assert done.stderr == "" and "teacher   mIoU" in done.stdout
    assert json.loads((work_dir / "metrics.json").read_text())["teacher_mIoU"] > 0
    nobody = config(sandbox, tiny_without_teacher, "nobody", str(folder), losses, classes={"cap": "optic disc"})
    (line,) = sandbox.run("train", nobody, "--work-dir", sandbox.root / "nobody", *small, status=2).stderr.splitlines()
    assert "cap" in line and "distill.teachers[0].classes" in line and not (sandbox.root / "nobody").exists()


def test_an_onnx_file_teaches(
    sandbox: Sandbox, tiny_without_teacher: Tiny, small: list[object], onnx_file: Path
) -> None:
    """By its logits, three classes of which two are the student's, and by its maps."""
    classes = {0: "background", 2: "optic disc"}
    rest = (
        "features=dict(student=['backbone.layer4'], teacher=['backbone[0]']), "
        "losses=dict(logits=dict(type='KL'), hidden=dict(type='CWD', pair=(0, 0)))"
    )
    file = config(sandbox, tiny_without_teacher, "onnx", str(onnx_file), rest, classes=classes, **OF_ONNX)
    work_dir = sandbox.root / "from-onnx"
    done = sandbox.run("train", file, "--work-dir", work_dir, *small)
    assert done.stderr == "" and "teacher   mIoU" in done.stdout
    assert json.loads((work_dir / "metrics.json").read_text())["teacher_mIoU"] > 0
    assert "a teacher of kind onnx" in (work_dir / "model_card.md").read_text()


def test_a_sweep_under_an_onnx_file_of_other_classes(
    sandbox: Sandbox, tiny_without_teacher: Tiny, small: list[object], onnx_file: Path, rows: Rows
) -> None:
    classes = {0: "background", 1: "background", 2: "optic disc"}
    losses = "losses=dict(logits=dict(type='KL'))"
    file = config(sandbox, tiny_without_teacher, "onnx_swept", str(onnx_file), losses, classes=classes, **OF_ONNX)
    content = {
        "config": str(file),
        "space": {"distill.losses.logits.weight": {"type": "choice", "values": [1.0, 9.0]}},
        "search": {"type": "grid"},
        "headroom": "off",
    }
    sweep = sandbox.root / "swept-onnx"
    done = sandbox.run("sweep", sandbox.sweep_file("onnx", content), "--work-dir", sweep, *small)
    assert done.stderr == "" and {row["status"] for row in rows(sweep).values()} == {"finished"}
    assert "share a teacher" in done.stdout  # a cohort computes it once for both


def test_an_encoder_teaches_its_maps_and_has_no_score(
    sandbox: Sandbox, tiny_without_teacher: Tiny, small: list[object]
) -> None:
    folder = made.save(made.dinov2_with_registers, sandbox.root / "dinov2")
    features = "features=dict(student=['backbone.layer4'], teacher=['backbone[-1]'])"
    losses = "losses=dict(hidden=dict(type='CWD', pair=(0, 0)))"
    file = config(sandbox, tiny_without_teacher, "dino_student", str(folder), f"{features}, {losses}")
    work_dir = sandbox.root / "from-dinov2"
    done = sandbox.run("train", file, "--work-dir", work_dir, *small)
    assert "distill.teachers[0]: gives features alone, so it has no score" in done.stdout
    assert json.loads((work_dir / "metrics.json").read_text())["teacher_mIoU"] is None
    logits = config(sandbox, tiny_without_teacher, "no_logits", str(folder), "losses=dict(logits=dict(type='KL'))")
    done = sandbox.run("train", logits, "--work-dir", sandbox.root / "no-logits", *small, status=2)
    (line,) = done.stderr.splitlines()
    assert "the teacher gives features alone, and no logits; give the loss a feature `pair`" in line


def test_a_hub_that_cannot_be_reached(sandbox: Sandbox, tiny_without_teacher: Tiny, small: list[object]) -> None:
    file = config(sandbox, tiny_without_teacher, "hub", "nobody/nothing", "losses=dict(logits=dict(type='KL'))")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = sandbox.run("train", file, "--work-dir", sandbox.root / "hub", *small, status=2, variables=nowhere)
    (line,) = done.stderr.splitlines()
    assert "no such folder nobody/nothing, and the hub does not give it" in line
    assert not (sandbox.root / "hub").exists()
