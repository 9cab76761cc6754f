"""The images of a sweep's end, of models that are built, loaded and run."""

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
    _draw,
)
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.trial.trial import Study

pytestmark = pytest.mark.e2e


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
