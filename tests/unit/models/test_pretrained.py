"""Files of weights that a config names: no door of mmengine's runs the code that they may carry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from rdistill.checks.run import Report, check_run
from rdistill.core.errors import UserError
from rdistill.models.checkpoint import load_weights
from rdistill.models.pretrained import local_file, pretrained_files, pretrained_problems, safe_loading, start_weights
from rdistill.models.segmentor import MODELS, build_segmentor
from rdistill.training.run import train

URL = "https://nowhere.invalid/weights.pth"  # RFC 6761: no such host is ever found


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def harmful(tmp_path: Path, ran: Path, tiny_without_teacher: Tiny) -> Path:
    """The backbone's weights, with code beside them that makes the file ``ran``."""
    backbone = build_segmentor(tiny_without_teacher.load("student").model).backbone
    file = tmp_path / "harmful.pth"
    torch.save({"state_dict": backbone.state_dict(), "meta": Touch(ran)}, file)
    return file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def in_each_place(file: Path | str) -> dict[str, dict[str, Any]]:
    """Overrides that name a file of weights, by the place where they do."""
    init = dict(type="Pretrained", checkpoint=str(file))
    override = dict(type="Normal", std=0.01, override={**init, "name": "conv_seg"})
    return {
        "pretrained": {"model.pretrained": str(file)},
        "backbone": {"+model.backbone.init_cfg": init},
        "head": {"+model.decode_head.init_cfg": [dict(type="Normal", layer="Conv2d"), init]},
        "segmentor": {"+model.init_cfg": {**init, "type": "mmengine.Pretrained"}},
        "override": {"+model.decode_head.init_cfg": override},
    }


# ---------------------------------------------------------------------------------------------------------
# Code in a file of weights


@pytest.mark.parametrize("place", ["pretrained", "backbone", "head"])
def test_a_run_does_not_run_it(
    tiny_without_teacher: Tiny, harmful: Path, ran: Path, tmp_path: Path, place: str
) -> None:
    cfg = tiny_without_teacher.load("student", in_each_place(harmful)[place], iters=2)
    for check in (True, False):  # a run, then a trial of a sweep
        with pytest.raises(UserError) as caught:
            train(cfg, tmp_path / f"run{check}", check=check)
        (problem,) = caught.value.problems
        assert str(harmful) in problem and "system" in problem and "--trust-checkpoint" in problem
        assert not ran.exists()


@pytest.mark.parametrize("place", list(in_each_place("")))
def test_a_check_names_the_key(tiny_without_teacher: Tiny, harmful: Path, ran: Path, place: str) -> None:
    overrides = in_each_place(harmful)[place]
    report = check_run(tiny_without_teacher.load("student", overrides))
    (problem,) = report.problems
    assert problem.startswith(next(iter(overrides)).removeprefix("+")) and "Python code" in problem
    assert not ran.exists()


def test_with_trust_it_is_loaded(tiny_without_teacher: Tiny, harmful: Path, ran: Path, tmp_path: Path) -> None:
    cfg = tiny_without_teacher.load("student", {"model.pretrained": str(harmful)}, iters=2)
    train(cfg, tmp_path / "run", trust_checkpoint=True)
    assert ran.exists()


def test_the_start_of_a_student(tiny_without_teacher: Tiny, harmful: Path, ran: Path, tmp_path: Path) -> None:
    cfg = tiny_without_teacher.load("student", {"+load_from": str(harmful)}, iters=2)
    with pytest.raises(UserError, match="Python code"):
        train(cfg, tmp_path / "run")
    (problem,) = check_run(cfg).problems
    assert "Python code" in problem and not ran.exists()


@pytest.mark.parametrize(
    "name",
    [
        "{file}",
        "file://{file}",
        "https://example.com/harmful.pth",
        "open-mmlab://resnet50_v1c",
        "openmmlab://resnet50_v1c",
        "mmcls://mobilenet_v2",
    ],
)
def test_each_of_mmengines_schemes(harmful: Path, ran: Path, hub: Path, name: str) -> None:
    """Of what is downloaded already, under the names that mmengine's own loaders give it."""
    for cached in ("harmful.pth", "resnet50_v1c-2cccc1ad.pth", "mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth"):
        (hub / cached).write_bytes(harmful.read_bytes())
    for load in (CheckpointLoader.load_checkpoint, lambda name: load_checkpoint(nn.Linear(1, 1), name)):
        with pytest.raises(UserError, match="Python code"):
            load(name.format(file=harmful))
    assert not ran.exists()


def test_a_model_that_loads_by_itself(harmful: Path, ran: Path) -> None:
    """Some call torch.load unsafely of their own accord: when they are built, or initialised."""

    @MODELS.register_module()
    class LoadsItself(nn.Module):
        decode_head = None

        def __init__(self) -> None:
            super().__init__()
            torch.load(harmful, weights_only=False)

    try:
        with pytest.raises(UserError, match=r"WeightsUnpickler|Weights only load failed"):
            build_segmentor(dict(type="LoadsItself"))
        assert not ran.exists()
        build_segmentor(dict(type="LoadsItself"), trust_checkpoint=True)
        assert ran.exists()
    finally:
        MODELS.module_dict.pop("LoadsItself")


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(names[1], before)
    with safe_loading():
        assert [os.environ.get(name) for name in names] == ["1", None]
    assert [os.environ.get(name) for name in names] == [None, before]


# ---------------------------------------------------------------------------------------------------------
# What is sound is loaded


