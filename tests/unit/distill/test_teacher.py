"""Several teachers, a teacher that follows the student, and weights that change during training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import Tensor

from rdistill.config.distill_spec import ScheduleSpec, distill_spec
from rdistill.config.load import with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.teacher import EmaTeacher, mean_logits
from rdistill.losses import functional

Batches = Callable[..., list[dict[str, Any]]]


def two_teachers(tiny: Tiny, weights: tuple[float, float] = (1.0, 3.0)) -> dict[str, Any]:
    """Overrides that put the student's own architecture beside the R50 as a second teacher."""
    first = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))
    second = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "last.pth"))
    return {"distill.teachers": [{**first, "weight": weights[0]}, {**second, "weight": weights[1]}]}


def loss_of(distiller: Distiller, batch: dict[str, Any]) -> dict[str, Tensor]:
    distiller.train()
    data = distiller.data_preprocessor(batch, training=True)
    with distiller.capture:
        return distiller.loss(data["inputs"], data["data_samples"])


def test_mean_logits_by_hand() -> None:
    actual = mean_logits([torch.full((1, 2, 2, 2), 1.0), torch.full((1, 2, 2, 2), 5.0)], [1.0, 3.0])
    assert torch.equal(actual, torch.full((1, 2, 2, 2), 4.0))
    assert mean_logits([torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 4, 4)], [1.0, 1.0]).shape == (1, 2, 4, 4)


def test_losses_under_the_mean_and_under_one(tiny: Tiny, stream_batches: Batches) -> None:
    """The mean of two teachers by hand, from their own logits."""
    losses = {
        "mean": {"type": "KL", "teacher": "mean", "at": "logits"},
        "second": {"type": "KL", "teacher": 1},
        "hidden": {"type": "CWD", "pair": (1, 1), "teacher": 1},
    }
    cfg = tiny.load("distill", {**two_teachers(tiny), "distill.losses": losses})
    distiller = build_distiller(cfg, seed=0)
    with torch.no_grad():
        for weight in distiller.teachers[1].model.parameters():
            weight *= 1.5  # both checkpoints are the same iteration's
    batch = stream_batches(cfg, 1)[0]
    data = distiller.data_preprocessor(batch, training=False)
    first, second = (teacher(data["inputs"])["decode_head"] for teacher in distiller.teachers)
    assert not torch.equal(first, second)
    distiller.train()
    with distiller.capture:
        values = distiller.loss(data["inputs"], data["data_samples"])
        student = distiller.capture["decode_head"]
    torch.testing.assert_close(values["raw/mean"], functional.kl(student, (first + 3 * second) / 4).detach())
    assert values["raw/second"] != values["raw/mean"] and values["raw/hidden"].isfinite()


def test_equal_teachers_have_themselves_as_mean(tiny: Tiny, stream_batches: Batches) -> None:
    """The mean of a teacher and itself is that teacher: the same loss to rounding."""
    teacher = two_teachers(tiny)["distill.teachers"][0]
    losses = {"mean": {"type": "KL", "teacher": "mean"}, "one": {"type": "KL", "teacher": 0}}
    cfg = tiny.load("distill", {"distill.teachers": [teacher, dict(teacher)], "distill.losses": losses})
    values = loss_of(build_distiller(cfg, seed=0), stream_batches(cfg, 1)[0])
    torch.testing.assert_close(values["raw/mean"], values["raw/one"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"distill.losses.hidden.teacher": "mean"}, "distill.losses.hidden.teacher: 'mean' averages logits"),
        ({"distill.losses.hidden.pair": [[0, 0], [1, 1]]}, "distill.losses.hidden.pair: CWD compares one pair"),
        ({"distill.teachers": [dict(ema_decay=0.9, checkpoint="x.pth")]}, "distill.teachers.0: `ema_decay` makes"),
        ({"distill.teachers": [dict(config="x.py")]}, "distill.teachers.0: needs `checkpoint`"),
        ({"distill.teachers": [dict(ema_decay=1.5)]}, "distill.teachers.0.ema_decay"),
        ({"distill.losses.logits.schedule.warm": 3}, "unknown key distill.losses.logits.schedule.warm; did you mean"),
    ],
)
def test_mistakes(tiny: Tiny, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(tiny.load("distill"), overrides)
    assert caught.value.problems[0].startswith(message), caught.value.problems


def test_layerwise_loss_over_several_pairs(tiny: Tiny, stream_batches: Batches) -> None:
    cfg = tiny.load("distill", {"distill.losses": {"layers": {"type": "DSD", "pair": [[0, 0], [1, 1], [2, 2]]}}})
    distiller = build_distiller(cfg, seed=0)
    assert distiller.effective_values()["distill.losses.layers.pair"] == ((0, 0), (1, 1), (2, 2))
    losses = loss_of(distiller, stream_batches(cfg, 1)[0])
    assert losses["raw/layers"].isfinite() and losses["raw/layers"] > 0


# --- a teacher that follows the student -----------------------------------------------------------------------------

SELF = {"distill.teachers": [dict(ema_decay=0.75)]}


def test_ema_teacher_is_the_average(tiny: Tiny) -> None:
    distiller = build_distiller(tiny.load("distill", SELF), seed=0)
    (teacher,) = distiller.teachers
    assert isinstance(teacher, EmaTeacher)
    name = "decode_head.conv_seg.weight"
    weight = dict(distiller.student.named_parameters())[name]
    first = weight.detach().clone()
    teacher.follow(distiller.student)
    with torch.no_grad():
        weight += 1.0
    teacher.follow(distiller.student)
    torch.testing.assert_close(dict(teacher.model.named_parameters())[name], first + 0.25)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    assert all(key.startswith(("student.", "terms.")) for key in distiller.state_dict())


# --- weights that change --------------------------------------------------------------------------------------------


def test_iters_stretches_the_schedule(tiny: Tiny) -> None:
    text = (tiny.folder / "distill.py").read_text()
    file = tiny.folder / "scheduled.py"
    file.write_text(text + "distill['losses']['logits']['schedule'] = dict(warmup=100, stop=500)\n")
    spec = distill_spec(tiny.load("scheduled", iters=10))  # the schedule was written for 1000
    assert spec is not None and spec.losses["logits"].schedule == ScheduleSpec(warmup=1, stop=5)
