"""A loss whose weight is a share: the gradient that comes out of a step has that share of the task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Tiny
from loss_terms import EVERY_TERM, SMALL
from torch import Tensor

from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.gradients import task_loss

Batches = Callable[..., list[dict[str, Any]]]
SHARE = 0.25
HEADS = ("auxiliary_head", "decode_head")


def losses_at(distiller: Distiller, batch: dict[str, Any], iteration: int | None = 0) -> dict[str, Any]:
    """A step's losses, within :attr:`Distiller.capture`, as in an iteration of training."""
    distiller.train()
    distiller.iteration = iteration
    data = distiller.data_preprocessor(batch, training=True)
    return distiller.loss(data["inputs"], data["data_samples"])


def length(loss: Tensor, tensors: list[Tensor]) -> float:
    """Of the gradient with respect to some tensors, by autograd's own means."""
    parts = torch.autograd.grad(loss, tensors, retain_graph=True)
    return sum(float(part.double().square().sum()) for part in parts) ** 0.5


def shares(distiller: Distiller, losses: dict[str, Any]) -> dict[str, float]:
    """What came out: each loss's gradient, as it is added up, over the task's, at what the loss reads."""
    task = task_loss(losses)
    return {
        name: length(losses[f"distill.loss_{name}"], read) / length(task, read)
        for name, route in distiller.routes.items()
        for read in [[distiller.capture[feature] for feature in route.student_features]]
    }


def of_share(share: Any, name: str, on: str, **params: Any) -> dict[str, Any]:
    where: dict[str, Any] = {"on": "logits"} if on == "logits" else {"pair": (1, 1)}
    return {"type": name, "weight": {"share": share}, **where, **SMALL.get(name, {}), **params}


@pytest.mark.parametrize("task_weight", [1.0, 0.125])
def test_every_loss_comes_out_with_its_share(tiny: Tiny, stream_batches: Batches, task_weight: float) -> None:
    """All losses at once, on logits and on features, through their adapters: each is measured by itself."""
    terms = {f"{name}_{on}": of_share(SHARE, name, on) for name, on in EVERY_TERM}
    cfg = tiny.load("distill", {"distill.losses": terms, "distill.task_weight": task_weight})
    distiller = build_distiller(cfg, seed=0)
    with distiller.capture:
        losses = losses_at(distiller, stream_batches(cfg, 1)[0])
        came_out = shares(distiller, losses)
    # DIST and DKD on logits of two classes are nearly constant at first, and hold the share all the same.
    assert came_out == pytest.approx(dict.fromkeys(terms, SHARE), rel=1e-4)
    for name in terms:
        weight = distiller.measured[name].weight
        assert weight > 0 and losses[f"weight/{name}"].item() == pytest.approx(weight)
        assert losses[f"distill.loss_{name}"].item() == pytest.approx(weight * losses[f"raw/{name}"].item(), rel=1e-5)
    assert len({distiller.measured[name].weight for name in terms}) == len(terms)


def test_one_output_channel(tiny: Tiny, stream_batches: Batches, one_channel: dict[str, Any]) -> None:
    terms = {name: of_share(SHARE, name, "logits") for name in ("KL", "DKD", "DIST", "CWD", "L1", "L2", "DSD")}
    cfg = tiny.load("distill", {**one_channel, "distill.losses": terms})
    distiller = build_distiller(cfg, seed=0)
    with distiller.capture:
        came_out = shares(distiller, losses_at(distiller, stream_batches(cfg, 1)[0]))
    assert came_out == pytest.approx(dict.fromkeys(terms, SHARE), rel=1e-4)


def test_auxiliary_heads_and_several_layers(tiny: Tiny, stream_batches: Batches, tmp_path: Any) -> None:
    """Each head's logits have the share of that head's own loss; a loss over layers that at all of its layers."""
    head = dict(
        type="FCNHead", in_channels=16, in_index=2, channels=4, num_convs=1, concat_input=False, num_classes=2,
        norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    )  # fmt: skip
    terms = {
        "aux": {"type": "L2", "on": "logits[1]", "weight": {"share": SHARE}},
        "layers": {"type": "DSD", "pair": ((0, 0), (1, 1)), "weight": {"share": SHARE}},
    }
    changes = {"+model.auxiliary_head": head, "distill.teachers": [dict(ema_decay=0.75)], "distill.losses": terms}
    cfg = tiny.load("distill", {**changes, "distill.features.teacher": ["backbone.layer3", "backbone.layer4"]})
    distiller = build_distiller(cfg, seed=0)
    for teacher in distiller.teachers:
        teacher.follow(distiller.student)
    with distiller.capture:
        losses = losses_at(distiller, stream_batches(cfg, 1)[0])
        assert shares(distiller, losses) == pytest.approx(dict.fromkeys(terms, SHARE), rel=1e-4)
        logits = distiller.capture["auxiliary_head"]
        own = length(losses["aux.loss_ce"], [logits])
        assert length(losses["distill.loss_aux"], [logits]) == pytest.approx(SHARE * own, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"+activation_checkpointing": ["backbone"]}], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_precision_and_checkpointing(
    tiny: Tiny, stream_batches: Batches, changes: dict[str, Any], bfloat16: bool
) -> None:
    terms = {"kl": of_share(SHARE, "KL", "logits"), "mgd": of_share(SHARE, "MGD", "features")}
    cfg = tiny.load("distill", {"distill.losses": terms, **changes})
    distiller = build_distiller(cfg, seed=0)
    batch = stream_batches(cfg, 1)[0]
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), distiller.capture:
        losses = losses_at(distiller, batch)
        read = {name: distiller.capture[route.student_features[0]] for name, route in distiller.routes.items()}
    norms = {name: buffer.clone() for name, buffer in distiller.student.named_buffers() if "running" in name}
    state = torch.get_rng_state()
    for name, tensor in read.items():
        own = length(task_loss(losses), [tensor])
        assert length(losses[f"distill.loss_{name}"], [tensor]) == pytest.approx(SHARE * own, rel=1e-2)
    distiller.parse_losses(losses)[0].backward()
    # A checkpointed layer that is computed again sees its batch no second time.
    assert all(torch.equal(norms[name], buffer) for name, buffer in distiller.student.named_buffers() if name in norms)
    assert torch.equal(torch.get_rng_state(), state)


