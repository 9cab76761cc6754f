"""What `init` writes passes `check` and trains: a teacher, then its student, a few iterations each; and it ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command
from init_folders import LAYOUTS

pytestmark = pytest.mark.e2e
SLOW = pytest.mark.slow
SHORT = ("--iters", "3", "--val-interval", "3", "--batch-size", "2", "--quiet")


def to_a_student(command: Command, root: Path, out: Path, *words: str) -> None:
    """init, teacher, check, student."""
    done = command("init", "--data", str(root), "--out", str(out), "--size", "64", *words)
    assert done.status == 0, done.err
    teacher = ("--teacher-checkpoint", str(out / "t/best.pth"))
    for line in (
        ("train", str(out / "teacher.py"), "--work-dir", str(out / "t"), *SHORT),
        ("check", str(out / "distill.py"), *teacher),
        ("train", str(out / "distill.py"), "--work-dir", str(out / "s"), *teacher, *SHORT),
    ):
        done = command(*line)
        assert done.status == 0, (line, done.err)
    assert (out / "s/student.pth").is_file()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("pidnet-s", "ddrnet"),
        ("bisenetv2", "fpn_efficientnet-lite0"),
        pytest.param("ddrnet", "pidnet-s", marks=SLOW),
        pytest.param("pspnet_r18", "encnet_r50", marks=SLOW),
        pytest.param("encnet_r50", "bisenetv2", marks=SLOW),
        pytest.param("segformer_mit-b0", "segformer_mit-b1", marks=SLOW),
        pytest.param("fast-scnn", "deeplabv3plus_r18", marks=SLOW),
        pytest.param("mobilenet-v3", "fpn_r18-w12", marks=SLOW),  # pools 49 cells
        pytest.param("segnext-t", "fcn_hr18", marks=SLOW),
        pytest.param("stdc1", "swin-tiny", marks=SLOW),
        pytest.param("unet", "ocrnet_hr18", marks=SLOW),
        pytest.param("icnet", "bisenetv1_r18", marks=SLOW),
    ],
)
def test_pairs_of_models(student: str, teacher: str, tmp_path: Path, command: Command) -> None:
    LAYOUTS["binary"](tmp_path / "data")
    size = ("--size", "416") if student == "mobilenet-v3" else ()
    to_a_student(command, tmp_path / "data", tmp_path / "out", "--student", student, "--teacher", teacher, *size)


@pytest.mark.parametrize(
    "layout",
    ["coco", "four_16", *(pytest.param(name, marks=SLOW) for name in LAYOUTS if name not in ("coco", "four_16"))],
)
def test_layouts(layout: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "data").mkdir()
    LAYOUTS[layout](tmp_path / "data")
    teacher = "deeplabv3plus_r18" if layout in ("four_16", "six_floats", "grey_16") else "fpn_efficientnet-lite0"
    to_a_student(command, tmp_path / "data", tmp_path / "out", "--teacher", teacher)


@pytest.mark.parametrize(
    "layout",
    ["colors", "grey_16", *(pytest.param(name, marks=SLOW) for name in LAYOUTS if name not in ("colors", "grey_16"))],
)
def test_from_a_folder_to_an_int8_file(layout: str, tmp_path: Path, command: Command) -> None:
    """After so few iterations a score says nothing; but the file is quantised, and scored on these images."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (tmp_path / "data").mkdir()
    LAYOUTS[layout](tmp_path / "data")
    models = ("--student", "fpn_r18-w12", "--teacher", "fpn_r18-w12", "--size", "32", "--out", "out")
    weights = ("out/student.py", "run/student.pth")
    for line in (
        ("init", "--data", "data", *models),
        ("train", "out/student.py", "--work-dir", "run", *SHORT),
        ("export", *weights, "int8.onnx", "--int8", "--max-drop", "100"),
    ):
        done = command(*line)
        assert done.status == 0, (line, done.err)
    model = onnx.load(str(tmp_path / "int8.onnx"))
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer) > 20
    scored = json.loads(command("eval", "int8.onnx", "--json").out)
    assert f"mIoU      int8 {scored['mIoU']:.2f}, float32 " in done.out
    assert scored["pytorch"]["IoU"].keys() == scored["IoU"].keys()


def test_the_sweep_that_is_written_passes_the_check(tmp_path: Path, command: Command) -> None:
    LAYOUTS["suffixes"](tmp_path / "data")
    to_a_student(command, tmp_path / "data", tmp_path / "out", "--teacher", "fpn_r18-w12")
    teacher = ("--teacher-checkpoint", str(tmp_path / "out/t/best.pth"))
    done = command("check", str(tmp_path / "out/sweep.yaml"), *teacher)
    assert done.status == 0, done.err
