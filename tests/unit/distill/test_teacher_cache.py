"""Remembered outputs are the computed ones, to the last bit, whoever computed them and whatever else was in a batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cached_teacher import Counted, files, make_cache
from conftest import Tiny

from rdistill.config.distill_spec import CacheSpec
from rdistill.config.load import with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.teacher_cache import TeacherCache

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BYTES = 4 * 3 * 8 * 8  # one image's, and those of what Counted says of it


def test_only_what_is_missing_is_computed() -> None:
    cache, compute = make_cache(None), Counted()
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
    cache, compute = make_cache(None, memory=2 * BYTES), Counted()
    for _ in range(2):
        for image in IMAGES.split(1):
            cache(image, ["twice"], compute)
    assert cache.hits == 2 and compute.images == 6


def test_files_outlive_the_process(tmp_path: Path) -> None:
    make_cache(tmp_path)(IMAGES, ["twice"], Counted())
    later, compute = make_cache(tmp_path), Counted()
    assert torch.equal(later(IMAGES, ["twice"], compute)["twice"], IMAGES * 2)
    assert compute.images == 0 and later.on_disk == 4
    second = Counted()
    make_cache(tmp_path, b"two")(IMAGES, ["twice"], second)
    assert second.images == 4  # nothing is known of another teacher


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "another"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    make_cache(tmp_path)(IMAGES, ["twice"], Counted())
    file, second = files(tmp_path)[:2]
    content = file.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "zeros": bytes(len(content)),
        "empty": b"",
        "another": content[:16] + second.read_bytes()[16:],
    }
    file.write_bytes(damaged[damage])
    cache, compute = make_cache(tmp_path), Counted()
    assert torch.equal(cache(IMAGES, ["twice"], compute)["twice"], IMAGES * 2)
    assert compute.images == 1 and file.read_bytes() == content


def test_budget_of_the_disk(tmp_path: Path) -> None:
    """Nothing is written over the budget; what was left by a teacher that nobody uses makes room."""
    make_cache(tmp_path / "all")(IMAGES, ["twice"], Counted())
    small = sum(file.stat().st_size for file in files(tmp_path / "all")) - 1  # bytes; not all four files fit
    shutil.rmtree(tmp_path / "all")
    make_cache(tmp_path, disk=small, memory=0)(IMAGES, ["twice"], Counted())
    old = files(tmp_path)
    assert 1 <= len(old) < 4 and sum(file.stat().st_size for file in old) <= small
    make_cache(tmp_path, b"two", disk=small, memory=0)(IMAGES, ["twice"], Counted())
    assert not set(old) & set(files(tmp_path)) and files(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, compute = make_cache(tmp_path / "file" / "cache"), Counted()
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
        make_cache(None)(IMAGES, ["windows"], lambda images: {"windows": images.reshape(3, 8, 8)})


# --- when it is on --------------------------------------------------------------------------------------------------


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
