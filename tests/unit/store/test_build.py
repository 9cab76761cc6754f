"""What a task of a build computes is what a run asks for. Whole builds, by Ray, are in tests/e2e/store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Tiny

from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.schemas.store import StorePlan
from rdistill.store.build import _Builder, _chunks, _require_room
from rdistill.training.run import train


def crops(tiny: Tiny, **store: Any) -> Any:
    cfg = tiny.load("distill", {"distill.store": {"views": 2, "keep": "features", "bits": 32, **store}})
    steps = cfg.train_dataloader.dataset.pipeline
    steps.insert(len(steps) - 1, dict(type="RandomCrop", crop_size=(32, 32)))
    steps.insert(len(steps) - 1, dict(type="PhotoMetricDistortion"))  # no two views are alike
    return cfg


def builder_of(cfg: Any) -> _Builder:
    run = LoadedConfig.of(cfg)
    return _Builder(run, build_distiller(run, seed=0))


def test_a_run_finds_what_was_built(tiny: Tiny, tmp_path: Path) -> None:
    cfg = crops(tiny, dir=str(tmp_path / "store"))
    builder = builder_of(cfg)
    plan = builder.plan()
    assert (plan["images"], plan["views"], plan["batch"]) == (6, 2, 2) and len(plan["outputs"]) == 4
    pairs = [pair for chunk in _chunks(plan, 1) for pair in chunk]
    done = builder.build(pairs)
    assert (done["views"], done["computed"], done["damaged"]) == (12, 12, 0)
    assert abs(done["written"] - 12 * plan["bytes_a_view"]) <= 12 * 4 * 16  # checksums
    assert builder_of(cfg).build(pairs)["computed"] == 0
    options: dict[str, Any] = dict(teacher_metrics=[{}], check=False)
    use = train(cfg, tmp_path / "run", **options)["teacher_store"]
    assert (use["images"], use["computed"]) == (12, 0)
    other_pair = with_overrides(cfg, {"distill.losses.hidden.pair": [0, 0]})  # another of the listed features
    assert train(other_pair, tmp_path / "other", **options)["teacher_store"]["computed"] == 0


def test_images_of_several_sizes_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    cfg = crops(tiny, dir=str(tmp_path / "store"))
    steps = cfg.train_dataloader.dataset.pipeline
    steps.insert(len(steps) - 1, dict(type="RandomResize", scale=(64, 64), ratio_range=(0.6, 1.0), keep_ratio=True))
    cfg.model.data_preprocessor.size = None
    with pytest.raises(UserError, match=r"distill.store: training images have several sizes"):
        builder_of(cfg).build([(image, view) for image in range(6) for view in range(2)])


@pytest.mark.parametrize(
    ("store", "line"),
    [
        ("distill.store=None", "error: distill.store: is not set, so no run would read the outputs"),
        ("distill.store={'views': 2}", "error: distill.store.dir: is not set; name the folder or URI"),
        ("distill.store={'keep': 'nothing', 'dir': 'a'}", "error: distill.store.keep: 'nothing' stores no outputs"),
    ],
)
def test_mistakes(tiny: Tiny, command: Command, store: str, line: str) -> None:
    result = command(
        "store", "build", tiny.folder / "distill.py", "--data-root", tiny.data_root, "--size", 32,
        "--set", "distill.losses.hidden=None", "--set", store,
    )  # fmt: skip
    assert result.status == 2 and result.err.startswith(line) and result.err.count("\n") == 1, result


def test_chunks_and_room(tiny: Tiny, tmp_path: Path) -> None:
    plan = StorePlan(images=5, views=3, teachers=[], outputs=[], bytes_a_view=10**12, batch=2, notes=[])
    chunks = list(_chunks(plan, 2))
    assert [len(chunk) for chunk in chunks] == [2] * 7 + [1] and chunks[0] == [(0, 0), (1, 0)]
    assert len({pair for chunk in chunks for pair in chunk}) == 15
    with pytest.raises(UserError, match=r"distill\.store\.dir: the store takes 15 TB, and .* are free at "):
        _require_room(plan, LoadedConfig.of(crops(tiny, dir=str(tmp_path / "store"))))
