"""From a folder to the files of a study: what they say, that they load, and what is never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command
from init_folders import binary

from rdistill.config.load import load_run
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


@pytest.mark.parametrize("words", [["--size", "8"], ["--student", "none"], ["--data", "nowhere"]])
def test_mistakes_are_one_line(words: list[str], tmp_path: Path, command: Command) -> None:
    binary(tmp_path / "mine")
    refused = command("init", "--data", str(tmp_path / "mine"), "--out", str(tmp_path / "out"), *words)
    assert refused.status == 2 and refused.err.startswith(f"error: {words[0]}") and len(refused.err.splitlines()) == 1
