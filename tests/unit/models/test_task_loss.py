"""The task's losses of a batch in which no pixel has a label."""

from __future__ import annotations

import torch

from rdistill.models.task_loss import zero_without_labels


def test_losses_on_edges_of_the_labels_are_zero_too() -> None:
    """PIDNet's boundary loss has no label that is ignored: it would learn that such a picture has no edges."""
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    of_task = {"loss_bd": logits.mean(), "loss_list": [logits.sum(), logits.exp().sum()], "acc_seg": torch.tensor(5.0)}
    label = torch.full((1, 4, 4), 255)
    values = zero_without_labels(of_task, label, 255)
    assert [values["loss_bd"].item(), *(item.item() for item in values["loss_list"])] == [0.0] * 3
    assert values["acc_seg"] == 5.0
    (values["loss_bd"] + sum(values["loss_list"])).backward()
    assert logits.grad is not None and not logits.grad.any()
    label[0, 0, 0] = 1
    assert torch.equal(zero_without_labels(of_task, label, 255)["loss_bd"], of_task["loss_bd"])
