"""The Distiller: a frozen teacher stays frozen, the student learns, and what counts is what the config says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from rdistill.config.distill_spec import distill_spec
from rdistill.core.errors import UserError
from rdistill.distill.distiller import Distiller, build_distiller, predicted_classes
from rdistill.distill.teacher import load_teacher_model
from rdistill.losses import functional
from rdistill.models.checkpoint import save_student
from rdistill.models.segmentor import build_segmentor, decode_heads, training_size

Batches = Callable[..., list[dict[str, Any]]]
Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
Snapshot = Callable[[nn.Module], dict[str, Tensor]]
CROSS_ENTROPY = "decode.loss_ce"


def optimizer_of(model: nn.Module, lr: float = 0.1) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9))


def step(distiller: Distiller, batch: dict[str, Any], optimizer: OptimWrapper) -> dict[str, Tensor]:
    """One training step as mmengine and our capture hook do it; returns what goes to the log."""
    distiller.train()
    with distiller.capture:
        return distiller.train_step(batch, optimizer)


def losses_of(distiller: Distiller, batch: dict[str, Any]) -> dict[str, Any]:
    """Every loss of one batch, before they are added up."""
    distiller.train()
    data = distiller.data_preprocessor(batch, training=True)
    with distiller.capture:
        return distiller(**data, mode="loss")


@pytest.fixture
def batch(tiny: Tiny, stream_batches: Batches) -> dict[str, Any]:
    return stream_batches(tiny.load("student"), 1)[0]


@pytest.fixture
def other_teacher(tiny: Tiny, tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Overrides of a distill config that put a changed teacher, with drawn weights, in the place of its own."""

    def make(overrides: dict[str, Any]) -> dict[str, Any]:
        cfg = tiny.load("teacher", overrides)
        cfg.dump(tmp_path / "other_teacher.py")
        torch.manual_seed(1)
        torch.save(build_segmentor(cfg.model).state_dict(), tmp_path / "other_teacher.pth")
        return {
            "distill.teachers.0.config": str(tmp_path / "other_teacher.py"),
            "distill.teachers.0.checkpoint": str(tmp_path / "other_teacher.pth"),
        }

    return make


# ---------------------------------------------------------------------------------------------------------
# The teacher


def test_the_teacher_is_never_in_training_mode(tiny: Tiny) -> None:
    distiller = build_distiller(tiny.load("distill"), seed=0)
    (teacher,) = distiller.teachers
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    distiller.train()
    assert not any(module.training for module in teacher.model.modules())
    first, second = teacher(images), teacher(images)
    assert all(torch.equal(first[name], second[name]) for name in first)
    dropouts = [module for module in teacher.model.modules() if isinstance(module, nn.Dropout2d)]
    for dropout in dropouts:
        dropout.train()
    assert dropouts and not torch.equal(teacher(images)["decode_head"], first["decode_head"])  # it would have shown


def test_the_teacher_is_in_no_optimizer_and_no_checkpoint(tiny: Tiny) -> None:
    distiller = build_distiller(tiny.load("distill"), seed=0)
    frozen = {id(tensor) for tensor in distiller.teachers[0].model.state_dict(keep_vars=True).values()}
    assert frozen.isdisjoint(id(parameter) for parameter in distiller.parameters())
    assert frozen.isdisjoint(id(tensor) for tensor in distiller.state_dict(keep_vars=True).values())
    assert {key.split(".")[0] for key in distiller.state_dict()} == {"student", "terms"}
    assert not any(parameter.requires_grad for parameter in distiller.teachers[0].model.parameters())


def test_the_teacher_is_loaded(tiny: Tiny, teacher_run: Any, state_equal: Equal) -> None:
    spec = distill_spec(tiny.load("distill"))
    assert spec is not None
    weights = {key.removeprefix("student."): value for key, value in teacher_run.weights("best.pth").items()}
    assert state_equal(load_teacher_model(spec.teachers[0]).state_dict(), weights)


