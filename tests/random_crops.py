"""Training images that no two draws have in common: without a store of views, no teacher's output would come again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.distill.distiller import build_distiller
from rdistill.store.build import _Builder


def crops(tiny: Tiny, overrides: Mapping[str, Any]) -> Any:
    """``distill.py`` with random crops and colours."""
    cfg = tiny.load("distill", overrides)
    steps = cfg.train_dataloader.dataset.pipeline
    steps.insert(len(steps) - 1, dict(type="RandomCrop", crop_size=(32, 32)))
    steps.insert(len(steps) - 1, dict(type="PhotoMetricDistortion"))
    return cfg


def with_features(tiny: Tiny, **store: Any) -> Any:
    """The same with a store of two views that keeps logits and features."""
    return crops(tiny, {"distill.store": {"views": 2, "keep": "features", "bits": 32, **store}})


def builder_of(cfg: Any) -> _Builder:
    run = LoadedConfig.of(cfg)
    return _Builder(run, build_distiller(run, seed=0))
