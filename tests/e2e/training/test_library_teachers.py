"""Teachers of other libraries and of other classes: in a cohort, with a cache and with a store, as alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import library_models as made
import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

pytestmark = pytest.mark.e2e
OPTIONS: dict[str, Any] = dict(teacher_metrics=[{}], check=False)
Teacher = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Overrides with a SegFormer of five classes, which it gives about a fifth each; three of them are mapped."""
    folder = made.save(made.segformer, tmp_path_factory.mktemp("segformer"), ("disc", "sky", "sea", "sand", "rest"))
    whole = {"disc": "optic disc", "rest": "background", "sky": "background"}

    def overrides(classes: Any = None, unmapped: str = "mask", **more: Any) -> dict[str, Any]:
        entry = dict(type="hf", path=str(folder), classes=classes or whole, unmapped=unmapped, input_size=64)
        losses = {"distill.losses": {"logits": {"type": "KL"}, "hard": {"type": "DKD"}}}
        return {"distill.teachers": [entry], "distill.features.teacher": [], **losses, **more}

    return overrides


def weights_in(folder: Path) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = torch.load(folder / "last.pth", weights_only=True)["state_dict"]
    return state


def equal(left: Path, right: Path) -> bool:
    first, second = weights_in(left), weights_in(right)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_in_a_cohort_and_alone(tiny: Tiny, tmp_path: Path, teacher: Teacher) -> None:
    """Two students share the teacher, one maps fewer classes, so that all pixels are masked: each is as it is alone."""
    few = {"disc": "optic disc", "rest": "background"}
    configs = {
        "a": tiny.load("distill", teacher(), iters=4),
        "b": tiny.load("distill", teacher(**{"distill.task_weight": 0.5}), iters=4),
        "c": tiny.load("distill", teacher(few), iters=4),
    }

    def student(name: str, cfg: Config) -> Callable[[Lane], None]:
        def run(lane: Lane) -> None:
            train(cfg, tmp_path / "cohort" / name, lane=lane, **OPTIONS)

        return run

    lockstep = Lockstep()
    for name, cfg in configs.items():
        lockstep.join(name, student(name, cfg))
    while lockstep.step():
        pass
    for name, cfg in configs.items():
        train(cfg, tmp_path / "alone" / name, **OPTIONS)
        assert equal(tmp_path / "cohort" / name, tmp_path / "alone" / name)
    weightless = {"distill.losses.logits.weight": 0.0, "distill.losses.hard.weight": 0.0}
    more = {"masked": weightless, "renormalised": {}}
    for name, overrides in more.items():
        cfg = tiny.load("distill", {**teacher(few, "renormalise"), **overrides}, iters=4)
        train(cfg, tmp_path / name, **OPTIONS)
    assert equal(tmp_path / "masked", tmp_path / "alone" / "c")
    assert not equal(tmp_path / "renormalised", tmp_path / "alone" / "c")


def test_with_a_cache_and_with_a_store(tiny: Tiny, tmp_path: Path, teacher: Teacher) -> None:
    """What is kept is of the mapped classes; a second run finds all of it, and another map none of it."""
    cache = {"+distill.cache": {"mode": "on", "dir": str(tmp_path / "cache")}}
    store = {"+distill.store": {"views": 2, "bits": 32, "dir": str(tmp_path / "store")}}
    for name, kept in (("cache", cache), ("store", store)):
        cfg = tiny.load("distill", teacher(**kept), iters=4)
        train(cfg, tmp_path / name / "first", **OPTIONS)
        again = train(cfg, tmp_path / name / "second", **OPTIONS)
        assert equal(tmp_path / name / "first", tmp_path / name / "second")
        swapped = teacher({"disc": "background", "rest": "optic disc"}, **kept)
        other_map = train(tiny.load("distill", swapped, iters=4), tmp_path / name / "swapped", **OPTIONS)
        if name == "cache":
            assert again["teacher_cache"]["hit_rate"] == 1.0 > other_map["teacher_cache"]["hit_rate"]
        else:
            assert again["teacher_store"]["computed"] == 0 < other_map["teacher_store"]["computed"]