def test_a_teacher_that_does_not_fit(tiny: Tiny, other_teacher: Callable[..., Any]) -> None:
    overrides = other_teacher(
        {
            "model.backbone.base_channels": 8,
            "model.decode_head.in_channels": 256,
            "model.decode_head.c1_in_channels": 32,
        }
    )
    overrides.pop("distill.teachers.0.checkpoint")
    with pytest.raises(UserError, match=r"best\.pth: does not fit the teacher \(EncoderDecoder\): \d+ misshapen: "):
        build_distiller(tiny.load("distill", overrides), seed=0)


@pytest.mark.parametrize("name", ["student", "distill"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_batch_that_is_wholly_ignored_teaches_the_head_nothing(
    tiny: Tiny, one_channel: dict[str, Any], batch: dict[str, Any], name: str, channels: int
) -> None:
    """The task's losses are zero, with gradients of zero for every parameter, as several workers need them."""
    distiller = build_distiller(tiny.load(name, one_channel if channels == 1 else None), seed=0)
    for sample in batch["data_samples"]:
        sample.gt_sem_seg.data.fill_(255)
    losses = losses_of(distiller, batch)
    of_task = {key: value for key, value in losses.items() if "decode.loss" in key}
    assert of_task and all(value.item() == 0 for value in of_task.values())
    sum(of_task.values()).backward(retain_graph=True)
    assert all(p.grad is not None and not p.grad.any() for p in distiller.student.parameters())
    total, _ = distiller.parse_losses(losses)
    total.backward()
    assert total.isfinite() and all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


def test_training_changes_the_student_and_not_the_teacher(
    tiny: Tiny, stream_batches: Batches, state_equal: Equal, snapshot: Snapshot
) -> None:
    cfg = tiny.load("distill")
    distiller = build_distiller(cfg, seed=0)
    teacher = distiller.teachers[0].model
    teacher_before, student_before = snapshot(teacher), snapshot(distiller.student)
    optimizer = optimizer_of(distiller)
    for batch in stream_batches(cfg, 2):
        step(distiller, batch, optimizer)
    assert state_equal(snapshot(teacher), teacher_before)  # weights, BatchNorm statistics and counters
    for key, parameter in distiller.student.named_parameters():
        assert not torch.equal(parameter, student_before[key]), key


@pytest.mark.parametrize("name", ["logits", "hidden"])
def test_gradients_reach_the_student_alone(tiny: Tiny, batch: dict[str, Any], name: str) -> None:
    distiller = build_distiller(tiny.load("distill"), seed=0)
    losses_of(distiller, batch)[f"distill.loss_{name}"].backward()
    assert all(parameter.grad is None for parameter in distiller.teachers[0].model.parameters())
    for key, parameter in distiller.student.named_parameters():
        reached = name == "logits" or key.startswith("backbone")
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == reached, key
    adapter = distiller.terms["hidden"].adapter.project.weight.grad
    assert (adapter is not None and bool(adapter.abs().sum() > 0)) == (name == "hidden")


def test_the_distillation_loss_alone_trains_the_student(tiny: Tiny, stream_batches: Batches) -> None:
    cfg = tiny.load("distill", {"distill.task_weight": 0.0, "distill.losses": {"logits": {"type": "KL"}}})
    distiller = build_distiller(cfg, seed=0)
    optimizer = optimizer_of(distiller, lr=0.02)
    (batch,) = stream_batches(cfg, 1)
    logs = [step(distiller, batch, optimizer) for _ in range(8)]
    assert float(logs[-1]["raw/logits"]) < float(logs[0]["raw/logits"])
    assert float(logs[0]["loss"]) == float(logs[0]["distill.loss_logits"])  # nothing of the task


@pytest.mark.parametrize(
    "changed", [{"mean": [10.0, 20.0, 30.0], "std": [50.0, 60.0, 70.0]}, {"bgr_to_rgb": False}, {}], ids=str
)
def test_the_teacher_sees_images_as_its_own_preprocessor_makes_them(
    tiny: Tiny, batch: dict[str, Any], other_teacher: Callable[..., Any], changed: dict[str, Any]
) -> None:
    teacher = other_teacher({f"model.data_preprocessor.{key}": value for key, value in changed.items()})
    features = {"distill.features.teacher": ["backbone:input"], "distill.features.student": ["backbone:input"]}
    losses = {"distill.losses": {"images": {"type": "L2", "pair": (0, 0)}}}
    distiller = build_distiller(tiny.load("distill", {**teacher, **features, **losses}), seed=0)
    seen = distiller.teachers[0](distiller.data_preprocessor(batch, training=True)["inputs"])["backbone:input"]
    bgr = torch.stack(batch["inputs"]).float()
    own = {"bgr_to_rgb": True, "mean": [127.5] * 3, "std": [127.5] * 3, **changed}
    mean, std = (torch.tensor(own[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(seen, ((bgr.flip(1) if own["bgr_to_rgb"] else bgr) - mean) / std, rtol=1e-5, atol=1e-5)
    assert (float(losses_of(distiller, batch)["raw/images"]) == 0) == (not changed)


# ---------------------------------------------------------------------------------------------------------
# The student


def test_the_seed_alone_decides_the_students_weights(tiny: Tiny, state_equal: Equal) -> None:
    def weights(name: str, seed: int, **overrides: Any) -> dict[str, Tensor]:
        return build_distiller(tiny.load(name, overrides), seed=seed).student.state_dict()

    alone = weights("student", 3)
    assert state_equal(weights("distill", 3), alone)
    torch.rand(5)
    assert state_equal(weights("distill", 3, **{"distill.losses": {"a": {"type": "MGD", "pair": (0, 2)}}}), alone)
    changed = weights("distill", 4)
    assert not torch.equal(changed["backbone.layer4.0.conv1.weight"], alone["backbone.layer4.0.conv1.weight"])


def test_weight_zero_is_plain_training(tiny: Tiny, stream_batches: Batches, state_equal: Equal) -> None:
    """Against mmseg itself: the same student without the Distiller, over the same batches and dropout."""
    cfg = tiny.load("distill", {"distill.losses.logits.weight": 0.0, "distill.losses.hidden.weight": 0.0})
    distiller, plain = build_distiller(cfg, seed=0), build_distiller(tiny.load("student"), seed=0).student
    assert state_equal(distiller.student.state_dict(), plain.state_dict())
    distilling, plain_one = optimizer_of(distiller), optimizer_of(plain)
    for draw, batch in enumerate(stream_batches(cfg, 3)):
        torch.manual_seed(draw)
        ours_log = step(distiller, batch, distilling)
        torch.manual_seed(draw)
        plain.train()
        theirs_log = plain.train_step(batch, plain_one)
        assert torch.equal(ours_log["loss"], theirs_log["loss"])
    assert state_equal(distiller.student.state_dict(), plain.state_dict())


def test_prediction_is_the_students(tiny: Tiny, batch: dict[str, Any]) -> None:
    distiller = build_distiller(tiny.load("distill"), seed=0).eval()
    with torch.no_grad():
        predicted, plain = distiller.val_step(batch), distiller.student.val_step(batch)
    assert all(torch.equal(a.seg_logits.data, b.seg_logits.data) for a, b in zip(predicted, plain, strict=True))


# ---------------------------------------------------------------------------------------------------------
# What is added up


def test_total_loss(tiny: Tiny, batch: dict[str, Any]) -> None:
    """Also with terms called after losses: mmengine adds up every key that contains "loss"."""
    losses = {
        "my_loss": {"type": "KL", "weight": 3.0},
        "loss": {"type": "CWD", "pair": (1, 1), "weight": 7.0},
        "free": {"type": "AT", "pair": (0, 0), "weight": 0.0},
    }
    distiller = build_distiller(tiny.load("distill", {"distill.task_weight": 0.25, "distill.losses": losses}), seed=0)
    torch.manual_seed(0)
    values = losses_of(distiller, batch)
    total, logs = distiller.parse_losses(values)
    torch.manual_seed(0)
    plain = distiller.student.loss(**distiller.data_preprocessor(batch, training=True))
    assert torch.equal(values[CROSS_ENTROPY], plain[CROSS_ENTROPY] * 0.25)
    assert torch.equal(values["decode.acc_seg"], plain["decode.acc_seg"])  # a share, not a loss
    raw = {name: logs[f"raw/{name}"] for name in losses}
    assert all(value > 0 and not value.requires_grad for value in raw.values())
    for name, loss in losses.items():
        assert torch.equal(logs[f"distill.loss_{name}"], raw[name] * loss["weight"])
    expected = 0.25 * plain[CROSS_ENTROPY] + 3.0 * raw["my_loss"] + 7.0 * raw["loss"]
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert torch.equal(total, logs["loss"])


def test_a_logits_loss_is_that_of_the_two_heads(tiny: Tiny, batch: dict[str, Any]) -> None:
    distiller = build_distiller(tiny.load("distill"), seed=0)
    data = distiller.data_preprocessor(batch, training=True)
    label = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]])
    torch.manual_seed(0)
    actual = losses_of(distiller, batch)["raw/logits"]
    torch.manual_seed(0)
    with torch.no_grad():
        student = distiller.student.train()
        student_logits = student.decode_head.forward(student.extract_feat(data["inputs"]))
        teacher = distiller.teachers[0].model
        teacher_logits = teacher.decode_head.forward(teacher.extract_feat(data["inputs"]))
    student_logits, teacher_logits = (
        nn.functional.interpolate(logits, size=(32, 32), mode="bilinear") for logits in (student_logits, teacher_logits)
    )
    expected = functional.kl(student_logits, teacher_logits, mask=label != 255, tau=1.0, per_class=True)
    torch.testing.assert_close(actual, expected)


def test_classes_that_differ_are_an_error(tiny: Tiny, other_teacher: Callable[..., Any]) -> None:
    overrides = other_teacher({"model.decode_head.num_classes": 3})
    with pytest.raises(UserError, match=r"distill\.losses\.logits: KL: .*student of 2 and a teacher of 3"):
        build_distiller(tiny.load("distill", overrides), seed=0)
    features_only = {**overrides, "distill.losses": {"hidden": {"type": "CWD", "pair": (1, 1)}}}
    assert list(build_distiller(tiny.load("distill", features_only), seed=0).terms) == ["hidden"]


# ---------------------------------------------------------------------------------------------------------
# Two classes in one channel


def losses_between(*on_logits: str) -> dict[str, Any]:
    memory = {"type": "CIRKDMemory", "pixel_queue_size": 64, "region_queue_size": 16}
    pairs = ({"type": "IFVD"}, memory, {"type": "CIRKD"})
    logits = {name.lower(): {"type": name} for name in on_logits}
    return logits | {loss["type"].lower(): {**loss, "pair": (1, 1)} for loss in pairs}


@pytest.mark.parametrize("student_one", [True, False])
@pytest.mark.parametrize("teacher_one", [True, False])
def test_two_classes_in_one_channel(
    tiny: Tiny,
    stream_batches: Batches,
    other_teacher: Callable[..., Any],
    one_channel: dict[str, Any],
    student_one: bool,
    teacher_one: bool,
) -> None:
    """Every loss on logits trains a student of one channel under a teacher of one or two, and the reverse."""
    overrides = {**(one_channel if student_one else {}), **(other_teacher(one_channel) if teacher_one else {})}
    overrides["distill.losses"] = losses_between("KL", "DKD", "DIST", "CWD", "L1", "L2", "DSD")
    cfg = tiny.load("distill", overrides)
    distiller = build_distiller(cfg, seed=0)
    optimizer = optimizer_of(distiller, lr=1e-3)
    for batch in stream_batches(cfg, 3):
        assert {0, 1} <= {int(x) for sample in batch["data_samples"] for x in sample.gt_sem_seg.data.unique()}
        logs = step(distiller, batch, optimizer)
        assert all(value.isfinite().all() for value in logs.values())
        assert all(logs[f"raw/{name}"] > 0 for name in distiller.terms)
    memory = distiller.terms["cirkdmemory"].module
    assert memory.num_classes == 2 and memory.regions.written[0] == 6
    assert memory.regions.written[1] > 0  # the foreground, where a picture has any left at 4 x 4


def test_a_softmax_loss_of_one_channel_is_that_of_the_sigmoids(
    tiny: Tiny, batch: dict[str, Any], one_channel: dict[str, Any]
) -> None:
    cfg = tiny.load("distill", {**one_channel, "distill.losses": {"logits": {"type": "KL", "at": "logits"}}})
    distiller = build_distiller(cfg, seed=0)
    distiller.train()
    data = distiller.data_preprocessor(batch, training=True)
    with distiller.capture:
        actual = distiller(**data, mode="loss")["raw/logits"]
        z = distiller.capture["decode_head"].detach()
    assert z.shape[1] == 1
    p = distiller.teachers[0](data["inputs"])["decode_head"].softmax(dim=1)[:, 1:]
    expected = nn.functional.binary_cross_entropy_with_logits(z, p) - nn.functional.binary_cross_entropy(p, p)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_cosine_on_one_channel_is_refused(tiny: Tiny, one_channel: dict[str, Any]) -> None:
    cfg = tiny.load("distill", {**one_channel, "distill.losses": {"logits": {"type": "Cosine"}}})
    with pytest.raises(UserError, match=r"distill\.losses\.logits: Cosine: logits of one channel"):
        build_distiller(cfg, seed=0)


def test_the_mean_of_teachers_of_one_and_of_two_channels(
    tiny: Tiny, batch: dict[str, Any], other_teacher: Callable[..., Any], one_channel: dict[str, Any]
) -> None:
    """The mean of what each says of class 1 over class 0: one tensor would otherwise be spread over the other."""
    second = other_teacher(one_channel)
    teachers = [
        {"config": str(tiny.folder / "teacher.py"), "checkpoint": str(tiny.folder / "teacher" / "best.pth")},
        {name: second[f"distill.teachers.0.{name}"] for name in ("config", "checkpoint")},
    ]
    losses = {"logits": {"type": "L2", "teacher": "mean", "at": "logits"}}
    distiller = build_distiller(tiny.load("distill", {"distill.teachers": teachers, "distill.losses": losses}), seed=0)
    distiller.train()
    data = distiller.data_preprocessor(batch, training=True)
    with distiller.capture:
        actual = distiller(**data, mode="loss")["raw/logits"]
        student_logits = distiller.capture["decode_head"].detach()
    of_two, of_one = (teacher(data["inputs"])["decode_head"] for teacher in distiller.teachers)
    assert (of_two.shape[1], of_one.shape[1]) == (2, 1)
    mean = (of_two[:, 1:] - of_two[:, :1] + of_one) / 2
    torch.testing.assert_close(actual, (student_logits[:, 1:] - student_logits[:, :1] - mean).square().mean())


def test_the_mean_of_teachers_of_other_classes_is_refused(tiny: Tiny, other_teacher: Callable[..., Any]) -> None:
    second = other_teacher({"model.decode_head.num_classes": 3})
    teachers = [
        {"config": str(tiny.folder / "teacher.py"), "checkpoint": str(tiny.folder / "teacher" / "best.pth")},
        {name: second[f"distill.teachers.0.{name}"] for name in ("config", "checkpoint")},
    ]
    losses = {"logits": {"type": "KL", "teacher": "mean"}}
    cfg = tiny.load("distill", {"distill.teachers": teachers, "distill.losses": losses})
    with pytest.raises(UserError, match=r"distill\.losses\.logits\.teacher: .* same classes, got 2, 3; give each"):
        build_distiller(cfg, seed=0)


def test_wrong_layers_are_all_named(tiny: Tiny) -> None:
    features = {
        "distill.features.student": ["backbone.layre3", "backbone.layer4", "decode_head.bottleneck"],
        "distill.features.teacher": ["backbone.layer3", "backbone.layer4", "decode_haed.bottleneck"],
    }
    with pytest.raises(UserError) as caught:  # though no loss uses them
        build_distiller(tiny.load("distill", features), seed=0)
    prefixes = [
        "distill.features.student[0]: feature 'backbone.layre3'",
        "distill.features.teacher[2]: feature 'decode_haed.b",
    ]
    assert len(caught.value.problems) == 2
    for problem, prefix in zip(caught.value.problems, prefixes, strict=True):
        assert problem.startswith(prefix) and "did you mean" in problem


def test_channels_and_sizes_that_differ(tiny: Tiny, stream_batches: Batches, tmp_path: Path) -> None:
    """CWD between a student's layer of 32 x 2 x 2 and a teacher's of 128 x 8 x 8, through an adapter that trains."""
    strides = {
        "model.backbone.strides": (1, 2, 2, 2),
        "model.backbone.dilations": (1, 1, 1, 1),
        "model.backbone.multi_grid": (1, 1),
    }
    cfg = tiny.load("distill", {**strides, "distill.losses.logits.weight": 0.0, "distill.task_weight": 0.0}, size="64")
    distiller = build_distiller(cfg, seed=0)
    (batch,) = stream_batches(cfg, 1)
    with distiller.capture:
        distiller.train()
        data = distiller.data_preprocessor(batch, training=True)
        distiller(**data, mode="loss")
        assert distiller.capture["backbone.layer4"].shape == (2, 32, 2, 2)
    assert distiller.teachers[0](data["inputs"])["backbone.layer4"].shape == (2, 128, 8, 8)
    adapter = distiller.terms["hidden"].adapter.project
    assert adapter.weight.shape == (128, 32, 1, 1)
    before = adapter.weight.detach().clone()
    optimizer = optimizer_of(distiller, lr=0.01)
    logs = [step(distiller, batch, optimizer) for _ in range(5)]
    assert not torch.equal(adapter.weight, before)
    assert float(logs[-1]["raw/hidden"]) < float(logs[0]["raw/hidden"])
    save_student(distiller.student, tmp_path / "student.pth", classes=[], palette=[], meta={})
    saved = torch.load(tmp_path / "student.pth", weights_only=True)["state_dict"]
    assert saved.keys() == build_segmentor(cfg.model).state_dict().keys()
    assert any(key.startswith("terms.hidden.") for key in distiller.state_dict())  # but kept for a resume


def auxiliary_head(in_channels: int, channels: int) -> dict[str, Any]:
    return dict(
        type="FCNHead", in_channels=in_channels, in_index=2, channels=channels, num_convs=1, concat_input=False,
        num_classes=2, norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    )  # fmt: skip


def test_auxiliary_heads_pair_by_index(tiny: Tiny, batch: dict[str, Any], other_teacher: Callable[..., Any]) -> None:
    overrides = {
        **other_teacher({"model.auxiliary_head": auxiliary_head(64, 8)}),
        "model.auxiliary_head": auxiliary_head(16, 4),
        "distill.losses": {"main": {"type": "KL"}, "aux": {"type": "L2", "on": "logits[1]", "at": "logits"}},
    }
    distiller = build_distiller(tiny.load("distill", overrides), seed=0)
    assert decode_heads(distiller.student) == ["decode_head", "auxiliary_head"]
    route = distiller.routes["aux"]
    assert (route.student_features, route.teacher_features) == (("auxiliary_head",), ("auxiliary_head",))
    data = distiller.data_preprocessor(batch, training=True)
    distiller.train()
    with distiller.capture:
        losses = distiller(**data, mode="loss")
        student_logits = distiller.capture["auxiliary_head"]
    teacher = distiller.teachers[0].model
    with torch.no_grad():
        teacher_logits = teacher.auxiliary_head.forward(teacher.extract_feat(data["inputs"]))
    assert student_logits.shape == teacher_logits.shape == (2, 2, 4, 4)
    torch.testing.assert_close(losses["raw/aux"], (student_logits - teacher_logits).square().mean())
    assert "aux.loss_ce" in losses and losses["raw/main"] != losses["raw/aux"]


def test_a_head_that_is_not_there(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"distill\.losses\.logits\.on: 'logits\[1\]', but the student has 1 outputs"):
        build_distiller(tiny.load("distill", {"distill.losses.logits.on": "logits[1]"}), seed=0)


def test_a_cascade_gives_its_last_stage(tiny: Tiny, batch: dict[str, Any]) -> None:
    """OCRNet's second head refines the first's prediction; its logits are the student's."""
    common = dict(in_channels=32, in_index=3, channels=8, num_classes=2, norm_cfg=dict(type="BN"),
                  loss_decode=dict(type="CrossEntropyLoss"))  # fmt: skip
    heads = [dict(type="FCNHead", num_convs=1, **common), dict(type="OCRHead", ocr_channels=4, **common)]
    cfg = tiny.load("distill", {"distill.losses.hidden.pair": (2, 2)})
    cfg.model.update(type="CascadeEncoderDecoder", num_stages=2, decode_head=heads)
    cfg.distill.features.student[2] = "decode_head.1.bottleneck"
    distiller = build_distiller(cfg, seed=0)
    assert decode_heads(distiller.student) == ["decode_head.1"] == list(distiller.routes["logits"].student_features)
    losses = losses_of(distiller, batch)
    assert losses["raw/logits"] > 0 and losses["raw/hidden"] > 0


# ---------------------------------------------------------------------------------------------------------
# Building


def test_effective_values(tiny: Tiny) -> None:
    losses = {"logits": {"type": "KL", "tau": 2.0}, "hidden": {"type": "CWD", "pair": [0, 2]}}
    distiller = build_distiller(tiny.load("distill", {"distill.losses": losses, "distill.task_weight": 0.5}), seed=0)
    values = distiller.effective_values()
    expected = {
        "distill.task_weight": 0.5,
        **{f"distill.losses.{name}.schedule.warmup": 0 for name in losses},
        **{f"distill.losses.{name}.schedule.decay": "none" for name in losses},
        **{f"distill.losses.{name}.schedule.stop": None for name in losses},
        **{f"distill.losses.{name}.teacher": 0 for name in losses},
        "distill.losses.logits.type": "KL",
        "distill.losses.hidden.type": "CWD",
        "distill.losses.logits.weight": 3.0,  # the default of KL
        "distill.losses.logits.pair": None,
        "distill.losses.logits.tau": 2.0,
        "distill.losses.logits.per_class": False,
        "distill.losses.logits.at": "label",
        "distill.losses.hidden.weight": 50.0,  # the default of CWD on features
        "distill.losses.hidden.pair": (0, 2),
        "distill.losses.hidden.tau": 4.0,
    }
    assert {key: values.get(key, "absent") for key in expected} == expected
    assert build_distiller(tiny.load("student"), seed=0).effective_values() == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.backbone.depth": 19}, "model: cannot be built: "),
        ({"model.type": "EncodrDecoder"}, "model.type: no model 'EncodrDecoder' is registered; did you mean"),
        ({"model.backbone.type": "ResNet"}, "model.backbone.nonsense: ResNet has no such argument; it takes depth"),
    ],
)
def test_a_model_that_does_not_build(tiny: Tiny, overrides: dict[str, Any], message: str) -> None:
    if "model.backbone.type" in overrides:
        overrides = {**overrides, "+model.backbone.nonsense": 1}
    with pytest.raises(UserError, match=message) as caught:
        build_distiller(tiny.load("student", overrides), seed=0)
    assert "\n" not in caught.value.problems[0]


