"""`pairs` of a sweep: all, auto or a list; what cannot be compared is left out before the first trial."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.sweeps.check import choose_pairs
from rdistill.sweeps.study.space import check_space, decode, distributions, feature_counts, fix_pairs
from rdistill.sweeps.study.spec import SweepSpec

KEY = "distill.losses.hidden.pair"
FEATURES = dict(
    student=("backbone.layer1", "backbone.layer4", "decode_head.image_pool"),  # strides 4, 8, and pooled
    teacher=("backbone.layer2", "decode_head.sep_bottleneck", "decode_head.image_pool"),  # 8, 4, and pooled
)
POOLED = {(0, 2), (1, 2), (2, 0), (2, 1)}


def sweep_of(pairs: Any, search: str = "grid") -> SweepSpec:
    search_part = dict(type=search, num_trials=None if search == "grid" else 3)
    return SweepSpec.model_validate(
        dict(config="x.py", space={KEY: dict(type="pairs", pairs=pairs)}, search=search_part)
    )


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Config:
    return tiny.load("distill", {"distill.features": FEATURES, "distill.losses.hidden.pair": (1, 0)})


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("all", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]),
        ("auto", [(0, 1), (1, 0), (2, 2)]),
        ([[2, 2], [0, 2], [1, 1]], [(2, 2), (1, 1)]),
    ],
)
def test_pairs_that_remain(base: Config, pairs: Any, expected: list[tuple[int, int]]) -> None:
    distiller = build_distiller(base, seed=0)
    spec = sweep_of(pairs)
    check_space(spec, LoadedConfig.of(base), "x.yaml")
    settled, left_out = choose_pairs(LoadedConfig.of(base), spec, distiller)
    assert [tuple(pair) for pair in settled.space[KEY].pairs] == expected  # type: ignore[union-attr]
    num_left_out = 1 if isinstance(pairs, list) else len(POOLED)
    assert len(left_out) == num_left_out and all("is pooled to 1 x 1" in line for line in left_out)
    assert f"space.{KEY}: [0, 2]: the teacher's is pooled to 1 x 1, the other is 8 x 8" in left_out

    # What the trials get is a list: the searcher's choices, their number, and a resume do not look at shapes again.
    distill = distill_spec(base)
    assert distill is not None
    again, nothing = choose_pairs(LoadedConfig.of(base), settled, distiller)
    assert again == settled and nothing == []
    choices = distributions(settled.space, distill)[KEY].choices  # type: ignore[union-attr]
    assert [tuple(decode({KEY: choice}, settled.space)[KEY]) for choice in choices] == expected
    assert settled.num_trials(feature_counts(distill)) == len(expected)


def test_no_pair_is_left(base: Config) -> None:
    with pytest.raises(UserError) as caught:
        choose_pairs(LoadedConfig.of(base), sweep_of([[0, 2], [2, 0]]), build_distiller(base, seed=0))
    first, *reasons = caught.value.problems
    assert first == f"space.{KEY}: no pair is left of 2: none of them can be compared" and len(reasons) == 2


def test_auto_without_near_strides(base: Config) -> None:
    distill = distill_spec(base)
    assert distill is not None
    with pytest.raises(UserError, match="no strides within a factor of 2"):
        fix_pairs(sweep_of("auto"), distill, [(1, 8, 4, 4)], {0: [(1, 8, 32, 32)]}, (128, 128))


def test_pairs_of_another_teacher(tiny: Tiny) -> None:
    """A loss's pairs point into the features of its own teacher."""
    teacher = dict(config="teacher.py", checkpoint="teacher/best.pth")
    base = tiny.load(
        "distill",
        {
            "distill.teachers": [teacher, {**teacher, "features": ("decode_head.image_pool", "backbone.layer4")}],
            "distill.losses.hidden.teacher": 1,
        },
    )
    settled, left_out = choose_pairs(LoadedConfig.of(base), sweep_of([[1, 0], [1, 1]]), build_distiller(base, seed=0))
    assert settled.space[KEY].pairs == [(1, 1)] and len(left_out) == 1  # type: ignore[union-attr]
