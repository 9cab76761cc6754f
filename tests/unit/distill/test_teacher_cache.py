"""Remembered outputs are the computed ones, to the last bit, whoever computed them and whatever else was in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cached_teacher import ON, Counted, cache_of, files
from conftest import Tiny

from rdistill.config.distill_spec import CacheSpec, distill_spec
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.distill.teacher import CACHE_FOLDER
from rdistill.distill.teacher_cache import TeacherCache
from rdistill.training.teacher_plan import (
    apply_plan,
    choose_plan,
    expected_hits,
    pipeline_variants,
    training_variants,
    with_plan,
)

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BYTES = 4 * 3 * 8 * 8  # of one image, and of what Counted says of it


def test_only_what_is_missing_is_computed() -> None:
    cache, compute = cache_of(None), Counted()
    first = cache(IMAGES[:2], ["twice"], compute)
    assert torch.equal(first["twice"], IMAGES[:2] * 2) and compute.images == 2
    first["twice"].zero_()  # what a caller does to an answer is its own affair
    again = cache(IMAGES[[0, 2, 0, 2]], ["twice"], compute)
    assert torch.equal(again["twice"], IMAGES[[0, 2, 0, 2]] * 2)
    assert compute.images == 3 and (cache.images, cache.hits) == (6, 3)
    cache(IMAGES[:1], ["twice", "thrice"], compute)  # a feature that nobody has asked for yet
    assert compute.images == 4
    assert cache(IMAGES[:1].double(), ["twice"], compute)["twice"].dtype == torch.float64


def test_budget_of_memory() -> None:
    """What came first stays: in a second pass the same share is known, where dropping the oldest would know nothing."""
    cache, compute = cache_of(None, memory=2 * BYTES), Counted()
    for _ in range(2):
        for image in IMAGES.split(1):
            cache(image, ["twice"], compute)
    assert cache.hits == 2 and compute.images == 6


def test_files_outlive_the_process(tmp_path: Path) -> None:
    cache_of(tmp_path)(IMAGES, ["twice"], Counted())
    later, compute = cache_of(tmp_path), Counted()
    assert torch.equal(later(IMAGES, ["twice"], compute)["twice"], IMAGES * 2)
    assert compute.images == 0 and later.on_disk == 4
    second = Counted()
    cache_of(tmp_path, b"two")(IMAGES, ["twice"], second)
    assert second.images == 4  # of another teacher nothing is known


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "another"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    cache_of(tmp_path)(IMAGES, ["twice"], Counted())
    file, second = files(tmp_path)[:2]
    content = file.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "zeros": bytes(len(content)),
        "empty": b"",
        "another": content[:16] + second.read_bytes()[16:],
    }
    file.write_bytes(damaged[damage])
    cache, compute = cache_of(tmp_path), Counted()
    assert torch.equal(cache(IMAGES, ["twice"], compute)["twice"], IMAGES * 2)
    assert compute.images == 1 and file.read_bytes() == content


def test_budget_of_the_disk(tmp_path: Path) -> None:
    """Nothing is written over the budget; what was left by a teacher that nobody uses makes room."""
    small = 3 * 2500  # bytes; a file takes about 2,000
    cache_of(tmp_path, disk=small, memory=0)(IMAGES, ["twice"], Counted())
    old = files(tmp_path)
    assert 1 <= len(old) < 4 and sum(file.stat().st_size for file in old) <= small
    cache_of(tmp_path, b"two", disk=small, memory=0)(IMAGES, ["twice"], Counted())
    assert not set(old) & set(files(tmp_path)) and files(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, compute = cache_of(tmp_path / "file" / "cache"), Counted()
    for _ in range(2):
        cache(IMAGES, ["twice"], compute)
    assert compute.images == 4 and cache.hits == 4


def test_gives_up_by_itself() -> None:
    cache, compute = TeacherCache(lambda: b"one", CacheSpec(), None, patience=20), Counted()
    images = torch.randn(30, 3, 8, 8)
    outputs = cache(images, ["twice"], compute)
    assert cache.gave_up and torch.equal(outputs["twice"], images * 2)


def test_an_output_that_is_not_one_an_image() -> None:
    with pytest.raises(UserError, match="feature 'windows' of a teacher is not one for each image"):
        cache_of(None)(IMAGES, ["windows"], lambda images: {"windows": images.reshape(3, 8, 8)})


# --- when it is on --------------------------------------------------------------------------------------------------


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
    ("overrides", "iters", "on", "line"),
    [
        ({}, 60, True, "cache on: 90% of the images are expected to be known, "),  # 20 passes, of which 2 are new
        ({}, 3, False, "cache off: only 0% of the images are expected to be known"),
        ({"distill.cache": False}, 60, False, ""),
        ({"distill.cache": {"memory": 10, "disk": 10}}, 60, False, "cache off: 0% of the images"),
        (ON, 3, True, "cache on"),
    ],
)
def test_on_and_off(tiny: Tiny, tmp_path: Path, overrides: dict[str, Any], iters: int, on: bool, line: str) -> None:
    cfg = tiny.load("distill", {"distill.losses.hidden": None, **overrides}, iters=iters)
    plan = choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg), tmp_path)
    assert plan.cache == on and ("".join(plan.lines[-1:])).startswith(line), plan.lines
    settled = with_plan(LoadedConfig.of(cfg), plan)
    assert settled.distill == distill_spec(settled.cfg) and settled.distillation.cache.mode == ("on" if on else "off")


def test_a_parameter_is_no_output_of_an_image(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill", {"distill.features.teacher": ["decode_head.conv_seg.weight"] * 3}, iters=60)
    cfg = with_overrides(cfg, {"distill.losses": {"hidden": {"type": "AT", "pair": [0, 0]}}})
    plan = choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg), tmp_path)
    assert not plan.cache and "is a parameter" in plan.lines[-1]
    with pytest.raises(UserError, match=r"distill.cache: a teacher's feature .* is a parameter"):
        choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg).with_overrides(ON), tmp_path)


def test_mistakes(tiny: Tiny) -> None:
    for value, message in (
        ("sometimes", "distill.cache.mode: must be 'auto', 'on' or 'off', got 'sometimes'"),
        ({"memry": 1}, "unknown key distill.cache.memry; did you mean 'memory'?"),
        ({"disk": "much"}, "distill.cache.disk: must be a size such as '2GiB', got 'much'"),
    ):
        with pytest.raises(UserError) as caught:
            with_overrides(tiny.load("distill"), {"distill.cache": value})
        assert caught.value.problems[0].startswith(message), caught.value.problems


# --- runs -----------------------------------------------------------------------------------------------------------


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
