"""From a folder to the files of a study: what they say, that they load, and what is never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command
from init_folders import bands, binary, many_sizes

from rdistill.config.load import load_run
from rdistill.core.errors import UserError
from rdistill.init.run import InitOptions, write_study
from rdistill.sweeps.study.spec import read_sweep

FILES = ["base.py", "student.py", "teacher.py", "distill.py", "sweep.yaml"]


def test_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    binary(tmp_path / "mine")
    result = write_study(InitOptions(Path("mine"), teacher="fpn_r18-w12", size=32))
    out = Path("work_dirs/init/mine")
    assert result.files == [out / name for name in FILES] and result.notes == []
    assert result.commands == [
        f"rdistill train {out}/teacher.py --work-dir {out}/teacher",
        f"rdistill sweep {out}/sweep.yaml --work-dir {out}/sweep",
        f"rdistill report {out}/sweep",
    ]
    decided = dict(result.decisions)
    assert decided["size"] == "32: as --size says"
    assert decided["aspect"].startswith(
        "kept: images of 48 x 36 reach the model as 43 x 32, in training as crops of 32"
    )
    assert "FLOP" not in decided["student"] and "the default" in decided["student"]
    cfg = load_run(out / "student.py").cfg
    assert cfg.model.decode_head.num_classes == 2 and cfg.train_dataloader.dataset.metainfo.classes[1] == "foreground"
    assert [step["type"] for step in cfg.train_pipeline] == [
        "LoadImageFromFile", "MapLabels", "LoadAnnotations", "RandomResize", "RandomCrop", "RandomFlip",
        "PackSegInputs",
    ]  # fmt: skip
    assert cfg.test_dataloader.dataset.ann_file.endswith("mine/test.txt")  # the test images stay test images
    assert read_sweep(out / "sweep.yaml").config == f"{out}/distill.py"
    text = (out / "base.py").read_text()
    assert all(f"# - {about}: {line}" in text for about, line in result.decisions)


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


@pytest.mark.parametrize("words", [["--size", "8"], ["--student", "none"], ["--data", "nowhere"]])
def test_mistakes_are_one_line(words: list[str], tmp_path: Path, command: Command) -> None:
    binary(tmp_path / "mine")
    refused = command("init", "--data", str(tmp_path / "mine"), "--out", str(tmp_path / "out"), *words)
    assert refused.status == 2 and refused.err.startswith(f"error: {words[0]}") and len(refused.err.splitlines()) == 1


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
