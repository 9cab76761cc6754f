"""The files of studies/: `rdistill check` on them, with real images where they exist, at full scale on drawn ones."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from e2e.conftest import Sandbox
from e2e.test_real_data import DATA, REPO, needs, needs_camvid, needs_optic_disc
from rdistill.config.read import find_config, read_config_file
from rdistill.models.segmentor import build_segmentor

pytestmark = pytest.mark.e2e
STUDIES = REPO / "studies"
FULL_SCALE = sorted(path.stem for path in (STUDIES / "full_scale").glob("*.yaml"))


def _write_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _draw_cityscapes(root: Path, rng: np.random.Generator) -> None:
    for split in ("train", "val"):
        for number in range(2):
            name = f"aachen/aachen_{number:06d}_000019"
            image = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
            _write_png(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png", image)
            mask = rng.integers(0, 19, (64, 128), dtype=np.uint8)
            _write_png(root / "gtFine" / split / f"{name}_gtFine_labelTrainIds.png", mask)


def _draw_ade20k(root: Path, rng: np.random.Generator) -> None:
    for split in ("training", "validation"):
        for number in range(2):
            image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            _write_png(root / "images" / split / f"{number}.jpg", image)
            _write_png(root / "annotations" / split / f"{number}.png", rng.integers(0, 151, (64, 96), dtype=np.uint8))


@needs_optic_disc
@needs_camvid
@needs("nuclei")
@pytest.mark.parametrize(
    ("name", "sweep"),
    [
        ("optic_disc", "final"),
        ("optic_disc", "levels"),
        ("camvid", "strong_teacher"),
        ("nuclei", "strong_teacher"),
        ("nuclei", "one_source"),
        ("nuclei", "smaller_student_again"),
    ],
)
def test_the_studies_on_real_images_pass_check(sandbox: Sandbox, name: str, sweep: str, tmp_path: Path) -> None:
    study, data = STUDIES / name, ["--data-root", DATA / name]
    short = ["--iters", 4, "--val-interval", 4, "--batch-size", 2]
    sandbox.run("train", study / "teacher.py", *data, *short, "--work-dir", tmp_path)
    checked = sandbox.run("check", study / f"{sweep}.yaml", *data, "--teacher-checkpoint", tmp_path / "best.pth").stdout
    assert re.search(r"structures tried.*: finite losses and gradients", checked)
    assert "images without masks, 8 beside 8 labelled ones in each batch" in checked


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SCALE)
def test_the_full_scale_sweeps_pass_check_on_small_images(
    sandbox: Sandbox, name: str, tmp_path: Path, random_teacher: Callable[[Path], Path]
) -> None:
    draw = _draw_cityscapes if name.endswith("cityscapes") else _draw_ade20k
    draw(tmp_path / "data", np.random.default_rng(0))
    sweep = yaml.safe_load((STUDIES / "full_scale" / f"{name}.yaml").read_text())
    del sweep["trial"]  # a GPU for each trial, which this machine may not have
    sweep["config"] = str(REPO / sweep["config"])
    start = "model.pretrained" if name.startswith("pspnet") else "model.backbone.init_cfg"
    checked = sandbox.run(
        "check", sandbox.sweep_file(name, sweep), "--data-root", tmp_path / "data", "--size", 64, "--batch-size", 2,
        "--iters", 20_000, "--set", f"{start}=None",
        "--teacher-checkpoint", random_teacher(STUDIES / "full_scale" / f"{name}.py"),
    ).stdout  # fmt: skip
    assert re.search(r"structures tried.*: finite losses and gradients", checked)


@pytest.fixture
def random_teacher(tmp_path: Path) -> Callable[[Path], Path]:
    """Writes a checkpoint of the teacher that a config names, with random weights, and returns its path."""

    def write(config: Path) -> Path:
        teacher = read_config_file(find_config(config)).distill.teachers[0].config
        model = build_segmentor(read_config_file(find_config(Path(teacher))).model)
        torch.save({"state_dict": model.state_dict()}, tmp_path / "teacher.pth")
        return tmp_path / "teacher.pth"

    return write


def test_make_study_names_commands_that_exist() -> None:
    commands = subprocess.run(
        ["make", "-n", "-f", "studies/study.mk", "study"], cwd=REPO, text=True, capture_output=True, check=True
    ).stdout
    files = set(re.findall(r"studies/\S+\.(?:py|yaml)", commands))
    assert len(files) >= 4 and all((REPO / file).is_file() for file in files)
