"""Workers, resumed runs, cohorts and confirmations read the same views from one store."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import random_crops
import torch
from conftest import Recorder, Tiny
from rich.console import Console
from torch import Tensor

from rdistill.config.load import with_overrides
from rdistill.config.shortcuts import Shortcuts
from rdistill.distill.store_files import ABOUT, store_files, teachers_in
from rdistill.distributed.cluster import connected
from rdistill.sweeps.run import SweepOptions, run_sweep
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

pytestmark = pytest.mark.e2e

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
InWorkers = Callable[[int, Callable[[int], Any]], list[Any]]
OPTIONS: dict[str, Any] = dict(teacher_metrics=[{}], check=False)


def stored(tiny: Tiny, folder: Path, **shortcuts: Any) -> Any:
    store = {"views": 2, "bits": 32, "dir": str(folder)}
    cfg = tiny.load("distill", {"distill.losses.hidden": None, "distill.store": store}, **shortcuts)
    steps = cfg.train_dataloader.dataset.pipeline
    steps.insert(len(steps) - 1, dict(type="PhotoMetricDistortion"))
    return cfg


def mosaic(cfg: Any) -> Any:
    """Each training image is made of four, by mmseg's own wrapper."""
    cfg = with_overrides(cfg, {})
    inner = cfg.train_dataloader.dataset.to_dict()
    loading = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    mixing = [
        dict(type="RandomMosaic", prob=1.0, img_scale=(32, 32)), dict(type="Resize", scale=(32, 32)),
        dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs"),
    ]  # fmt: skip
    cfg.train_dataloader.dataset = dict(
        type="MultiImageMixDataset", dataset={**inner, "pipeline": loading}, pipeline=mixing
    )
    return cfg


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "last.pth", weights_only=True)["state_dict"]


def test_two_workers_share_one_stream_of_views(
    tiny: Tiny, tmp_path: Path, in_workers: InWorkers, state_equal: Equal
) -> None:
    cfg = stored(tiny, tmp_path / "store", batch_size=4, iters=3, val_interval=3)

    def run(name: str) -> Callable[[int], Any]:
        return lambda rank: train(cfg, tmp_path / name, **OPTIONS)["teacher_store"]

    assert in_workers(2, run("filling")) == [{"views": 2, "images": 12, "computed": 12, "damaged": 0}] * 2
    assert in_workers(2, run("warm")) == [{"views": 2, "images": 12, "computed": 0, "damaged": 0}] * 2
    assert state_equal(weights(tmp_path / "filling"), weights(tmp_path / "warm"))
    assert run("alone")(0)["computed"] == 0  # one worker takes the same views


def test_two_workers_share_the_views_of_mosaics(
    tiny: Tiny, tmp_path: Path, in_workers: InWorkers, state_equal: Equal
) -> None:
    """Each made of four images that the view chooses; data loading processes draw the same ones."""
    cfg = mosaic(stored(tiny, tmp_path / "store", batch_size=4, iters=3, val_interval=3))

    def run(name: str, **overrides: Any) -> Callable[[int], Any]:
        own = with_overrides(cfg, overrides)
        return lambda rank: train(own, tmp_path / name, **OPTIONS)["teacher_store"]

    assert in_workers(2, run("filling")) == [{"views": 2, "images": 12, "computed": 12, "damaged": 0}] * 2
    assert (
        in_workers(2, run("warm", **{"train_dataloader.num_workers": 1}))
        == [{"views": 2, "images": 12, "computed": 0, "damaged": 0}] * 2
    )
    assert state_equal(weights(tmp_path / "filling"), weights(tmp_path / "warm"))
    assert run("alone")(0)["computed"] == 0


