"""mmseg's accuracy of a head is as ever, but inside `without_accuracy`."""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample

from rdistill.models.task_accuracy import drop_skipped, modules_with_accuracy, without_accuracy


def losses_of(head: FCNHead) -> dict[str, torch.Tensor]:
    label = torch.tensor([[[0, 1], [1, 255]]])
    logits = torch.tensor([[[[2.0, 0.0], [2.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]]])  # right, right, wrong, ignored
    return head.loss_by_feat(logits, [SegDataSample(gt_sem_seg=PixelData(data=label))])


def test_left_out_and_back() -> None:
    head = FCNHead(in_channels=2, channels=2, num_classes=2)
    before = losses_of(head)
    with without_accuracy():
        inside = losses_of(head)
    after = losses_of(head)
    assert before["acc_seg"].item() == after["acc_seg"].item() and 66.6 < before["acc_seg"].item() < 66.7
    assert inside["acc_seg"] is None and drop_skipped(inside) == {"loss_ce": before["loss_ce"]}


def test_every_head_of_mmseg_that_computes_one_is_reached() -> None:
    names = {module.__name__.rpartition(".")[2] for module in modules_with_accuracy()}
    assert names == {"decode_head", "ddr_head", "pid_head", "point_head"}
