"""What a sweep learns of its store before the first trial."""

from __future__ import annotations

from pathlib import Path

from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.distill.distiller import build_distiller
from rdistill.distill.teacher_store import EQUAL_BATCHES_NEEDED
from rdistill.store.warm import look_into_store
from rdistill.sweeps.trial.step_profile import StoreForecast, measure_step


def test_a_step_is_measured_with_the_store(tiny: Tiny, tmp_path: Path) -> None:
    """The teacher computes as a miss does, and is read from a store of the measurement's own.

    First it is found out whether its batches come to the same as single images; if so, two images are one pass.
    """
    store = {"views": 2, "bits": 32, "dir": str(tmp_path / "store")}
    run = LoadedConfig.of(tiny.load("distill", {"distill.losses.hidden": None, "distill.store": store}))
    distiller = build_distiller(run, seed=0)
    stored = look_into_store(run, distiller)
    assert stored is not None
    passes: list[int] = []
    distiller.teachers[0].model.backbone.register_forward_hook(lambda _, given, __: passes.append(len(given[0])))
    steps: list[int] = []
    distiller.register_forward_hook(lambda *_: steps.append(1))
    profile = measure_step(distiller, run.cfg, forecast=StoreForecast(stored.stores, computed=0.0))
    # Whether they do depends on the processor and the network. First it is found out, then a step, then one that fills.
    if alike := passes[5] == 2:
        first = [1, 1, 2] * EQUAL_BATCHES_NEEDED + [2] + [1, 1, 2]
    else:
        first = [1, 1, 2] + [1, 1] * (EQUAL_BATCHES_NEEDED - 1) + [1, 1] + [1, 1, 2]
    assert passes == first + ([2] if alike else [1, 1]) * (len(steps) - 1)
    assert 0 < profile.teacher_share < 1
    assert stored.stores[0] is not None and stored.stores[0].images == 0 and not (tmp_path / "store").exists()
