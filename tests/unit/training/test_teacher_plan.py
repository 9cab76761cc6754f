"""Whether a teacher's outputs are kept, by what its images may become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cached_teacher import ON
from conftest import Tiny

from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.distill.teacher import CACHE_FOLDER
from rdistill.training.teacher_plan import (
    apply_plan,
    choose_plan,
    expected_hits,
    expected_known,
    pipeline_variants,
    training_variants,
    with_plan,
)


@pytest.mark.parametrize(
    ("flip", "expected"),
    [
        (dict(prob=0.5), [0.5, 0.5]),
        (dict(prob=1.0, direction="vertical"), [1.0]),
        (dict(prob=0.5, direction=["horizontal", "vertical"]), [0.5, 0.25, 0.25]),
        (dict(prob=[0.25, 0.5], direction=["horizontal", "vertical"]), [0.25, 0.25, 0.5]),
    ],
)
def test_versions_of_an_image(flip: dict[str, Any], expected: list[float]) -> None:
    assert pipeline_variants([dict(type="LoadImageFromFile"), dict(type="RandomFlip", **flip)]) == expected


def test_what_makes_new_images(tiny: Tiny) -> None:
    assert pipeline_variants([dict(type="RandomCrop")]) == "RandomCrop makes new images each time"
    assert training_variants(tiny.load("distill")) == [0.5, 0.5]
    mosaic = tiny.load("distill")
    mosaic.train_dataloader.dataset = dict(type="MultiImageMixDataset", dataset=mosaic.train_dataloader.dataset)
    assert training_variants(mosaic) == "MultiImageMixDataset may make new images each time"
    augmented = with_overrides(tiny.load("distill"), {"+model.data_preprocessor.batch_augments": [dict(type="X")]})
    assert "batch_augments" in training_variants(augmented)


def test_expected_hits_by_hand() -> None:
    assert expected_hits([1.0], 4) == 0.75
    assert expected_hits([0.5, 0.5], 1) == 0.0
    assert expected_hits([0.5, 0.5], 2) == 0.25  # two passes: the second is known with a probability of a half


@pytest.mark.parametrize(
    ("overrides", "iters", "on", "line", "known"),
    [
        ({}, 60, True, "cache on: 90% of the images are expected to be known, ", 0.9),  # 20 passes, of which 2 are new
        ({}, 3, False, "cache off: only 0% of the images are expected to be known", 0.0),
        ({"distill.cache": False}, 60, False, "", 0.0),
        ({"distill.cache": {"memory": 10, "disk": 10}}, 60, False, "cache off: 0% of the images", 0.0),
        (ON, 6, True, "cache on", 0.25),  # two passes; the second is known with a probability of a half
    ],
)
def test_on_and_off(
    tiny: Tiny, tmp_path: Path, overrides: dict[str, Any], iters: int, on: bool, line: str, known: float
) -> None:
    cfg = tiny.load("distill", {"distill.losses.hidden": None, **overrides}, iters=iters)
    plan = choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg), tmp_path)
    assert plan.cache == on and ("".join(plan.lines[-1:])).startswith(line), plan.lines
    settled = with_plan(LoadedConfig.of(cfg), plan)
    assert settled.distill == distill_spec(settled.cfg) and settled.distillation.cache.mode == ("on" if on else "off")
    assert expected_known(settled) == pytest.approx(known, abs=1e-3)


def test_a_parameter_is_no_output_of_an_image(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill", {"distill.features.teacher": ["decode_head.conv_seg.weight"] * 3}, iters=60)
    cfg = with_overrides(cfg, {"distill.losses": {"hidden": {"type": "AT", "pair": [0, 0]}}})
    plan = choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg), tmp_path)
    assert not plan.cache and "is a parameter" in plan.lines[-1]
    with pytest.raises(UserError, match=r"distill.cache: a teacher's feature .* is a parameter"):
        choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg).with_overrides(ON), tmp_path)


def test_teachers_and_variants_are_never_mixed(tiny: Tiny, tmp_path: Path) -> None:
    """Each of: other weights, another forward, other features beside it, has entries of its own."""
    last = str(tiny.folder / "teacher" / "last.pth")
    cases: list[dict[str, Any]] = [
        {}, {"distill.teachers.0.forward": "plain"}, {"distill.features.teacher": ["backbone.layer3.0.bn1"] * 3},
    ]  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    for index, overrides in enumerate([*cases, {"distill.teachers.0.checkpoint": last}]):
        cfg = tiny.load("distill", {**ON, **overrides})
        distiller = build_distiller(cfg, seed=0)
        teacher = distiller.teachers[0]
        if "distill.teachers.0.checkpoint" in overrides:
            teacher.model.decode_head.conv_seg.weight.data *= 2  # the tiny teacher's two checkpoints are the same
        plan = choose_plan(distiller, LoadedConfig.of(cfg), tmp_path / str(index))
        apply_plan(distiller, with_plan(LoadedConfig.of(cfg), plan).distillation, tmp_path / str(index), 100)
        teacher(images)
        assert teacher.cache is not None and teacher.cache.hits == 0
        assert len(list((tmp_path / CACHE_FOLDER).iterdir())) == index + 1
