"""Configs: every file loads, the recipe has PaddleSeg's figures, and every mistake is named in one line."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from config_problems import problems_of
from conftest import NUM_TRAIN, NUM_VAL, REPO, Run, Tiny
from mmengine.config import Config
from mmengine.registry import DefaultScope

from rdistill.checks.batches import check_batches
from rdistill.checks.dry_run import tiny_batch
from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import (
    LoadedConfig,
    Shortcuts,
    import_custom_modules,
    load_config,
    load_run,
    read_config_file,
    with_overrides,
)
from rdistill.config.overrides import lookup, parse_assignments
from rdistill.core.errors import UserError
from rdistill.data.splits import data_classes, data_splits
from rdistill.models.segmentor import build_segmentor
from rdistill.training.student_files import write_config

FILES = sorted(path for kind in ("teacher", "student", "distill") for path in (REPO / "configs" / kind).glob("*.py"))
RECIPE = REPO / "configs/distill/deeplabv3plus_r50-r18_optic-disc.py"


# ---------------------------------------------------------------------------------------------------------
# The files of the repository


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_loads(file: Path, data_root: Path, teacher_run: Run) -> None:
    is_distill = file.parent.name == "distill"
    checkpoint = str(teacher_run.folder / "best.pth") if is_distill else None
    cfg = load_config(file, shortcuts=Shortcuts(data_root=str(data_root), teacher_checkpoint=checkpoint))
    assert cfg.train_dataloader.dataset.data_root == str(data_root)
    assert (distill_spec(cfg) is not None) == is_distill
    models = [cfg.model, *(teacher["model"] for teacher in (cfg.get("distill") or {}).get("teachers", []))]
    for model in models:
        assert len(cfg.train_dataloader.dataset.metainfo.classes) == model.decode_head.num_classes


@pytest.fixture(scope="module")
def recipe(data_root: Path, teacher_run: Run) -> Config:
    checkpoint = str(teacher_run.folder / "best.pth")
    return load_config(RECIPE, shortcuts=Shortcuts(data_root=str(data_root), teacher_checkpoint=checkpoint))


@pytest.mark.parametrize(
    ("side", "depth", "multi_grid", "in_channels", "c1_in_channels"),
    [("student", 18, (4, 8), 512, 64), ("teacher", 50, (4, 8, 16), 2048, 256)],
)
def test_recipe_models(
    recipe: Config, side: str, depth: int, multi_grid: tuple[int, ...], in_channels: int, c1_in_channels: int
) -> None:
    model_cfg = recipe.model if side == "student" else recipe.distill.teachers[0].model
    backbone, head = model_cfg.backbone, model_cfg.decode_head
    assert (backbone.type, backbone.depth) == ("ResNetV1d", depth)
    assert (tuple(backbone.strides), tuple(backbone.dilations)) == ((1, 2, 1, 1), (1, 1, 2, 4))  # output stride 8
    assert tuple(backbone.multi_grid) == multi_grid
    assert head.type == "DepthwiseSeparableASPPHead"
    assert (tuple(head.dilations), head.channels, head.num_classes) == ((1, 12, 24, 36), 256, 2)
    assert (head.in_channels, head.c1_in_channels) == (in_channels, c1_in_channels)
    assert model_cfg.get("auxiliary_head") is None and model_cfg.get("pretrained") is None
    with torch.device("meta"):  # it is built without the time to draw the weights
        model = build_segmentor(model_cfg)
    # mmseg dilates the first of a basic block's two convolutions, and a bottleneck's middle one.
    convolution = "conv1" if depth == 18 else "conv2"
    assert [getattr(block, convolution).dilation[0] for block in model.backbone.layer4] == list(multi_grid)
    assert not model.with_auxiliary_head


def test_recipe_schedule_data_and_loss(recipe: Config) -> None:
    optimizer = recipe.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("SGD", 0.01, 0.9, 4e-5)
    (poly,) = recipe.param_scheduler
    assert (poly.type, poly.power, poly.eta_min, poly.begin, poly.end, poly.by_epoch) == (
        "PolyLR",
        0.9,
        0.0,
        0,
        1000,
        False,
    )
    assert recipe.train_cfg.max_iters == 1000
    assert recipe.train_dataloader.batch_size == 4
    steps = {step.type: step for step in recipe.train_dataloader.dataset.pipeline}
    assert list(steps) == ["LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip", "PackSegInputs"]
    assert tuple(steps["Resize"].scale) == (512, 512) and not steps["Resize"].keep_ratio
    assert steps["RandomFlip"].prob == 0.5 and steps["RandomFlip"].get("direction", "horizontal") == "horizontal"
    assert recipe.model.data_preprocessor.mean == recipe.model.data_preprocessor.std == [127.5] * 3
    assert tuple(recipe.model.data_preprocessor.size) == (512, 512)
    spec = distill_spec(recipe)
    assert spec is not None and spec.task_weight == 1.0
    (loss,) = spec.losses.values()
    assert (loss.type, loss.on, loss.pair, loss.effective_weight) == ("KL", "logits", None, 3.0)
    assert loss.params == {"tau": 1.0, "per_class": True}


def test_slim_pair_builds_with_its_channels(data_root: Path, teacher_run: Run) -> None:
    file = REPO / "configs/distill/deeplabv3plus_r50-r18-slim_optic-disc-128.py"
    checkpoint = str(teacher_run.folder / "best.pth")
    cfg = load_config(file, shortcuts=Shortcuts(data_root=str(data_root), teacher_checkpoint=checkpoint))
    student, teacher = (build_segmentor(model) for model in (cfg.model, cfg.distill.teachers[0].model))
    images = torch.zeros(1, 3, 128, 128)
    for model, channels in ((student.eval(), [16, 32, 64, 128]), (teacher.eval(), [64, 128, 256, 512])):
        with torch.no_grad():
            features = model.extract_feat(images)
        assert [feature.shape[1] for feature in features] == channels
        assert [feature.shape[2] for feature in features] == [32, 16, 16, 16]
        assert model.decode_head.bottleneck.conv.out_channels == 64
        assert model.decode_head.c1_bottleneck.conv.out_channels == 12


# ---------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim_wrapper.optimizr.lr", 0.1, "unknown key optim_wrapper.optimizr; did you mean 'optimizer'?"),
        ("modle.pretrained", "x", "unknown key modle; did you mean 'model'?"),
        ("train_cfg.max_iters", "many", "train_cfg.max_iters: must be a number, got 'many'"),
        ("train_cfg.max_iters", True, "train_cfg.max_iters: must be a number, got True"),
        ("model.decode_head.align_corners", 1, "model.decode_head.align_corners: must be true or false, got 1"),
        ("optim_wrapper.optimizer", 0.1, "optim_wrapper.optimizer: is a section with keys"),
        ("param_scheduler.1.power", 1.0, "param_scheduler.1: no such index; the list has 1 entry"),
        ("model.backbone.strides.0", 2, "model.backbone.strides.0: a tuple is set as a whole, not by index"),
        ("model.backbone.depth.x", 2, "model.backbone.depth.x: model.backbone.depth is 18, which has no keys"),
        ("distill.loses.a.weight", 1.0, "unknown key distill.loses; did you mean 'losses'?"),
        ("distill.teachers.0.chekpoint", "x", "unknown key distill.teachers.0.chekpoint; did you mean 'checkpoint'?"),
        ("distill.losses.logits.type", "CDW", "distill.losses.logits.type: no loss 'CDW'; did you mean 'CWD'?"),
        ("distill.losses.logits.type", "zzz", "distill.losses.logits.type: no loss 'zzz'; known: KL, CWD"),
        ("distill.losses.logits.tua", 2.0, "distill.losses.logits.tua is not a parameter"),
        ("distill.losses.logits.tau", 0, "distill.losses.logits.tau is a temperature and must be > 0, got 0"),
        ("distill.losses.logits.weight", -1.0, "distill.losses.logits.weight: "),
        ("distill.losses.logits.type", "FitNet", "distill.losses.logits: FitNet does not apply to logits; give it"),
        (
            "distill.losses.logits.on",
            "features",
            "distill.losses.logits.on: ",
        ),
        ("distill.losses.logits.on", "logits[-1]", "distill.losses.logits.on: "),
        ("distill.losses.logits.on", "logits[x]", "distill.losses.logits.on: "),
        ("distill.losses.hidden.type", "DKD", "distill.losses.hidden: DKD does not apply to features; remove `pair`"),
        ("distill.losses.hidden.pair", (1, 3), "distill.losses.hidden.pair: teacher feature index 3 is not in"),
        ("distill.losses.hidden.pair", (-1, 0), "distill.losses.hidden.pair: student feature index -1 is not in"),
        ("distill.losses.hidden.pair", (1,), "distill.losses.hidden.pair"),
        ("distill.losses.hidden.teacher", 1, "distill.losses.hidden.teacher: got 1, but the config has 1 teacher"),
        ("distill.losses", {}, "distill.losses: "),
    ],
)
def test_a_mistake_is_one_line(tiny: Tiny, key: str, value: Any, message: str) -> None:
    problems = problems_of(tiny, {key: value})
    assert problems and problems[0].startswith(message), problems
    assert all("\n" not in problem for problem in problems)


def test_missing_teacher_checkpoint(tiny: Tiny) -> None:
    (problem,) = problems_of(tiny, teacher_checkpoint="work_dirs/nothing.pth")
    assert problem.startswith("distill.teachers[0].checkpoint: no such file work_dirs/nothing.pth; train the teacher")


def test_missing_teacher_config(tiny: Tiny) -> None:
    (problem,) = problems_of(tiny, {"distill.teachers.0.config": "nothing.py"})
    assert problem == "distill.teachers[0].config: no such config file nothing.py"


def test_problems_are_reported_together(tiny: Tiny, tmp_path: Path) -> None:
    overrides = {"train_cfg.max_iter": 3, "optim_wrapper.optimizer.lr": "fast"}
    problems = problems_of(tiny, overrides, data_root=str(tmp_path / "none"), batch_size=0, size="12x")
    assert len(problems) == 5
    for part in (
        "max_iter; did you mean 'max_iters'",
        "lr: must be a number",
        "--batch-size",
        "--size",
        "no such directory",
    ):
        assert any(part in problem for problem in problems), (part, problems)
    overrides = {"distill.losses.logits.type": "KLL", "distill.losses.hidden.pair": (5, 6)}
    problems = problems_of(tiny, overrides)
    assert [problem.split(":")[0] for problem in problems] == ["distill.losses.logits.type"] + [
        "distill.losses.hidden.pair"
    ] * 2


# ---------------------------------------------------------------------------------------------------------
# Overrides


def test_overrides_change_what_they_name(tiny: Tiny) -> None:
    overrides = {
        "optim_wrapper.optimizer.lr": 0.5,
        "model.backbone.strides": (1, 2, 2, 2),
        "param_scheduler.0.power": 1.0,
        "distill.losses.hidden.tau": 2.0,
        "distill.losses.extra": {"type": "AT", "pair": (0, 0)},
    }
    before, after = tiny.load("distill"), tiny.load("distill", overrides)
    for key, value in overrides.items():
        assert lookup(after._cfg_dict, key) == value
    for key in overrides:
        node = after._cfg_dict
        *path, last = key.split(".")
        for part in path:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if key == "distill.losses.extra":
            node.pop(last)
        else:
            node[last] = lookup(before._cfg_dict, key)
    assert after.to_dict() == before.to_dict()  # nothing else changed


def test_a_plus_adds_a_key(tiny: Tiny) -> None:
    assert problems_of(tiny, {"model.decode_head.sampler": None})[0].endswith(
        "(write +model.decode_head.sampler to add a new key)"
    )
    cfg = tiny.load("student", {"+optim_wrapper.paramwise_cfg.norm_decay_mult": 0.0, "+new": [1]})
    assert cfg.optim_wrapper.paramwise_cfg == {"norm_decay_mult": 0.0} and cfg.new == [1]


@pytest.mark.parametrize(
    "key", ["+a\nimport os", "+a = 1; b", "+my-note", "+2nd", "+class", "+", "+a..b", "model..type", "+_base_", "+text"]
)
def test_keys_that_a_config_file_cannot_hold(tiny: Tiny, key: str) -> None:
    """They would become code, or end a run when it is resumed."""
    (problem,) = problems_of(tiny, {key: 1})
    assert problem.startswith(repr(key)) and "\n" not in problem


def test_a_section_takes_any_key(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill", {"+notes.my-note": "{{$HOME:none}}", "+notes.class": "b\nimport os"})
    write_config(cfg, tmp_path / "config.py", 0)
    assert read_config_file(tmp_path / "config.py").notes == {"my-note": "{{$HOME:none}}", "class": "b\nimport os"}


def test_a_date_is_text(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("student", parse_assignments(["+note=2026-11-26", "+notes={2026-11-26: [2026-11-26]}"]))
    write_config(cfg, tmp_path / "config.py", 0)
    read = read_config_file(tmp_path / "config.py")
    assert read.note == "2026-11-26" and read.notes == {"2026-11-26": ["2026-11-26"]}
    (problem,) = problems_of(tiny, {"+note": datetime.date(2026, 11, 26)})  # only a caller in Python can give a date
    assert "date" in problem and problem.startswith("+note")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("2", 2), ("true", True), ("False", False), ("None", None), ("null", None),
        ("[1, 2]", [1, 2]), ("(1, 1)", (1, 1)), ("backbone.layer4", "backbone.layer4"), ("a=b", "a=b"),
        ("decode_head:input[0]", "decode_head:input[0]"), ("@kept", "@kept"), ("{tau: 2.0}", {"tau": 2.0}), ("''", ""),
    ],
)  # fmt: skip
def test_assignments_are_literals_or_text(text: str, value: Any) -> None:
    parsed = parse_assignments([f" a.b = {text}"])
    assert parsed == {"a.b": value} and type(parsed["a.b"]) is type(value)


def test_assignments_that_cannot_be_read() -> None:
    with pytest.raises(UserError) as caught:
        parse_assignments(["a", "=3", "ok=1", "b=[1,"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--set a", "--set =3", "--set b=[1,"]


# ---------------------------------------------------------------------------------------------------------
# What comes out


def test_files_are_found_from_any_directory(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = tiny.load("distill").distill.teachers[0]
    assert teacher.config == str(tiny.folder / "teacher.py")
    assert teacher.checkpoint == str(tiny.folder / "teacher" / "best.pth")
    assert teacher.model == tiny.load("teacher").model | {"data_preprocessor": teacher.model.data_preprocessor}


@pytest.mark.parametrize("name", ["student", "distill"])
def test_a_dumped_config_loads_to_the_same(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cfg = tiny.load(name, {"optim_wrapper.optimizer.lr": 0.3})
    cfg.dump(tmp_path / "dumped.py")
    monkeypatch.chdir(tmp_path)
    again = load_config(tmp_path / "dumped.py")
    assert again.to_dict() == cfg.to_dict()
    again.dump(tmp_path / "twice.py")
    assert (tmp_path / "twice.py").read_text() == (tmp_path / "dumped.py").read_text()


@pytest.fixture
def own_module(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config whose teacher's config names a module of the user's."""
    (tmp_path / "my_teachers_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    teacher = "custom_imports = dict(imports=['my_teachers_module'])\n" + (tiny.folder / "teacher.py").read_text()
    (tmp_path / "teacher.py").write_text(teacher)
    return tiny.load("distill", {"distill.teachers.0.config": str(tmp_path / "teacher.py")})


def test_modules_of_the_users_are_imported_where_a_config_arrives(
    own_module: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what only the teacher's config names, and also in a process that did not read that file."""
    assert "custom_imports" not in own_module and "my_teachers_module" in sys.modules
    arrivals: list[Callable[[], object]] = [
        lambda: load_config(own_module),
        lambda: with_overrides(own_module, {}),
        lambda: import_custom_modules(own_module),
    ]
    for arrive in arrivals:
        monkeypatch.delitem(sys.modules, "my_teachers_module")
        arrive()
        assert "my_teachers_module" in sys.modules


def test_a_module_that_is_not_there(tiny: Tiny) -> None:
    own = {"+custom_imports": {"imports": ["no_such_module"]}}
    with pytest.raises(UserError, match="custom_imports: Failed to import no_such_module; its folder must be in"):
        tiny.load("distill", own)


def test_the_parsed_section_says_what_the_config_says(tiny: Tiny) -> None:
    """Also of what loading fills in (models, whole paths), and after each change; what was before stays as it was."""
    run = load_run(tiny.folder / "distill.py", shortcuts=Shortcuts(data_root=str(tiny.data_root)))
    assert run.distillation.teachers[0].model and run.distill == distill_spec(run.cfg)
    assert run.distillation.teachers[0].checkpoint == str(tiny.folder / "teacher" / "best.pth")

    changed = run.with_overrides({"distill.losses.logits.tau": 2.0, "distill.losses.hidden": None})
    assert list(changed.distillation.losses) == ["logits"] and changed.distillation.losses["logits"].params["tau"] == 2
    assert changed.distill == distill_spec(changed.cfg) and run.distill == distill_spec(run.cfg)
    assert run.distillation.losses["logits"].params["tau"] == 1

    seeded = run.with_section("randomness", dict(seed=7))
    assert seeded.cfg.randomness.seed == 7 and "randomness" not in run.cfg and seeded.distill == run.distill
    alone = run.without_distillation()
    assert alone.distill is None and "distill" not in alone.cfg and "distill" in run.cfg
    assert LoadedConfig.of(run) is run


def test_a_config_brings_the_scope_that_its_names_are_of(tiny: Tiny) -> None:
    """A process that is sent a config may have mmengine's scope, where mmseg's transforms and losses have no name."""
    cfg = tiny.load("student")
    with DefaultScope.overwrite_default_scope("mmengine"):
        assert [split.problem is None for split in data_splits(cfg)] == [False, False]
        import_custom_modules(cfg)
        assert [len(split.entries) for split in data_splits(cfg)] == [NUM_TRAIN, NUM_VAL]
        assert data_classes(cfg, "val") == [("background", "optic disc")]
        assert len(tiny_batch(cfg, 2, 0)["inputs"]) == 2
        train, _ = data_splits(cfg)
        sizes = {"train": {entry["img_path"]: (48, 48) for entry in train.entries}}
        assert check_batches(cfg, sizes) == []
        assert type(build_segmentor(cfg.model).decode_head.loss_decode).__name__ == "CrossEntropyLoss"


def test_a_plain_config_has_no_distill_spec(tiny: Tiny) -> None:
    assert distill_spec(tiny.load("student")) is None
    shortcuts = Shortcuts(data_root=str(tiny.data_root))
    cfg = load_config(tiny.folder / "distill.py", shortcuts=shortcuts, with_teachers=False)
    assert cfg.get("distill") is None


def test_paddleseg_layout_gives_the_same_batches(
    tiny: Tiny, paddleseg_root: Path, stream_batches: Callable[..., Any], same_batches: Callable[..., bool]
) -> None:
    by_folder, by_list = tiny.load("student"), tiny.load("student", data_root=str(paddleseg_root))
    assert by_list.train_dataloader.dataset.type == "PaddleSegDataset"
    assert by_list.train_dataloader.dataset.ann_file == "train_list.txt"
    assert by_list.val_dataloader.dataset.ann_file == "val_list.txt"
    first, second = (stream_batches(cfg, 4) for cfg in (by_folder, by_list))
    assert same_batches(first, second)
    names = {Path(sample.img_path).parent.name for batch in second for sample in batch["data_samples"]}
    assert names == {"JPEGImages"} and NUM_TRAIN > 2  # more than one batch, so that the order counts


def test_a_bad_line_of_a_list_file(tiny: Tiny, paddleseg_root: Path, stream_batches: Callable[..., Any]) -> None:
    (paddleseg_root / "train_list.txt").write_text("JPEGImages/a.jpg Annotations/a.png\nJPEGImages/b.jpg\n")
    with pytest.raises(UserError, match=r"train_list\.txt:2: must be `IMAGE MASK`, got 'JPEGImages/b\.jpg'"):
        stream_batches(tiny.load("student", data_root=str(paddleseg_root)), 1)


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("a=.nan", "--set a: must be a finite number, got nan"),
        ("a=[1, {b: .nan}]", "--set a.1.b: must be a finite number, got nan"),
        ("a={1, 2}", "--set a: must be text, a number, true, false, null, or a list or mapping of them, got {1, 2}"),
        ("a=b'x'", "--set a: must be text, a number, true, false, null, or a list or mapping of them, got b'x'"),
        ("a={b: 1, b: 2}", "--set a={b: 1, b: 2}: the value is neither a Python nor a YAML literal: the key 'b' is"),
        ("a={[]: 1}", "--set a={[]: 1}: the value is neither a Python nor a YAML literal: a list or a mapping cannot"),
        ("a=" + "[" * 500, "--set a=[[[[["),
        ("a=" + "9" * 5000, "--set a=99999"),
        ("a=\0", "--set a=\\x00: the value is neither a Python nor a YAML literal: '\\x00' may not stand in it"),
        (
            "a=\udc80",
            "--set a=\\udc80: the value is neither a Python nor a YAML literal: '\\udc80' may not stand in it",
        ),
        ("a=0x" + "f" * 20, "--set a: must be a whole number of at most 64 bits, got 1208925819614629174706175"),
    ],
)
def test_an_assignment_that_is_no_plain_value_is_one_line(assignment: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_assignments([assignment])
    (line,) = caught.value.problems
    assert line.startswith(problem)


@pytest.mark.parametrize("pair", [[], [[]], [[0, 1], [0]], [0], [0, 1, 2], [[0, 1], 2], 3, "ab", [0, True], {}])
def test_a_pair_of_another_shape_is_one_line(tiny: Tiny, pair: object) -> None:
    with pytest.raises(UserError) as caught:
        tiny.load("distill", {"distill.losses.hidden": {"type": "CWD", "pair": pair}})
    (line,) = caught.value.problems
    assert "distill.losses.hidden.pair: must be a pair of feature indices such as [1, 1], or for a loss over" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "much"])
def test_a_learning_rate_is_a_finite_number(tiny: Tiny, value: object) -> None:
    with pytest.raises(UserError, match=r"optim_wrapper.optimizer.lr: must be a (finite )?number, got"):
        tiny.load("distill", {"optim_wrapper.optimizer.lr": value})
