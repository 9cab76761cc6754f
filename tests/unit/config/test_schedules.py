"""Schedules that are stretched to another length, and what does not go together."""

from __future__ import annotations

from mmengine.config import Config

from rdistill.config.schedules import schedule_notes, stretch_schedules


def _segformer(iterations: int) -> Config:
    warm_up = dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500)
    poly = dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000)
    cfg = Config(dict(train_cfg=dict(max_iters=160000), param_scheduler=[warm_up, poly]))
    assert stretch_schedules(cfg, iterations) == []
    return cfg


def test_too_few_iterations_for_the_phases() -> None:
    cfg = _segformer(160000)
    (problem,) = stretch_schedules(cfg, 2)
    assert problem.startswith("--iters: 2 are too few for the 2 schedules") and "at least 3 are needed" in problem
    assert cfg.train_cfg.max_iters == 160000


def test_milestones_stay_apart() -> None:
    steps = dict(type="MultiStepLR", by_epoch=False, milestones=[100, 200, 300])
    cfg = Config(dict(train_cfg=dict(max_iters=1000), param_scheduler=steps))
    assert stretch_schedules(cfg, 3) == [] and cfg.param_scheduler.milestones == [1, 2, 3]


def test_what_does_not_go_together_is_said() -> None:
    epochs = dict(type="PolyLR", begin=0, end=100)
    cfg = dict(train_cfg=dict(max_iters=50), param_scheduler=[epochs])
    assert "counts epochs" in schedule_notes(cfg)[0]
    cfg = dict(train_cfg=dict(max_iters=50), param_scheduler=[{**epochs, "by_epoch": False}])
    assert schedule_notes(cfg)[0].startswith("param_scheduler goes on to 100, but training ends at 50")
    assert schedule_notes(_segformer(50)) == []