def test_training_size() -> None:
    model = {"type": "EncoderDecoder"}
    assert training_size(Config(dict(model={**model, "data_preprocessor": {"size": (24, 40)}}))) == (24, 40)
    assert training_size(Config(dict(model=model, crop_size=(64, 32)))) == (64, 32)
    assert training_size(Config(dict(model=model))) == (512, 512)


def test_the_teachers_class_of_each_pixel_as_its_label(tiny: Tiny, batch: dict[str, Any]) -> None:
    """The task loss is that against the argmax of the teacher's resized logits; ignored pixels stay ignored."""
    for sample in batch["data_samples"]:
        sample.gt_sem_seg.data[..., :5] = 255
    distiller = build_distiller(tiny.load("distill", {"distill.losses": {}, "distill.labels": "teacher"}), seed=0)
    torch.manual_seed(0)  # the dropout draws from it
    losses = losses_of(distiller, copy.deepcopy(batch))
    assert set(losses) == {CROSS_ENTROPY, "decode.acc_seg"}
    data = distiller.data_preprocessor(copy.deepcopy(batch), training=True)
    teacher, student = distiller.teachers[0], distiller.student
    logits = nn.functional.interpolate(
        teacher(data["inputs"])["decode_head"], data["inputs"].shape[-2:], mode="bilinear"
    )
    truth = torch.stack([sample.gt_sem_seg.data for sample in data["data_samples"]])
    label = torch.where(truth == 255, truth, logits.argmax(1, keepdim=True))
    assert (label == 255).any() and (label != truth).any()
    for sample, own in zip(data["data_samples"], label, strict=True):
        sample.gt_sem_seg.data = own
    torch.manual_seed(0)
    expected = student.loss(data["inputs"], data["data_samples"])[CROSS_ENTROPY]
    torch.testing.assert_close(losses[CROSS_ENTROPY], expected)
    assert distiller.effective_values() == {"distill.labels": "teacher"}


