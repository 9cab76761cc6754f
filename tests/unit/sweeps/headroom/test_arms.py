"""The configs of the short trainings."""

from __future__ import annotations

from conftest import Tiny

from rdistill.config.distill_spec import distill_spec
from rdistill.sweeps.headroom.arms import ARMS, arm_config


def test_each_arm_changes_one_thing(tiny_without_teacher: Tiny) -> None:
    base = tiny_without_teacher.load("student", iters=400)
    base.distill = dict(
        teachers=[dict(config="teacher.py", checkpoint="a.pth")], losses=dict(a=dict(type="KL")), task_weight=0.5
    )
    made = {arm: arm_config(base, arm, 40, seed=3) for arm in ARMS}
    assert [made[arm].train_cfg.max_iters for arm in ARMS] == [40, 80, 40, 40, 40]
    assert [made[arm].train_cfg.val_interval for arm in ARMS] == [10, 20, 10, 10, 10]
    assert [made[arm].param_scheduler[-1].end for arm in ARMS] == [40, 80, 40, 40, 40]
    assert [made[arm].get("distill") is not None for arm in ARMS] == [False, False, False, True, True]
    half = made["half"].train_dataloader.dataset
    assert (half.type, half.share, half.seed, half.dataset) == (
        "SubsetDataset", 0.5, 3, base.train_dataloader.dataset,
    )  # fmt: skip
    assert all(made[arm].train_dataloader == made["alone"].train_dataloader for arm in ARMS if arm != "half")
    hard, distilled = distill_spec(made["hard"]), distill_spec(made["distilled"])
    assert hard is not None and distilled is not None
    assert (hard.labels, hard.losses, hard.task_weight) == ("teacher", {}, 1.0)
    assert (distilled.labels, list(distilled.losses), distilled.task_weight) == ("data", ["a"], 0.5)
    assert base.train_cfg.max_iters == 400  # left as it was
