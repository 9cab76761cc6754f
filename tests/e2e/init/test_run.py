"""`rdistill init` from a folder to its last check: models are built, and a step of each is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command
from init_folders import bands, binary, many_sizes

from rdistill.config.load import load_run
from rdistill.core.errors import UserError
from rdistill.init.run import InitOptions, write_study

pytestmark = pytest.mark.e2e


def test_what_is_there_is_not_overwritten(tmp_path: Path, command: Command) -> None:
    binary(tmp_path / "mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/teacher.py").write_text("mine")
    words = ["init", "--data", str(tmp_path / "mine"), "--out", str(tmp_path / "out"), "--size", "32"]
    words += ["--student", "fpn_r18-w12", "--teacher", "fpn_r18-w12"]
    refused = command(*words)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        f"error: {tmp_path}/out/teacher.py: exists already; pass --force to replace it, or another --out\n"
    )
    assert (tmp_path / "out/teacher.py").read_text() == "mine"
    done = command(*words, "--force")
    assert done.status == 0 and "The teacher" in (tmp_path / "out/teacher.py").read_text()
    assert done.out.splitlines()[-4] == "run next"


def test_damaged_data_are_said_by_the_check(tmp_path: Path) -> None:
    bands(tmp_path / "mine", 3, "uint8", ".png")
    (tmp_path / "mine/images/val/0.png").write_bytes((tmp_path / "mine/images/val/0.png").read_bytes()[:-60])
    with pytest.raises(UserError, match=r"val data: .*images/val/0.png: cannot be read"):
        write_study(InitOptions(tmp_path / "mine", teacher="fpn_r18-w12", size=32, out=tmp_path / "out"))


def test_images_of_many_sizes_keep_their_aspects(tmp_path: Path) -> None:
    many_sizes(tmp_path / "mine")
    write_study(InitOptions(tmp_path / "mine", teacher="fpn_r18-w12", size=32, out=tmp_path / "out"))
    cfg = load_run(tmp_path / "out/teacher.py").cfg
    assert cfg.val_dataloader.batch_size == 1 and cfg.test_pipeline[1].scale == (64, 32)  # 80 x 40 is the longest


def test_a_model_that_needs_larger_images_says_so(tmp_path: Path) -> None:
    binary(tmp_path / "mine")
    line = r"^--student: mobilenet-v3-d8_lraspp does not run on images of 64 pixels; pass --size 416, or choose another"
    with pytest.raises(UserError, match=line):
        write_study(InitOptions(tmp_path / "mine", "mobilenet-v3", "fpn_r18-w12", size=64, out=tmp_path / "out"))
    assert not (tmp_path / "out/student.py").exists()
