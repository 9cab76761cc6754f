"""How the parts of a config hang together: data sets under wrappers, shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.config.render import config_source
from rdistill.config.schedules import stretch_schedules
from rdistill.config.walk import dataset_steps, kind_of, leaf_datasets
from rdistill.core.errors import UserError

Write = Callable[[str], Path]


@pytest.fixture
def write(tiny_without_teacher: Tiny, tmp_path: Path) -> Write:
    """A config file over ``student.py``."""

    def written(text: str) -> Path:
        file = tmp_path / "child.py"
        file.write_text(f"_base_ = [{str(tiny_without_teacher.folder / 'student.py')!r}]\n{text}\n")
        return file

    return written


def problems(file: Path | str, overrides: dict[str, Any] | None = None, **shortcuts: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(file, overrides, Shortcuts(**shortcuts), with_data=False)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


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
# Shapes

_SECTIONS = ("train_dataloader", "val_dataloader", "optim_wrapper", "train_cfg", "model", "default_hooks", "env_cfg",
             "randomness", "visualizer", "param_scheduler", "val_evaluator", "custom_hooks")  # fmt: skip


@pytest.mark.parametrize("value", ["'text'", "3", "['x']", "True"])
@pytest.mark.parametrize("key", _SECTIONS)
def test_a_section_of_another_shape(write: Write, key: str, value: str) -> None:
    override = {f"+{key}": eval(value)}
    lines = problems(write(f"{key} = {value}"))
    assert lines[0].startswith(f"{key}: must be ") and ", got " in lines[0], lines
    assert any(line.startswith(f"{key}: ") and ", got " in line for line in problems(write(""), override))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_dataloader.batch_size", 0, "must be a whole number of images, at least 1, got 0"),
        ("train_dataloader.batch_size", 1.5, "must be a whole number of images, at least 1, got 1.5"),
        ("train_dataloader.num_workers", -1, "must be a whole number, at least 0, got -1"),
        ("train_cfg.max_iters", float("inf"), "must be a finite number, got inf"),
        ("train_cfg.val_interval", 0, "must be a whole number, at least 1, got 0"),
        ("optim_wrapper.optimizer.lr", float("nan"), "must be a finite number, got nan"),
        ("+train_dataloader.dataset.metainfo.palette", [[0, 0, 300]] * 2, "must be a list of colours"),
        ("train_dataloader.dataset.metainfo.palette", [[0, 0, 3]], "has 1 colours for 2 classes"),
        ("train_dataloader", None, "is required, got None"),
        ("train_dataloader.dataset.pipeline", ["Resize"], "must be a list of sections"),
        ("train_dataloader.dataset.pipeline", None, "is required, to read images and masks"),
        ("train_cfg.val_interval", None, "must be a whole number, at least 1, got None"),
        ("train_cfg.type", None, "is required: 'IterBasedTrainLoop' or"),
        ("+train_dataloader.persistent_workers", True, "needs num_workers of at least 1, got 0"),
        ("param_scheduler.0.end", 0, "must be a whole number, at least 1, got 0"),
    ],
)
def test_a_value_that_is_not_taken(write: Write, key: str, value: Any, message: str) -> None:
    lines = problems(write(""), {key: value})
    assert any(line.startswith(f"{key.lstrip('+')}: {message}") for line in lines), lines


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train_cfg = {'_delete_': True, 0: None}", "train_cfg.0"),
        ("model = dict(decode_head={0: 1})", "model.decode_head.0"),
        ("model = dict(backbone=dict(norm_cfg={True: 1}))", "model.backbone.norm_cfg.True"),
        ("default_hooks = {0: dict(type='x')}", "default_hooks.0"),
        ("default_hooks = dict(logger={3: 4})", "default_hooks.logger.3"),
        ("custom_hooks = [{'type': 'EMAHook', 0: 1}]", "custom_hooks.0.0"),
        ("val_evaluator = {None: 1}", "val_evaluator.None"),
        ("train_dataloader = dict(dataset=dict(metainfo={0: 1}))", "train_dataloader.dataset.metainfo.0"),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys={0: {}}))", "optim_wrapper.paramwise_cfg.custom_keys.0"),
        ("tracking = {0: 1}", "tracking.0"),
        ("distill = dict(losses={0: {}})", "distill.losses.0"),
    ],
)
def test_a_key_that_is_not_text(write: Write, text: str, place: str) -> None:
    lines = problems(write(text))
    assert any(line.startswith(f"{place}: a key must be text, got ") for line in lines), lines


def test_a_mapping_that_is_a_value_has_any_keys(write: Write) -> None:
    text = "train_dataloader = dict(dataset=dict(metainfo=dict(label_map={0: 1}))); notes = {0: 1}"
    cfg = load_config(write(text), with_data=False)
    assert cfg.train_dataloader.dataset.metainfo.label_map == {0: 1} and cfg.notes == {0: 1}


@pytest.mark.parametrize("value", [3, None, [], [3]])
def test_metrics_of_another_shape(write: Write, value: Any) -> None:
    (line,) = problems(write(f"val_evaluator = dict(_delete_=True, metrics={value!r})"))
    assert line.startswith("val_evaluator.metrics: must be a section with a `type`") and line.endswith(f"got {value!r}")


def test_a_mistyped_key_at_the_top(write: Write) -> None:
    (line,) = problems(write("modle = dict(type='EncoderDecoder')"))
    assert line.startswith("unknown key modle; did you mean 'model'?")
    load_config(write("my_channels = dict(a=1)"), with_data=False)


# ---------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize("text", ["raise SystemExit", "import sys\nsys.exit(0)"])
def test_a_config_that_exits(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert problem.startswith("cannot be read: it calls sys.exit(")


def test_a_circle_of_bases(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("_base_ = 'b.py'\n")
    (tmp_path / "b.py").write_text("_base_ = ['a.py']\n")
    (problem,) = problems(tmp_path / "a.py")
    assert problem == "cannot be read: it inherits from itself: a.py -> b.py -> a.py"


def test_a_config_of_a_package() -> None:
    name = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"
    cfg = load_config(name, with_data=False)
    assert cfg.model.decode_head.type == "PSPHead" and cfg.model.backbone.depth == 18
    with pytest.raises(UserError, match=r"no such config in mmseg; did you mean mmseg::pspnet/pspnet_r18-d8_4xb2-80k"):
        load_config(name.replace("r18-d8_4xb2", "r18-d8_4xb3"), with_data=False)
    with pytest.raises(UserError, match="no such config"):
        load_config("nopackage::a/b.py", with_data=False)


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
