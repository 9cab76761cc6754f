"""What a config names must exist: types, and keys as arguments of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, Tiny
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import LinearLR
from mmengine.registry import HOOKS

from rdistill.config.arguments import argument_problems, arguments
from rdistill.config.load import load_config, with_overrides
from rdistill.config.read import read_config_file
from rdistill.core.errors import UserError
from rdistill.models.quiet_mmseg import IoUMetric, mmseg

ZOO = Path(mmseg.__file__).parent / ".mim" / "configs"
FAMILIES = ("bisenetv1", "convnext", "deeplabv3plus", "mae", "mask2former", "pidnet", "segformer", "swin", "unet")


def problem(tiny: Tiny, overrides: dict[str, Any]) -> str:
    """The only one."""
    with pytest.raises(UserError) as caught:
        load_config(tiny.folder / "student.py", overrides, with_data=False)
    (line,) = caught.value.problems
    return line.removeprefix(f"{tiny.folder / 'student.py'}: ")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (
            "+custom_hooks",
            [dict(type="EMAHok")],
            "custom_hooks.0.type: no hook 'EMAHok' is registered",
        ),
        ("+custom_hooks", [dict(type="Zzzz")], "in a module that custom_imports names"),
        ("param_scheduler", dict(type="PolyLr"), "param_scheduler.type: no parameter scheduler 'PolyLr' is registered"),
        ("param_scheduler", [dict(type="PolyLr")], "param_scheduler.0.type: no parameter scheduler 'PolyLr'"),
        ("train_cfg.type", "IterLoop", "train_cfg.type: no loop 'IterLoop' is registered"),
        ("+val_cfg.type", "ValLop", "val_cfg.type: no loop 'ValLop' is registered; did you mean 'ValLoop'?"),
        ("train_dataloader.sampler.type", "Sampler", "train_dataloader.sampler.type: no data sampler 'Sampler'"),
        ("train_dataloader.dataset.type", "BaseSegDataSet", "did you mean 'BaseSegDataset'?"),
        ("train_dataloader.dataset.pipeline.0.type", "LoadImage", "pipeline.0.type: no transform 'LoadImage'"),
        (
            "val_evaluator.type",
            "mmseg.IouMetric",
            "val_evaluator.type: no metric 'IouMetric' is registered",
        ),
        ("optim_wrapper.optimizer.type", "AdamX", "optim_wrapper.optimizer.type: no optimizer 'AdamX' is registered"),
        ("+optim_wrapper.type", "OptimWraper", "did you mean 'OptimWrapper'?"),
        ("+visualizer.type", "Visualizr", "visualizer.type: no visualizer 'Visualizr' is registered; did you mean"),
        ("+log_processor.type", "LogProc", "log_processor.type: no log processor 'LogProc' is registered; did you"),
        ("model.type", "EncoderDecode", "model.type: no model 'EncoderDecode' is registered; did you mean 'EncoderDec"),
        ("model.backbone.type", "ResNetV1d_", "model.backbone.type: no model 'ResNetV1d_' is registered; did you"),
        ("+val_evaluator.metrics", [dict(type="IoUMetric")], "val_evaluator.type: 'IoUMetric' is a metric; put it"),
        ("+optim_wrapper.constructor", "Default", "optim_wrapper.constructor: no optimizer wrapper constructor"),
    ],
)
def test_a_type_that_is_not_registered(tiny_without_teacher: Tiny, key: str, value: Any, says: str) -> None:
    assert says in problem(tiny_without_teacher, {key: value})


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("train_cfg.max_iter", "IterBasedTrainLoop has no such argument; did you mean 'max_iters'?"),
        ("val_cfg.fp_16", "ValLoop has no such argument; did you mean 'fp16'?"),
        ("train_dataloader.batchsize", "a dataloader has no such argument; did you mean 'batch_size'?"),
        ("train_dataloader.sampler.shufle", "has no such argument; did you mean 'shuffle'?"),
        ("train_dataloader.dataset.img_sufix", "has no such argument; did you mean 'img_suffix'?"),
        ("optim_wrapper.optimizer.l_r", "has no such argument; did you mean 'lr'?"),
        ("optim_wrapper.clip_grads", "OptimWrapper has no such argument; did you mean 'clip_grad'?"),
        ("param_scheduler.0.etamin", "PolyLR has no such argument; did you mean 'eta_min'?"),
        ("val_evaluator.iou_metric", "IoUMetric has no such argument; did you mean 'iou_metrics'?"),
        ("visualizer.nam", "SegLocalVisualizer has no such argument; did you mean 'name'?"),
        ("log_processor.by_epoc", "LogProcessor has no such argument; did you mean 'by_epoch'?"),
        ("model.neckk", "EncoderDecoder has no such argument; did you mean 'neck'?"),
        ("model.backbone.depht", "ResNetV1d has no such argument; did you mean 'depth'?"),
        ("model.decode_head.num_clases", "Head has no such argument; did you mean 'num_classes'?"),
        ("model.decode_head.loss_decode.use_sigmoi", "CrossEntropyLoss has no such argument; did you mean"),
        ("model.data_preprocessor.meen", "SegDataPreProcessor has no such argument; did you mean 'mean'?"),
        ("model.test_cfg.mod", "EncoderDecoder has no such argument; did you mean 'mode'?"),
        ("default_hooks.logger", "LoggerHook has no such argument; did you mean 'interval'?"),
    ],
)
def test_a_mistyped_argument(tiny_without_teacher: Tiny, key: str, says: str) -> None:
    if key == "default_hooks.logger":
        key, override = "default_hooks.logger.intervall", {"+default_hooks.logger.type": "LoggerHook"}
    else:
        override = {}
    line = problem(tiny_without_teacher, {**override, f"+{key}": 1})
    assert line.startswith(f"unknown key {key}: ") and says in line


def test_an_argument_like_no_other(tiny_without_teacher: Tiny) -> None:
    line = problem(tiny_without_teacher, {"+train_dataloader.sampler.zzzz": 1})
    assert line.endswith("InfiniteSampler has no such argument; it takes dataset, shuffle, seed"), line


def test_how_a_model_predicts(tiny_without_teacher: Tiny) -> None:
    line = problem(tiny_without_teacher, {"model.test_cfg.mode": "slid"})
    assert line == "model.test_cfg.mode: must be one of 'whole', 'slide', got 'slid'; did you mean 'slide'?"
    sliding = {"model.test_cfg.mode": "slide", "+model.test_cfg.crop_size": (32, 32)}
    line = problem(tiny_without_teacher, sliding)
    assert line == "model.test_cfg.stride: is required where mode is 'slide': two numbers of pixels"


def test_first_weights_without_a_file(tiny_without_teacher: Tiny) -> None:
    line = problem(tiny_without_teacher, {"+model.backbone.init_cfg": dict(type="Pretrained")})
    assert line == "model.backbone.init_cfg.checkpoint: is required by Pretrained"


def test_a_swept_value(tiny_without_teacher: Tiny) -> None:
    """Overrides of a loaded config, as a trial's are."""
    cfg = load_config(tiny_without_teacher.folder / "student.py", with_data=False)
    with pytest.raises(UserError, match=r"^optim_wrapper.optimizer.type: no optimizer 'AdamX' is registered"):
        with_overrides(cfg, {"optim_wrapper.optimizer.type": "AdamX"})
    with pytest.raises(UserError, match=r"^unknown key model.backbone.depht: .* did you mean 'depth'\?$"):
        with_overrides(cfg, {"+model.backbone.depht": 50})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = 1", "has no model"),
        ("model = None", "has no model"),
        ("model = 3", "model: must be a section with a `type`"),
        (
            "model = dict(type='EncoderDecoder', neckk=1)",
            "unknown key model.neckk: EncoderDecoder has no such argument",
        ),
    ],
)
def test_the_model_of_a_teachers_config(tiny_without_teacher: Tiny, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "teacher.py").write_text(text)
    override = {"distill.teachers.0.config": str(tmp_path / "teacher.py")}
    with pytest.raises(UserError) as caught:
        load_config(tiny_without_teacher.folder / "distill.py", override, with_data=False)
    (line,) = caught.value.problems
    assert f"distill.teachers[0].config: {tmp_path / 'teacher.py'}: {says}" in line


