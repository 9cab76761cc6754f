"""rdistill's own kinds: a config of mmseg as ever, and a network of the user's as a teacher in a config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny

from rdistill.config.load import LoadedConfig, Shortcuts, load_config, load_run, with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.teachers import TEACHERS
from rdistill.teachers.own import IMAGENET_MEAN, IMAGENET_STD

NETWORK = """
import torch
from torch import nn

def build(width=4):
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2, 1))
"""


@pytest.fixture
def config(tiny_without_teacher: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config whose teacher is a network of a module."""
    (tmp_path / "own_teacher.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_teacher", raising=False)
    file = tmp_path / "module.py"
    file.write_text(
        f"_base_ = ['{tiny_without_teacher.folder}/student.py']\n"
        "distill = dict(\n"
        "    teachers=[dict(type='module', build='own_teacher:build', num_classes=2, arguments=dict(width=6))],\n"
        "    features=dict(student=['backbone.layer4'], teacher=['backbone.network.0']),\n"
        "    losses=dict(logits=dict(type='KL'), hidden=dict(type='CWD', pair=(0, 0))),\n)\n"
    )
    return file


def test_what_they_are() -> None:
    assert {name: TEACHERS[name].fusible for name in TEACHERS if TEACHERS.is_own(name)} == {
        "mmseg": True, "module": False, "hf": False, "timm": False, "onnx": False,
    }  # fmt: skip


def loaded(config: Path, tiny: Tiny, overrides: dict[str, Any] | None = None) -> LoadedConfig:
    return load_run(config, overrides, Shortcuts(data_root=str(tiny.data_root), size="32", batch_size=2))


def test_a_network_teaches(config: Path, tiny_without_teacher: Tiny) -> None:
    run = loaded(config, tiny_without_teacher)
    assert run.distill is not None
    spec = run.distill.teacher(0)
    assert (spec.type, spec.params["arguments"], spec.checkpoint) == ("module", {"width": 6}, None)
    assert run.cfg.distill.teachers[0].model.backbone.type == "ModuleNetwork"
    assert run.cfg.distill.teachers[0].forward == "plain"  # its norms need not follow their convolutions
    distiller = build_distiller(run, seed=0)
    (teacher,) = distiller.teachers
    student, network = distiller.student.data_preprocessor, teacher.model.backbone.network
    inputs = torch.randn(2, 3, 32, 32)  # what the student's preprocessor gives
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    own = (inputs * student.std + student.mean - mean) / std
    outputs = teacher(inputs)
    assert torch.allclose(outputs["backbone.network.0"], network[0](own), atol=1e-4)
    assert torch.allclose(outputs["decode_head"], network(own), atol=1e-4)


def test_a_loaded_config_stays_as_it_is(config: Path, tiny_without_teacher: Tiny, tmp_path: Path) -> None:
    """As `config.py` of a run repeats it, and as a trial of a sweep changes it."""
    run = loaded(config, tiny_without_teacher)
    run.cfg.dump(tmp_path / "config.py")
    assert load_run(tmp_path / "config.py").distill == run.distill
    changed = with_overrides(run.cfg, {"distill.losses.logits.weight": 5.0})
    assert changed.distill.teachers == run.cfg.distill.teachers


