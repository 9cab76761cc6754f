"""How a run's config is completed before mmengine's Runner is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Tiny

from rdistill.config.load import with_overrides
from rdistill.core.errors import UserError
from rdistill.training.runner import prepare_config


def test_a_seed_of_first_weights_alone(tiny: Tiny) -> None:
    """It changes the weights that training starts from, and neither the data nor the dropout."""
    cfg = with_overrides(tiny.load("student"), {"randomness.init_seed": 5})
    prepared = prepare_config(cfg, Path("unused"), 0, False)
    assert prepared.train_dataloader.sampler.seed == prepared.train_dataloader.dataset.seed == 0
    assert (prepared.randomness.seed, prepared.randomness.init_seed) == (0, 5)
    with pytest.raises(UserError, match="unknown key randomness"):
        with_overrides(tiny.load("student"), {"randomness.init": 5})
