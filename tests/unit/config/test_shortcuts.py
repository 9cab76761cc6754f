"""The flags of a run: size, iterations, batch size, data, the teacher's checkpoint; what each changes, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_problems import problems_of
from conftest import REPO, Run, Tiny

from rdistill.config.load import (
    Shortcuts,
    load_config,
)


def test_size(tiny: Tiny) -> None:
    cfg = tiny.load("student", size="24x40")
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = (step for step in loader.dataset.pipeline if step.type == "Resize")
        assert tuple(resize.scale) == (40, 24)  # mmcv's order: width, height
    assert tuple(cfg.model.data_preprocessor.size) == (24, 40)
    camvid = REPO / "configs/student/deeplabv3plus_r18-slim_camvid.py"
    cfg = load_config(camvid, shortcuts=Shortcuts(data_root=str(tiny.data_root), size="64"))
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps["RandomResize"].scale == steps["RandomCrop"].crop_size == cfg.model.data_preprocessor.size == (64, 64)
    for wrong in ("0", "-3", "1x2x3", "large", "64x"):
        assert problems_of(tiny, size=wrong)[0].startswith("--size: must be pixels such as 128")


def test_iterations_stretch_the_schedule(tiny: Tiny) -> None:
    cfg = tiny.load("student", iters=50, val_interval=None)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == 50
    assert cfg.train_cfg.val_interval == 50  # 200 in the file: once, at the end
    file = tiny.folder / "milestones.py"
    file.write_text(
        "_base_ = ['student.py']\nparam_scheduler = [dict(type='LinearLR', begin=0, end=100, by_epoch=False),"
        " dict(type='MultiStepLR', begin=100, milestones=[500, 800], by_epoch=False)]\n"
    )
    cfg = tiny.load("milestones", iters=200)
    assert [cfg.param_scheduler[0].end, cfg.param_scheduler[1].begin] == [20, 20]
    assert cfg.param_scheduler[1].milestones == [100, 160]
    assert problems_of(tiny, iters=0) == ["--iters: must be at least 1, got 0"]
    file.write_text(
        "_base_ = ['student.py']\ntrain_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3)\n"
    )
    (problem,) = problems_of(tiny, name="milestones", val_interval=None)
    assert problem.startswith("--iters: the config trains by epochs")


def test_batch_size_interval_and_data_workers(tiny: Tiny) -> None:
    cfg = tiny.load("student", batch_size=3, val_interval=4, num_data_workers=2)
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.val_interval) == (3, 4)
    assert [cfg[f"{split}_dataloader"].num_workers for split in ("train", "val", "test")] == [2, 2, 2]
    file = tiny.folder / "persistent.py"
    file.write_text("_base_ = ['student.py']\ntrain_dataloader = dict(num_workers=2, persistent_workers=True)\n")
    assert "persistent_workers" not in tiny.load("persistent", num_data_workers=0).train_dataloader
    problems = problems_of(tiny, batch_size=0, val_interval=0, num_data_workers=-1)
    assert [problem.split(":")[0] for problem in problems] == ["--batch-size", "--val-interval", "--num-data-workers"]


def test_data_root(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.data_root.parent)
    cfg = tiny.load("student", data_root=tiny.data_root.name)
    roots = {cfg[f"{split}_dataloader"].dataset.data_root for split in ("train", "val", "test")}
    assert roots == {str(tiny.data_root)}
    (problem,) = problems_of(tiny, data_root=str(tmp_path / "none"))
    assert problem.startswith(f"data_root: no such directory {tmp_path / 'none'}; pass --data-root DIR")


def test_data_root_under_a_wrapper(tiny: Tiny) -> None:
    file = tiny.folder / "repeated.py"
    file.write_text(
        "_base_ = ['student.py']\ntrain_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2,"
        " dataset={{_base_.train_dataloader.dataset}}))\n"
    )
    cfg = tiny.load("repeated")
    assert cfg.train_dataloader.dataset.type == "RepeatDataset"
    assert cfg.train_dataloader.dataset.dataset.data_root == str(tiny.data_root)


def test_teacher_checkpoint(tiny: Tiny, teacher_run: Run) -> None:
    cfg = tiny.load("distill", teacher_checkpoint=str(teacher_run.folder / "student.pth"))
    assert cfg.distill.teachers[0].checkpoint == str(teacher_run.folder / "student.pth")
    (problem,) = problems_of(tiny, name="student", teacher_checkpoint="x.pth")
    assert problem == "--teacher-checkpoint: the config has 0 teachers; it sets the only one"