def test_what_a_model_is_made_of_makes_another_model(
    config: Path, tiny_without_teacher: Tiny, tiny: Tiny, tmp_path: Path
) -> None:
    """Of a run's own `config.py` too, which holds the model; afterwards it cannot change, as in a sweep."""
    run = loaded(config, tiny_without_teacher)
    run.cfg.dump(tmp_path / "config.py")
    again = load_run(tmp_path / "config.py", {"distill.teachers.0.arguments.width": 9})
    assert again.cfg.distill.teachers[0].model.backbone.arguments.width == 9
    text = "the teacher's model is made of it when the config is loaded, and does not change with it afterwards"
    with pytest.raises(UserError, match=f"^distill.teachers.0.arguments.width: {text}"):
        with_overrides(run.cfg, {"distill.teachers.0.arguments.width": 9})
    with pytest.raises(UserError, match=f"^distill.teachers.0.config: {text}"):
        with_overrides(tiny.load("distill"), {"distill.teachers.0.config": "b.py"})
    assert with_overrides(run.cfg, {"+distill.teachers.0.weight": 2.0}).distill.teachers[0].weight == 2.0


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("type", "modul", "distill.teachers[0].type: no teacher kind 'modul'; did you mean 'module'?"),
        (
            "+buidl", "a:b",
            "distill.teachers[0].buidl is not a parameter: a teacher of kind module takes build, num_classes, rgb, "
            "mean, std, arguments, logits; did you mean 'build'?",
        ),
        ("num_classes", 0, "distill.teachers[0].num_classes must be a whole number >= 1, got 0"),
        ("+ema_decay", 0.9, "`ema_decay` makes the student its own teacher: no type beside it"),
        ("build", None, "distill.teachers[0].build must be a text, got None"),
        ("+checkpoint", "gone.pth", "distill.teachers[0].checkpoint: no such file gone.pth; pass --teacher-checkpoint"),
    ],
)  # fmt: skip
def test_mistakes(config: Path, tiny_without_teacher: Tiny, key: str, value: Any, problem: str) -> None:
    name = f"{'+' if key[0] == '+' else ''}distill.teachers.0.{key.lstrip('+')}"
    with pytest.raises(UserError) as caught:
        loaded(config, tiny_without_teacher, {name: value})
    assert [line for line in caught.value.problems if problem in line], caught.value.problems


def test_a_teacher_of_mmseg_has_the_keys_that_it_had(tiny: Tiny) -> None:
    data = Shortcuts(data_root=str(tiny.data_root))
    for key, problem in (
        ("+distill.teachers.0.build", "unknown key distill.teachers.0.build"),
        ("+distill.teachers.0.params", "`params` stand beside `type`, and a teacher of mmseg has none"),
    ):
        with pytest.raises(UserError, match=problem):
            load_config(tiny.folder / "distill.py", {key: {"a": 1}}, data)
    named = load_config(tiny.folder / "distill.py", {"+distill.teachers.0.type": "mmseg"}, data)
    plain = load_config(tiny.folder / "distill.py", shortcuts=data)
    assert {**named.distill.teachers[0], "type": ""} == {**plain.distill.teachers[0], "type": ""}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (dict(type="hf", path="./gone"), "path: no such folder ./gone, and it is no id of the hub"),
        (dict(type="timm", path="./gone"), "path: no such folder ./gone, and it is no id of the hub"),
        (
            dict(type="onnx", path="owner/model"),
            "path: no such file owner/model; name an ONNX file on this machine; none is downloaded from a hub",
        ),
        (dict(type="hf", path="folder", mean=[1], std=[1, 1, 1]), "mean: must be three numbers on a scale of 0 to 255"),
    ],
)
def test_a_teacher_of_a_library_is_refused_by_the_key_that_is_wrong(
    entry: dict[str, Any], problem: str, tiny_without_teacher: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text('{"architectures": ["SegformerForSemanticSegmentation"]}')
    file = tmp_path / "library.py"
    student, losses = f"{tiny_without_teacher.folder}/student.py", "losses=dict(logits=dict(type='KL'))"
    file.write_text(f"_base_ = ['{student}']\ndistill = dict(teachers=[{entry!r}], {losses})\n")
    with pytest.raises(UserError) as caught:
        loaded(file, tiny_without_teacher)
    (line,) = caught.value.problems
    assert line.startswith(f"{file}: distill.teachers[0].{problem}")


def test_a_network_that_does_not_build_is_named_as_the_teacher(config: Path, tiny_without_teacher: Tiny) -> None:
    run = loaded(config, tiny_without_teacher, {"distill.teachers.0.build": "own_teacher:nobody"})
    line = r"^teacher module: build: must be 'package.module:function', got 'own_teacher:nobody' "
    with pytest.raises(UserError, match=line):
        build_distiller(run, seed=0)
