"""The run that trains a student on with rounding: its length, rate and start; the whole way is in e2e/handover."""

from __future__ import annotations

import pytest
from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.handover.qat import LEARNING_RATE_FACTOR, rounding_run


def test_it_goes_on_from_the_checkpoint_at_a_tenth_of_the_rate(tiny: Tiny) -> None:
    run = LoadedConfig.of(tiny.load("distill"))
    run_with_rounding = rounding_run(run, "student.pth", 40)
    assert (run_with_rounding.cfg.train_cfg.max_iters, run_with_rounding.cfg.train_cfg.val_interval) == (40, 40)
    assert run_with_rounding.cfg.load_from == "student.pth" and run_with_rounding.distill == run.distill
    assert run_with_rounding.cfg.optim_wrapper.optimizer.lr == pytest.approx(
        LEARNING_RATE_FACTOR * run.cfg.optim_wrapper.optimizer.lr
    )
    assert run_with_rounding.cfg.custom_hooks[-1] == dict(type="FakeQuantHook")
    assert run.cfg.get("load_from") is None and run.cfg.train_cfg.max_iters == 6  # the given run is as it was


def test_a_config_that_trains_by_epochs(tiny: Tiny) -> None:
    run = LoadedConfig.of(tiny.load("student"))
    run.cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2)
    with pytest.raises(UserError, match=r"^--qat: the config trains by epochs"):
        rounding_run(run, "student.pth", 40)
