"""What a sweep learns of its store before the first trial, before and after a training has filled it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.distill.distiller import build_distiller
from rdistill.store.warm import look_into_store
from rdistill.training.run import train

pytestmark = pytest.mark.e2e


def looked(cfg: Any) -> tuple[float, float]:
    run = LoadedConfig.of(cfg)
    stored = look_into_store(run, build_distiller(run, seed=0))
    assert stored is not None and stored.stores[0] is not None and stored.stores[0].images == 0
    return stored.kept, stored.computed


def test_a_store_is_cold_and_then_warm(tiny: Tiny, tmp_path: Path) -> None:
    """A training has 2 passes; with one view the second computes nothing."""
    store = {"views": 2, "bits": 32, "dir": str(tmp_path / "store")}
    cfg = tiny.load("distill", {"distill.losses.hidden": None, "distill.store": store})
    assert looked(cfg) == (0.0, 1.0) and not (tmp_path / "store").exists()
    assert looked(with_overrides(cfg, {"distill.store.views": 1})) == (0.0, 0.5)
    train(cfg, tmp_path / "run", teacher_metrics=[{}], check=False)
    assert looked(cfg) == (1.0, 0.0)
    assert looked(with_overrides(cfg, {"distill.store.bits": 16})) == (0.0, 1.0)
    assert looked(with_overrides(cfg, {"distill.store.keep": "nothing"})) == (0.0, 1.0)
    without = LoadedConfig.of(with_overrides(cfg, {"distill.store": None}))
    assert look_into_store(without, build_distiller(without, seed=0)) is None
