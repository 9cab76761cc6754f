"""The hooks within real runs: capture, accuracies, best and last checkpoints, and those between validations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, Run, Tiny
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from rdistill.training.hooks import DivergedError
from rdistill.training.run import train
from rdistill.training.run_state import unwrap

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


@HOOKS.register_module()
class StopAtStep(Hook):
    """Ends a run in the middle of a training step, after every other hook of the step before."""

    armed = True

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.armed and runner.iter == self.iteration:
            raise KeyboardInterrupt


@pytest.mark.e2e
def test_a_kill_between_validations(
    tiny: Tiny, distilled_run: Run, tmp_path: Path, state_equal: Equal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config's own checkpoint interval says how much is lost; what follows is the same to the last bit."""
    interval = {"+default_hooks.checkpoint": dict(type="CheckpointHook", by_epoch=False, interval=1)}
    killing = {**interval, "+custom_hooks": [dict(type="StopAtStep", iteration=3)]}
    with pytest.raises(KeyboardInterrupt):
        train(tiny.load("distill", killing), tmp_path / "run", teacher_metrics={})
    saved = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert saved["meta"]["iter"] == 3 and saved["meta"]["last"]["iter"] == 2
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["best.pth", "last.pth"]
    monkeypatch.setattr(StopAtStep, "armed", False)
    metrics = train(tiny.load("distill", killing), tmp_path / "run", resume=True)
    for name in ("last.pth", "best.pth", "student.pth"):
        assert state_equal(Run(tmp_path / "run", metrics).weights(name), distilled_run.weights(name))
    assert {**metrics, "seconds": 0} == {**distilled_run.metrics, "seconds": 0}


@HOOKS.register_module()
class CaptureSpy(Hook):
    """Notes whether the student is wrapped, in training and out of it."""

    seen: list[tuple[str, bool, bool]]
    priority = "LOWEST"

    def _note(self, when: str, runner: Any) -> None:
        distiller = unwrap(runner)
        wrapped = "forward" in vars(distiller.student.decode_head)
        type(self).seen.append((when, wrapped, bool(distiller.capture._kept)))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._note("step", runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._note("after", runner)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._note("validation", runner)


@HOOKS.register_module()
class AccuracySpy(Hook):
    """Notes which accuracies each step had; with ``all``, has every step compute them, as mmseg does."""

    seen: list[list[str]]
    priority = "LOWEST"

    def __init__(self, all: bool) -> None:
        self.all = all

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        unwrap(runner).measure_accuracy |= self.all

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        type(self).seen.append([key for key in outputs if "acc" in key])


AUXILIARY = dict(
    type="FCNHead", in_channels=16, in_index=2, channels=4, num_convs=1, num_classes=2, norm_cfg=dict(type="BN"),
    loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
)  # fmt: skip
TWO_HEADS = ["decode.acc_seg", "aux.acc_seg"]


def logged(folder: Path) -> list[dict[str, Any]]:
    """What mmengine's own log holds of the training iterations, less their times."""
    (file,) = folder.glob("*/vis_data/scalars.json")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in entry.items() if "time" not in key} for entry in entries if "loss" in entry]


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["student", "distill"])
def test_accuracies_are_computed_where_they_are_logged(
    tiny: Tiny, tmp_path: Path, recorder: Recorder, name: str
) -> None:
    """Of both heads, under teachers or alone; the values are those of a run that computes them in every step."""
    logs = []
    for every_step in (False, True):
        AccuracySpy.seen, recorder.steps = [], []
        changes = {
            "+custom_hooks": [dict(type="AccuracySpy", all=every_step)],
            "+model.auxiliary_head": AUXILIARY,
            "default_hooks.logger.interval": 4,
        }
        cfg = tiny.load(name, changes, iters=11, val_interval=11)
        assert len(cfg.train_dataloader.dataset.pipeline) and cfg.train_dataloader.batch_size == 2
        train(cfg, tmp_path / str(every_step), listener=recorder, teacher_metrics=[{}], check=False)
        with_accuracy = [iteration for iteration, keys in enumerate(AccuracySpy.seen, start=1) if keys]
        # mmengine logs every 4 and where the 3 batches of an epoch end for the first time; a listener gets every 10.
        assert with_accuracy == (list(range(1, 12)) if every_step else [3, 4, 8, 10, 11])
        assert [AccuracySpy.seen[iteration - 1] for iteration in with_accuracy] == [TWO_HEADS] * len(with_accuracy)
        logs.append((logged(tmp_path / str(every_step)), recorder.steps))
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0][0]] == [3, 4, 8] and [step for step, _ in logs[0][1]] == [10, 11]
    assert all(0 < entry[key] < 100 for entry in logs[0][0] for key in TWO_HEADS)


@pytest.mark.e2e
def test_a_mean_of_accuracies_needs_every_step(tiny: Tiny, tmp_path: Path) -> None:
    AccuracySpy.seen = []
    changes = {
        "+custom_hooks": [dict(type="AccuracySpy", all=False)],
        "+log_processor.custom_cfg": [dict(data_src="decode.acc_seg", method_name="mean", window_size=4)],
    }
    cfg = tiny.load("student", changes, iters=3, val_interval=3)
    train(cfg, tmp_path / "run", check=False)
    assert AccuracySpy.seen == [["decode.acc_seg"]] * 3


@pytest.mark.e2e
def test_features_are_captured_in_training_only(tiny: Tiny, tmp_path: Path) -> None:
    CaptureSpy.seen = []
    train(
        tiny.load("distill", {"+custom_hooks": [dict(type="CaptureSpy")]}, iters=2),
        tmp_path / "run",
        teacher_metrics={},
    )
    assert set(CaptureSpy.seen) == {("step", True, False), ("after", False, False), ("validation", False, False)}


@pytest.mark.e2e
def test_best_is_the_best_of_all_validations(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    metrics = train(tiny.load("student", iters=5, val_interval=1), tmp_path / "run", listener=recorder)
    scores = [scored["mIoU"] for _, scored in recorder.validations]
    assert len(scores) == 5 and len(set(scores)) > 1
    assert metrics["best_iter"] == 1 + scores.index(max(scores)) and metrics["mIoU"] == max(scores)
    assert (metrics["iter"], metrics["last"]["mIoU"]) == (5, scores[-1])
    best = torch.load(tmp_path / "run" / "best.pth", weights_only=True)
    assert best["meta"]["iter"] == metrics["best_iter"]


@pytest.mark.e2e
def test_a_diverged_run_keeps_its_last_good_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("student", {"optim_wrapper.optimizer.lr": 1e30, "train_cfg.val_interval": 1})
    with pytest.raises(DivergedError, match="iteration 2"):
        train(cfg, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert saved["meta"]["iter"] == 1


@pytest.mark.e2e
def test_what_a_listener_hears(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    cfg = tiny.load("student", iters=12, val_interval=12)
    train(cfg, tmp_path / "run", listener=recorder)
    assert [iteration for iteration, _ in recorder.steps] == [10, 12]
    assert all(isinstance(value, float) for _, values in recorder.steps for value in values.values())
    ((first, last, facts),) = recorder.starts
    assert (first, last) == (0, 12) and facts["effective"] == {} and facts["teacher_mIoU"] is None
    assert [iteration for iteration, _ in recorder.validations] == [12]