def test_measuring_changes_no_other_loss(tiny: Tiny, stream_batches: Batches) -> None:
    """The same forward pass: every raw loss, running statistic and random number is that of a step with a number."""
    states = []
    for weight in (3.0, {"share": SHARE}):
        terms = {"mgd": {**of_share(SHARE, "MGD", "features"), "weight": weight}, "kl": {"type": "KL", "weight": 2.0}}
        cfg = tiny.load("distill", {"distill.losses": terms})
        distiller = build_distiller(cfg, seed=0)
        torch.manual_seed(0)
        with distiller.capture:
            losses = losses_at(distiller, stream_batches(cfg, 1)[0])
        kept = {key: value for key, value in losses.items() if key not in ("distill.loss_mgd", "weight/mgd")}
        states.append(({**kept, **dict(distiller.named_buffers())}, torch.get_rng_state()))
    (left, left_state), (right, right_state) = states
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert torch.equal(left_state, right_state)


def test_a_batch_without_labels_does_not_count(tiny: Tiny, stream_batches: Batches) -> None:
    """The task teaches nothing there, though a loss on features would: its weight is 0 until a batch says more."""
    terms = {"at": of_share({"value": SHARE, "batches": 2}, "AT", "features"), "kl": of_share(SHARE, "KL", "logits")}
    cfg = tiny.load("distill", {"distill.losses": terms})
    distiller = build_distiller(cfg, seed=0)
    ignored, labelled, *_ = stream_batches(cfg, 2)
    for sample in ignored["data_samples"]:
        sample.gt_sem_seg.data.fill_(255)
    for iteration in range(2):
        with distiller.capture:
            losses = losses_at(distiller, ignored, iteration)
            total, logs = distiller.parse_losses(losses)
        assert total.item() == 0 and all(value.isfinite().all() for value in logs.values())
        total.backward()
        assert logs["raw/at"] > 0 and logs["weight/at"] == logs["distill.loss_at"] == 0
    assert distiller.notes == [
        "distill.losses.at: its weight cannot be measured: the task's loss has no gradient above 0 at the student in "
        "iterations 1 to 2; it stays 0, and every 2 batches are tried again"
    ]
    with distiller.capture:
        losses = losses_at(distiller, labelled, 2)
        assert shares(distiller, losses) == pytest.approx(dict.fromkeys(terms, SHARE), rel=1e-4)


def test_outside_of_training_nothing_is_kept(tiny: Tiny, stream_batches: Batches) -> None:
    """A step that is tried has the weight of its own batch; one that is diagnosed, that of training."""
    cfg = tiny.load("distill", {"distill.losses": {"kl": of_share({"value": SHARE, "batches": 1}, "KL", "logits")}})
    distiller = build_distiller(cfg, seed=0)
    first, second, *_ = stream_batches(cfg, 2)
    with distiller.capture:
        assert shares(distiller, losses_at(distiller, first, None)) == pytest.approx({"kl": SHARE}, rel=1e-4)
    assert distiller.measured["kl"].weight == 0 and distiller.measured["kl"].measures(0)
    with distiller.capture:
        losses_at(distiller, first, 0)
    weight = distiller.measured["kl"].weight
    for iteration in (1, None):
        with distiller.capture:
            assert losses_at(distiller, second, iteration)["weight/kl"].item() == pytest.approx(weight)


def test_a_schedule_counts_on_top(tiny: Tiny, stream_batches: Batches) -> None:
    """The share is that of the weight in full; where the schedule says 0, nothing is measured."""
    cfg = tiny.load("distill", {"distill.losses": {"kl": of_share(SHARE, "KL", "logits")}})
    batch = stream_batches(cfg, 1)[0]
    distiller = build_distiller(cfg, seed=0)
    distiller.factors["kl"] = 0.5
    with distiller.capture:
        assert shares(distiller, losses_at(distiller, batch)) == pytest.approx({"kl": SHARE / 2}, rel=1e-4)
    weight = distiller.measured["kl"].weight
    distiller.factors["kl"] = 0.0
    with distiller.capture:
        losses = losses_at(distiller, batch, 1)
    assert losses["distill.loss_kl"] == 0 and distiller.measured["kl"].state()["seen"] == 1
    assert distiller.measured["kl"].weight == weight


def test_what_is_read_back(tiny: Tiny) -> None:
    share = {"value": 0.5, "batches": 4, "every": 10}
    cfg = tiny.load("distill", {"distill.losses.logits.weight": {"share": share}})
    values = build_distiller(cfg, seed=0).effective_values()
    assert values["distill.losses.logits.weight.share"] == 0.5
    assert {name: values[f"distill.losses.logits.weight.share.{name}"] for name in share} == share
    assert "distill.losses.logits.weight" not in values and values["distill.losses.hidden.weight"] == 50.0