def test_labels_of_a_teacher_of_one_channel(
    tiny: Tiny, batch: dict[str, Any], one_channel: dict[str, Any], other_teacher: Callable[..., Any]
) -> None:
    """Positive logits are class 1."""
    overrides = {**other_teacher(one_channel), "distill.losses": {}, "distill.labels": "teacher"}
    distiller = build_distiller(tiny.load("distill", overrides), seed=0)
    data = distiller.data_preprocessor(batch, training=True)
    logits = distiller.teachers[0](data["inputs"])["decode_head"]
    truth = torch.cat([sample.gt_sem_seg.data for sample in data["data_samples"]])
    resized = nn.functional.interpolate(logits, data["inputs"].shape[-2:], mode="bilinear")
    assert torch.equal(predicted_classes(logits, truth, align_corners=False), (resized[:, 0] > 0).to(truth.dtype))


def test_labels_need_a_teacher_of_the_same_classes(tiny: Tiny, other_teacher: Callable[..., Any]) -> None:
    weights = {"model.decode_head.num_classes": 5, "model.decode_head.loss_decode.class_weight": None}
    overrides = {**other_teacher(weights), "distill.losses": {}, "distill.labels": "teacher"}
    with pytest.raises(UserError, match=r"distill.labels: teachers\[0\] tells 5 classes apart, the student 2"):
        build_distiller(tiny.load("distill", overrides), seed=0)


def test_no_losses_need_labels_of_the_teacher(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"distill\.losses: must have at least 1 entry, got 0"):
        tiny.load("distill", {"distill.losses": {}})
    with pytest.raises(UserError, match=r"distill\.labels: 'teacher' needs teachers with a checkpoint"):
        tiny.load("distill", {"distill.teachers": [{"ema_decay": 0.9}], "distill.labels": "teacher"})