def test_where_keywords_lead() -> None:
    class Takes(LoggerHook):
        def __init__(self, mine: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    class Keeps(Hook):
        def __init__(self, mine: int, **kwargs: Any) -> None:
            self.kept = kwargs

    class Alters(LoggerHook):
        def __init__(self, **kwargs: Any) -> None:
            kwargs["interval"] = kwargs.pop("every")
            super().__init__(**kwargs)

    takes = arguments(Takes)
    assert takes is not None and not takes.ignores_others and {"mine", "interval", "ignore_last"} <= set(takes.names)
    assert arguments(Keeps) is None and arguments(Alters) is None and arguments(dict) is None
    scheduler, metric = arguments(LinearLR), arguments(IoUMetric)
    assert scheduler is not None and {"start_factor", "by_epoch", "begin", "end"} <= set(scheduler.names)
    assert metric is not None and metric.ignores_others  # a name that it ignores is a mistake only if it is a near miss


def test_a_hook_of_the_users_own(tiny_without_teacher: Tiny) -> None:
    @HOOKS.register_module()
    class OwnHook(Hook):
        def __init__(self, every: int) -> None:
            self.every = every

    try:
        hook = dict(type="OwnHook", every=2, priority="LOW")
        load_config(tiny_without_teacher.folder / "student.py", {"+custom_hooks": [hook]}, with_data=False)
        line = problem(tiny_without_teacher, {"+custom_hooks": [{**hook, "evry": 1}]})
        assert line == "unknown key custom_hooks.0.evry: OwnHook has no such argument; did you mean 'every'?"
    finally:
        HOOKS.module_dict.pop("OwnHook")


@pytest.mark.parametrize("family", FAMILIES)
def test_mmsegs_own_configs(family: str) -> None:
    """No false alarm: two of each family."""
    files = sorted((ZOO / family).glob("*.py"))
    for file in [files[0], files[-1]]:
        try:
            cfg = read_config_file(file)
        except UserError:  # needs a package that is not installed
            continue
        assert argument_problems(cfg._cfg_dict) == [], file


@pytest.mark.parametrize("file", sorted((REPO / "configs").glob("[!_]*/*.py")), ids=lambda file: file.stem)
def test_our_own_configs(file: Path) -> None:
    assert argument_problems(read_config_file(file)._cfg_dict) == []