def test_several_teachers_of_other_sizes(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """Each keeps its own outputs, also two with the same weights that see images at other sizes."""
    entry = {"config": str(tiny.folder / "teacher.py"), "checkpoint": str(tiny.folder / "teacher" / "best.pth")}
    cfg = with_overrides(
        tiny.load("distill", {
            "distill.teachers": [entry, {**entry, "input_size": [64, 48]}],
            "distill.losses": {
                "first": {"type": "KL", "teacher": 0, "weight": {"share": 0.5}},
                "second": {"type": "CWD", "teacher": 1, "weight": {"share": 0.25}},
            },
            "distill.store": {"views": 2, "bits": 32, "dir": str(tmp_path / "store")},
        }),
        {},
    )  # fmt: skip
    train(with_overrides(cfg, {"distill.store.keep": "nothing"}), tmp_path / "without", **OPTIONS)
    filling = train(cfg, tmp_path / "filling", **OPTIONS)["teacher_store"]
    files = store_files(tmp_path / "store")
    first, second = ([file for file in files.listed(name) if ABOUT not in file.name] for name in teachers_in(files))
    assert len(first) == len(second) > 6 and filling["images"] == 24  # two views of an image may be the same pixels
    assert filling["computed"] == len(first) + len(second)
    assert train(cfg, tmp_path / "warm", **OPTIONS)["teacher_store"]["computed"] == 0
    for name in ("filling", "warm"):
        assert state_equal(weights(tmp_path / "without"), weights(tmp_path / name)), name


def test_a_resumed_run_and_a_mosaic(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    class Cut(Recorder):
        def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
            if iteration == 4:
                raise KeyboardInterrupt

    cfg = mosaic(stored(tiny, tmp_path / "store"))
    without = with_overrides(cfg, {"distill.store.keep": "nothing"})
    train(without, tmp_path / "without", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, tmp_path / "cut", listener=Cut([], [], []), **OPTIONS)
    rest = train(cfg, tmp_path / "cut", resume=True, **OPTIONS)["teacher_store"]
    assert (rest["images"], rest["computed"]) == (4, 4)
    assert state_equal(weights(tmp_path / "without"), weights(tmp_path / "cut"))
    again = train(cfg, tmp_path / "again", seed=5, **OPTIONS)["teacher_store"]
    assert (again["images"], again["computed"]) == (12, 0)


def test_a_cohort_of_students_that_ask_for_other_features(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    store = {"views": 2, "bits": 32, "keep": "features", "dir": str(tmp_path / "store")}
    cfg = tiny.load("distill", {"distill.store": store}, val_interval=6)
    configs = {
        "logits": with_overrides(cfg, {"distill.losses.hidden": None}),
        "hidden": with_overrides(cfg, {"distill.losses.logits": None}),
    }
    lockstep = Lockstep()
    for name, run_cfg in configs.items():

        def run(lane: Lane, run_cfg: Any = run_cfg, name: str = name) -> None:
            train(run_cfg, tmp_path / name, lane=lane, **OPTIONS)

        lockstep.join(name, run)
    while lockstep.step():
        pass
    for name, run_cfg in configs.items():
        alone = with_overrides(run_cfg, {"distill.store.keep": "nothing", "distill.store.dir": None})
        if name == "logits":  # what its cohort kept serves it alone
            assert train(run_cfg, tmp_path / "again", **OPTIONS)["teacher_store"]["computed"] == 0
        train(alone, tmp_path / f"{name}-alone", **OPTIONS)
        assert state_equal(weights(tmp_path / name), weights(tmp_path / f"{name}-alone")), name


def test_a_student_that_joins_a_cohort_later_counts_what_its_own_steps_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    """Of the store and of the cache; the other student has trained for two steps by then."""
    store = {"views": 2, "bits": 32, "dir": str(tmp_path / "store")}
    cache = {"mode": "on", "dir": str(tmp_path / "cache"), "disk": "0B"}
    configs = {
        "teacher_store": tiny.load("distill", {"distill.losses.hidden": None, "distill.store": store}, iters=4),
        "teacher_cache": tiny.load("distill", {"distill.losses.hidden": None, "distill.cache": cache}, iters=4),
    }
    for kind, cfg in configs.items():
        uses: dict[str, Any] = {}
        lockstep = Lockstep()

        def run(lane: Lane, name: str, kind: str = kind, cfg: Any = cfg, uses: dict[str, Any] = uses) -> None:
            uses[name] = train(cfg, tmp_path / kind / name, lane=lane, **OPTIONS)[kind]

        lockstep.join("first", lambda lane: run(lane, "first"))
        for _ in range(2):
            assert lockstep.step()
        lockstep.join("later", lambda lane: run(lane, "later"))
        while lockstep.step():
            pass
        assert {name: use["images"] for name, use in uses.items()} == {"first": 8, "later": 8}, kind


@pytest.mark.slow
def test_a_confirmation_over_a_store(tiny: Tiny) -> None:
    """All of its runs read what the search has computed; each row says how many views its student has seen."""
    root = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))  # short, for Ray's sockets
    study = {
        "config": str(tiny.folder / "distill.py"),
        "set": {"distill.losses.hidden": None, "distill.store": {"views": 1, "dir": str(root / "store")}},
        "space": {"distill.losses.logits.weight": {"type": "choice", "values": [3.0]}},
        "search": {"type": "grid"},
        "confirm": {"top": 1, "seeds": [1, 2]},
        "headroom": "off",
    }
    shortcuts = Shortcuts(data_root=str(tiny.data_root), size="32", batch_size=2, iters=3, val_interval=3)
    text = io.StringIO()
    try:
        with connected(None, root / "ray"):
            run_sweep(study, root / "s", SweepOptions(), shortcuts=shortcuts, console=Console(file=text, width=200))
        assert "store: about 0% of the views are there; 100% of a training are computed" in text.getvalue()
        with open(root / "s" / "results.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["distill.store.views"] for row in rows} == {"1"} and len(rows) >= 6
        for seed in (1, 2):
            metrics = json.loads((root / "s" / "trials" / f"t0001-s{seed}" / "metrics.json").read_text())
            assert metrics["teacher_store"]["computed"] == 0
    finally:
        shutil.rmtree(root, ignore_errors=True)


CROPS: dict[str, Any] = {"distill.losses.hidden": None, "distill.store": {"views": 2, "bits": 32}}


def crops(tiny: Tiny, overrides: Mapping[str, Any] | None = None) -> Any:
    return random_crops.crops(tiny, {**CROPS, **(overrides or {})})


def test_a_run_from_the_store_is_the_run_without(
    tiny: Tiny, tmp_path: Path, state_equal: Callable[..., bool], recorder: Recorder
) -> None:
    """To the last bit; also in a cohort."""
    options: dict[str, Any] = dict(teacher_metrics=[{}], check=False)
    folder = {"distill.store.dir": str(tmp_path / "kept")}
    without = train(crops(tiny, {"distill.store.keep": "nothing"}), tmp_path / "without", **options)
    assert without["teacher_store"] == {"views": 2, "images": 12, "computed": 12, "damaged": 0}
    filling = train(crops(tiny, folder), tmp_path / "filling", listener=recorder, **options)
    assert filling["teacher_store"]["computed"] == 12  # 6 images, 2 passes
    assert "store: 2 views of each image; logits kept in 32 bits" in recorder.starts[0][2]["teacher_lines"]
    warm = train(crops(tiny, folder), tmp_path / "warm", seed=0, **options)
    assert warm["teacher_store"]["computed"] == 0
    other = train(crops(tiny, folder), tmp_path / "other", seed=1, **options)
    assert other["teacher_store"]["computed"] == 0  # the views are those of every seed
    lockstep = Lockstep()

    def run(lane: Lane) -> None:
        train(crops(tiny, folder), tmp_path / "cohort", lane=lane, **options)

    lockstep.join("cohort", run)
    while lockstep.step():
        pass
    expected = weights(tmp_path / "without")
    for name in ("filling", "warm", "cohort"):
        assert state_equal(expected, weights(tmp_path / name)), name
    assert not state_equal(expected, weights(tmp_path / "other"))
