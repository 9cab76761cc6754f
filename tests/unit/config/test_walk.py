"""How the parts of a config hang together: data sets under wrappers, shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_problems import problems
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.config.render import config_source
from rdistill.config.schedules import stretch_schedules
from rdistill.config.walk import dataset_steps, kind_of, leaf_datasets

Write = Callable[[str], Path]


# ---------------------------------------------------------------------------------------------------------
# type


def test_scopes_change_nothing(write: Write) -> None:
    plain = load_config(write(""), shortcuts=Shortcuts(size="24x40"), with_data=False)
    text = "val_evaluator = dict(type='mmseg.IoUMetric')\ntest_evaluator = dict(type='mmseg::IoUMetric')\n"
    scoped = load_config(write(text), shortcuts=Shortcuts(size="24x40"), with_data=False)
    assert scoped.to_dict() == plain.to_dict()


def test_a_pure_python_config(tiny_without_teacher: Tiny, tmp_path: Path) -> None:
    plain = read_config_file(tiny_without_teacher.folder / "student.py").to_dict()
    (tmp_path / "base.py").write_text(config_source(Config({k: v for k, v in plain.items() if k != "val_evaluator"})))
    file = tmp_path / "pure.py"
    file.write_text(
        "from mmengine.config import read_base\nfrom mmseg.evaluation import IoUMetric\n"
        "from mmcv.transforms import Resize\n"
        "with read_base():\n    from .base import *\n"
        "val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])\n"
        "train_dataloader['dataset']['pipeline'][2] = dict(type=Resize, scale=(9, 9))\n"
    )
    root = str(tiny_without_teacher.data_root)
    cfg = load_config(file, shortcuts=Shortcuts(data_root=root, size="24x40"))
    assert cfg.val_evaluator.type == "IoUMetric"
    step = cfg.train_dataloader.dataset.pipeline[2]
    assert step == dict(type="mmengine.Resize", scale=(40, 24))
    (tmp_path / "config.py").write_text(config_source(cfg))  # a run writes it so, to resume from
    assert load_config(tmp_path / "config.py").to_dict() == cfg.to_dict()


# ---------------------------------------------------------------------------------------------------------
# Wrapped data sets

_MOSAIC = """
part = _base_.train_dataloader.dataset
part.pipeline = part.pipeline[:2]
train_dataloader = dict(dataset=dict(_delete_=True, type='MultiImageMixDataset',
    dataset=dict(type='ConcatDataset', datasets=[part, dict(type='RepeatDataset', times=2, dataset=part)]),
    pipeline=[dict(type='RandomMosaic', prob=1.0, img_scale=(99, 99)), dict(type='mmcv.Resize', scale=(99, 99)),
              dict(type='PackSegInputs')]))
"""


def test_size_and_data_root_reach_every_leaf(write: Write, data_root: Path) -> None:
    cfg = load_config(write(_MOSAIC), shortcuts=Shortcuts(size="24x40", data_root=str(data_root)))
    assert [leaf.data_root for leaf in leaf_datasets(cfg, "train_dataloader")] == [str(data_root)] * 2
    steps = {kind_of(step): step for _, step in dataset_steps(cfg.train_dataloader.dataset)}
    assert steps["RandomMosaic"].img_scale == (24, 40) and steps["Resize"].scale == (40, 24)


def test_several_roots_are_named(write: Write) -> None:
    text = (
        "part = _base_.train_dataloader.dataset\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset',"
        " datasets=[dict(part, data_root='/a'), dict(part, data_root='/b')]))\n"
        "val_dataloader = dict(dataset=dict(data_root='/a'))\ntest_dataloader = dict(dataset=dict(data_root='/a'))"
    )
    (problem,) = problems(write(text), data_root="/c")
    assert problem == (
        "--data-root: the data are in 2 folders: /a (train_dataloader.dataset.datasets.0), "
        "/b (train_dataloader.dataset.datasets.1); set each by --set train_dataloader.dataset.datasets.1.data_root=DIR"
    )


def test_sizes_of_other_transforms(write: Write) -> None:
    text = (
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),"
        "dict(type='RandomChoiceResize', scales=[64, 128, 192], resize_type='ResizeShortestEdge', max_size=512),"
        "dict(type='RandomCrop', crop_size=(128, 128)), dict(type='PackSegInputs')]))\n"
        "model = dict(test_cfg=dict(mode='slide', crop_size=(128, 128), stride=(85, 85)))"
    )
    cfg = load_config(write(text), shortcuts=Shortcuts(size="32"), with_data=False)
    steps = {kind_of(step): step for _, step in dataset_steps(cfg.train_dataloader.dataset)}
    assert steps["RandomChoiceResize"].scales == [16, 32, 48] and steps["RandomChoiceResize"].max_size == 128
    assert steps["RandomCrop"].crop_size == (32, 32)
    assert (cfg.model.test_cfg.crop_size, cfg.model.test_cfg.stride) == ((32, 32), (21, 21))
    text = "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile')]))"
    assert problems(write(text), size="32")[0].startswith("--size: no transform of train_dataloader.dataset has a size")


@pytest.mark.parametrize("size", ["²", "9" * 5000, "1.5", "٣"])
def test_a_size_that_is_no_number(write: Write, size: str) -> None:
    (problem,) = problems(write(""), size=size)
    assert problem.startswith("--size: must be pixels such as 128") and len(problem) < 200


# ---------------------------------------------------------------------------------------------------------
# Schedules


def _segformer(iterations: int) -> Config:
    warm_up = dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500)
    poly = dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000)
    cfg = Config(dict(train_cfg=dict(max_iters=160000), param_scheduler=[warm_up, poly]))
    assert stretch_schedules(cfg, iterations) == []
    return cfg


@pytest.mark.parametrize(("iterations", "warm_up"), [(3, 2), (50, 2), (1000, 9), (160000, 1500)])
def test_every_phase_keeps_its_iterations(iterations: int, warm_up: int) -> None:
    first, second = _segformer(iterations).param_scheduler
    assert (first.begin, first.end, second.begin, second.end) == (0, warm_up, warm_up, iterations)
