"""The images a sweep draws at its end: which images and runs, and what is painted where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NUM_VAL, Run, Tiny
from mmengine.config import Config
from PIL import Image
from typed_files import unlike

from rdistill.config.load import LoadedConfig
from rdistill.schemas.pictures import Pictures
from rdistill.sweeps.findings.images import (
    BOTH,
    ONLY_BASELINE,
    ONLY_BEST,
    _draw,
    a_typical_pair,
    errors,
    image_iou,
    overlay,
)
from rdistill.sweeps.study.records import TrialRecord
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.trial.trial import Study


def run(name: str, score: float, **more: object) -> TrialRecord:
    return TrialRecord(
        name, {}, status="finished", history=[{"iter": 1, "seconds": 1.0, "mIoU": score}], **{"seed": 0, **more}
    )


def test_iou_of_an_image() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
    predicted = np.array([[0, 0, 1, 0], [0, 0, 1, 1]])
    assert image_iou(predicted, truth, 3) == pytest.approx((4 / 5 + 2 / 3) / 2 * 100)  # class 2 does not occur
    assert image_iou(truth, truth, 2) == 100
    assert image_iou(predicted, np.full_like(truth, 255), 2) is None
    assert image_iou(np.full_like(truth, 2), truth, 3) == 0


def test_a_class_is_its_colour_over_the_photograph() -> None:
    photo = np.full((1, 3, 3), 100, np.uint8)
    painted = overlay(photo, np.array([[0, 1, 255]]), np.array([[0, 0, 0], [255, 215, 0]]))
    assert painted[0].tolist() == [[100, 100, 100], [185, 163, 45], [100, 100, 100]]


def test_errors_are_coloured_by_whose_they_are() -> None:
    photo = np.zeros((1, 4, 3), np.uint8)
    best, alone = np.array([[True, False, True, False]]), np.array([[False, True, True, False]])
    painted = errors(photo, best, alone)[0].tolist()
    assert [tuple(pixel) for pixel in painted[:3]] == [ONLY_BEST, ONLY_BASELINE, BOTH] and painted[3] == [166] * 3
    assert tuple(errors(photo, best, None)[0, 2].tolist()) == ONLY_BEST


def test_which_runs_are_compared() -> None:
    searched = [run("baseline", 50), run("b0001", 55, phase="baseline"), run("t0001", 60), run("t0002", 70)]
    assert [record.id for record in a_typical_pair(searched) if record] == ["t0002", "b0001"]
    assert a_typical_pair([TrialRecord("t0001", {}, 0)]) == (None, None)
    assert a_typical_pair(searched[:1]) == (None, searched[0])


def test_of_confirmed_runs_the_seed_with_the_middle_gain() -> None:
    confirmed = [
        run(f"{of}-s{seed}", score, phase="confirm", of=of, seed=seed)
        for of, scores in (("baseline", (50, 50, 50)), ("t0001", (51, 59, 55)), ("t0002", (90, 40, 20)))
        for seed, score in enumerate(scores, start=1)
    ]
    best, alone = a_typical_pair([run("t0003", 99), run("baseline", 1), *confirmed])
    assert best is not None and alone is not None and (best.id, alone.id) == ("t0001-s3", "baseline-s3")


def test_images_of_real_models(tiny: Tiny, distilled_run: Run, tmp_path: Path) -> None:
    check_images(tiny.load("distill"), distilled_run, tmp_path)


def test_images_of_models_of_one_channel(
    tiny: Tiny, one_channel: dict[str, Any], one_channel_run: tuple[Run, list[Path]], tmp_path: Path
) -> None:
    """mmseg's masks hold floats there."""
    check_images(tiny.load("distill", one_channel), one_channel_run[0], tmp_path)


def check_images(cfg: Config, trained: Run, tmp_path: Path) -> None:
    for name in ("baseline", "t0001"):
        folder = tmp_path / "trials" / name
        folder.mkdir(parents=True)
        shutil.copyfile(trained.folder / "best.pth", folder / "best.pth")
        cfg.dump(folder / "trial.py")
    (tmp_path / "pictures").mkdir()
    spec = SweepSpec.model_validate({"config": "c.py", "space": {"a": {"type": "choice", "values": [1]}}})
    index = _draw(Study(LoadedConfig.of(cfg), spec, str(tmp_path), [], False), "t0001", "baseline")
    json.dumps(index)
    assert unlike(index, Pictures) == []
    sizes = index["models"]
    assert set(sizes) == {"teacher", "baseline", "best"} and sizes["best"] == sizes["baseline"] != sizes["teacher"]
    assert all(value > 0 for figures in sizes.values() for value in figures.values()) and "CPU" in index["device"]
    assert (index["images"], index["scored"]) == (NUM_VAL, NUM_VAL) and len(index["per_image"]) == NUM_VAL
    assert [entry["which"] for entry in index["chosen"]] == ["worst", "median", "best"]
    scores = [entry["IoU"]["best"] for entry in index["chosen"]]
    assert scores == sorted(scores) and all(entry["best"] == entry["baseline"] for entry in index["per_image"])
    for entry in index["chosen"]:
        assert set(entry["files"]) == {"image", "truth", "teacher", "baseline", "best", "difference"}
        panels = {kind: np.asarray(Image.open(tmp_path / "pictures" / file)) for kind, file in entry["files"].items()}
        assert len({panel.shape for panel in panels.values()}) == 1 and (panels["best"] == panels["baseline"]).all()
        assert (panels["truth"] != panels["image"]).any()  # the disc is painted
