"""What one step takes, measured before a sweep's first trial."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import Tiny

from rdistill.distill.distiller import build_distiller
from rdistill.sweeps.trial.step_profile import StepProfile, load_step, measure_step


def test_a_step(tiny: Tiny) -> None:
    cfg = tiny.load("distill", {"distill.cache": "on"})
    distiller = build_distiller(cfg, seed=0)
    passes, steps = [], []
    distiller.teachers[0].model.backbone.register_forward_hook(lambda *_: passes.append(torch.get_num_threads()))
    distiller.student.backbone.register_forward_hook(lambda *_: steps.append(torch.get_num_threads()))
    threads = torch.get_num_threads()
    profile = measure_step(distiller, cfg, slots=[1, 2])
    assert list(profile.seconds) == [1, 2] and torch.get_num_threads() == threads
    # The teacher computes each time, though it was asked for the same images before.
    distilled, alone = steps[: len(passes)], steps[len(passes) :]
    assert passes == distilled and {*distilled} == {*alone} == {threads, 2 * threads}
    assert all(teacher > 0 and student > 0 for teacher, student in profile.seconds.values())
    assert list(profile.alone) == [1, 2] and all(seconds > 0 for seconds in profile.alone.values())
    assert 0 < profile.teacher_share < 1
    student = sum(x.numel() * x.element_size() for x in distiller.student.state_dict().values())
    assert student < profile.held_bytes < 4 * student  # the momentum is as large as the weights


def test_outputs_that_will_be_remembered_take_no_time(tiny: Tiny) -> None:
    cfg = tiny.load("distill")
    (remembered, _), (computed, _) = (
        measure_step(build_distiller(cfg, seed=0), cfg, remembered=share).seconds[1] for share in (1.0, 0.0)
    )
    assert remembered == 0 < computed


def test_a_step_in_mixed_precision(tiny: Tiny) -> None:
    """The optimizer is the one that training builds, which knows bfloat16 on a CPU."""
    values = {"optim_wrapper.type": "AmpOptimWrapper", "+optim_wrapper.dtype": "bfloat16"}
    cfg = tiny.load("distill", {**values, "distill.cache": "on"})
    distiller, dtypes = build_distiller(cfg, seed=0), []
    distiller.student.decode_head.bottleneck.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    measure_step(distiller, cfg, slots=[1])
    assert {*dtypes} == {torch.bfloat16}


def test_a_resumed_sweep_keeps_to_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "new" / "step.json"
    profile = StepProfile(12, 34, {1: (0.1, 0.25), 2: (0.1 / 3, 0.2)}, {1: 0.15, 2: 0.1})
    assert load_step(file, [1, 2]) is None
    profile.save(file)
    assert load_step(file, [1, 2]) == profile and profile.alone_on(2) == 0.1
    assert load_step(file, [1, 2, 4]) is None  # another machine
    content = json.loads(file.read_text())
    del content["alone"]  # an older version's
    file.write_text(json.dumps(content))
    older = load_step(file, [1, 2])
    assert older is not None and older.alone_on(2) == 0.2


def test_workers_measure_their_shares_of_a_batch_together(
    tiny: Tiny, in_workers: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    """They take as many steps, one waits for the other, and all come to the same profile."""
    cfg = tiny.load("distill", batch_size=4)

    def measured(rank: int) -> tuple[StepProfile, list[int], int]:
        distiller = build_distiller(cfg, seed=0)
        images: list[int] = []
        distiller.student.backbone.register_forward_hook(lambda *call: images.append(len(call[1][0])))
        if rank == 1:
            distiller.student.backbone.register_forward_hook(lambda *_: time.sleep(0.2))
        profile = measure_step(distiller, cfg)
        return profile, images, int(sum(x.double().sum() * 1e6 for x in distiller.student.parameters()))

    (left, left_images, left_sum), (right, right_images, right_sum) = in_workers(2, measured)
    assert left == right and left.seconds[1][1] >= 0.2  # the slowest worker's
    assert left_images == right_images and {*left_images} == {2}
    assert left_sum == right_sum  # gradients are averaged