def test_pretrained_weights_are_the_students(tiny_without_teacher: Tiny, tmp_path: Path) -> None:
    cfg = tiny_without_teacher.load("student")
    source = build_segmentor(cfg.model)
    torch.save({"state_dict": source.backbone.state_dict()}, tmp_path / "backbone.pth")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "whole.pth")
    whole = dict(type="Pretrained", checkpoint=str(tmp_path / "whole.pth"), prefix="backbone.")
    for overrides in ({"model.pretrained": str(tmp_path / "backbone.pth")}, {"+model.backbone.init_cfg": whole}):
        model_cfg = tiny_without_teacher.load("student", overrides).model
        assert pretrained_problems(model_cfg)[0] == []
        student = build_segmentor(model_cfg)
        with safe_loading():
            student.init_weights()
        actual, expected = student.backbone.state_dict(), source.backbone.state_dict()
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_where_files_are_named() -> None:
    init = dict(type="Pretrained", checkpoint="b", prefix="backbone.")
    model = Config(dict(model=dict(pretrained="a", auxiliary_head=[dict(init_cfg=[dict(type="Normal"), init])]))).model
    files = {key: dict(entry) for key, entry in pretrained_files(model, "model")}
    assert files == {"model.pretrained": {"checkpoint": "a"}, "model.auxiliary_head.0.init_cfg.1.checkpoint": init}
    assert list(pretrained_files(dict(pretrained=True, backbone=dict(init_cfg=None)), "model")) == []


# ---------------------------------------------------------------------------------------------------------
# What cannot be used, found before training


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", [URL, "open-mmlab://resnet50_v1c", "mmcls://mobilenet_v2"])
def test_without_a_network(tiny_without_teacher: Tiny, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens: as good as no network
    report = check_run(tiny_without_teacher.load("student", {"model.pretrained": name}))
    (problem,) = report.problems
    assert problem.startswith(f"model.pretrained: {name}") and "cannot be reached" in problem and "\n" not in problem
    assert "--set model.pretrained=FILE" in problem and "--set model.pretrained=None" in problem
    with pytest.raises(UserError, match=r"load_from: .* cannot be reached"):
        start_weights(nn.Linear(1, 1), name)


def test_what_is_in_the_cache_needs_no_network(hub: Path) -> None:
    torch.save({"a": torch.ones(1)}, hub / "weights.pth")
    assert local_file(URL) == hub / "weights.pth"
    assert CheckpointLoader.load_checkpoint(URL)["a"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("open-mmlab://resnet50_v1", "there is no model of that name; did you mean 'resnet50_v1"),
        ("no/such.pth", "no such checkpoint file"),
    ],
)
def test_names_that_stand_for_nothing(entry: str, says: str) -> None:
    problems, _ = pretrained_problems({"backbone": {"init_cfg": {"type": "Pretrained", "checkpoint": entry}}})
    (problem,) = problems
    assert problem.startswith("model.backbone.init_cfg.checkpoint: ") and says in problem
    assert "--set model.backbone.init_cfg=None" in problem


def test_a_prefix_that_no_weight_has(tmp_path: Path) -> None:
    torch.save({"backbone.conv.weight": torch.ones(1)}, tmp_path / "a.pth")
    entry = dict(type="Pretrained", checkpoint=str(tmp_path / "a.pth"), prefix="decode_head")
    (problem,) = pretrained_problems({"decode_head": {"init_cfg": entry}})[0]
    assert "no weight that begins with the prefix 'decode_head'" in problem


def test_a_file_of_another_model(tiny_without_teacher: Tiny, tmp_path: Path) -> None:
    """mmengine leaves out what does not fit, and says so in a log at most."""
    source = build_segmentor(tiny_without_teacher.load("student").model)
    file, weights = tmp_path / "a.pth", source.backbone.state_dict()
    count = sum(not name.endswith("num_batches_tracked") for name in weights)
    first = next(iter(weights))

    def checked(weights: dict[str, Any], **entry: str) -> Report:
        torch.save({"state_dict": weights}, file)
        init = dict(type="Pretrained", checkpoint=str(file), **entry)
        return check_run(tiny_without_teacher.load("student", {"+model.backbone.init_cfg": init}))

    (problem,) = checked({"conv.weight": torch.ones(1)}).problems
    assert problem.startswith(f"model.backbone.init_cfg.checkpoint: {file}: none of its weights fits model.backbone")
    assert f"model.backbone has {first}, the file has conv.weight" in problem
    (problem,) = checked({f"backbone.{name}": value for name, value in weights.items()}).problems
    assert problem.endswith("; set prefix='backbone.'")
    (problem,) = checked({name: torch.ones(1, 2, 3) for name in weights}).problems
    assert f"{first} has another shape" in problem

    some = checked({f"module.{name}": value for name, value in weights.items() if name != first})
    loaded = f"{count - 1} of {count} weights of model.backbone loaded from {file} (not {first})"
    assert some.problems == [] and f"model.backbone.init_cfg.checkpoint: {loaded}" in some.notes
    whole = checked({f"backbone.{name}": value for name, value in weights.items()}, prefix="backbone.")
    assert whole.problems == [] and not [note for note in whole.notes if "loaded from" in note]


@pytest.mark.parametrize(
    ("value", "says"),
    [(torch.tensor([1.0, torch.nan]), "holds NaN"), (torch.tensor([1 + 2j]), "is complex")],
)
def test_weights_that_would_do_harm(tmp_path: Path, value: torch.Tensor, says: str) -> None:
    torch.save({"conv.weight": value}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"conv.weight {says}"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))


def test_evaluation_of_a_student_needs_no_pretrained_file(tiny_without_teacher: Tiny, tmp_path: Path) -> None:
    """Its checkpoint holds everything: what it started from may be gone by then."""
    cfg = tiny_without_teacher.load("student", {"model.pretrained": str(tmp_path / "gone.pth")})
    model = build_segmentor(cfg.model)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
