"""What a folder of transformers' becomes: which kind of network, which classes, which normalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.teachers.libraries import hf


class Files:
    def find_folder(self, name: str) -> Path:
        return Path(name)


def made(folder: Path, architecture: str, **options: Any) -> Any:
    labels = {"0": "rest", "1": "disc", "2": "cup"}
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], "id2label": labels}))
    return hf(path=str(folder), files=Files(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "gives"),
    [
        ("SegformerForSemanticSegmentation", "logits"),
        ("Mask2FormerForUniversalSegmentation", "masks"),
        ("ViTForImageClassification", "features"),
    ],
)
def test_the_architecture_says_what_it_gives(architecture: str, gives: str, tmp_path: Path) -> None:
    built = made(tmp_path, architecture, mean=[1, 2, 3], std=[4, 5, 6], rgb=False)
    assert built.model["backbone"]["gives"] == gives
    assert built.classes == (() if gives == "features" else ("rest", "disc", "cup"))
    head = built.model["decode_head"]
    assert head == (dict(type="FeatureHead") if gives == "features" else dict(type="ModuleHead", num_classes=3))
    preprocessor = built.model["data_preprocessor"]
    assert (preprocessor["mean"], preprocessor["std"], preprocessor["bgr_to_rgb"]) == ([1, 2, 3], [4, 5, 6], False)


def test_without_a_normalisation_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no preprocessor_config.json, .* set mean and std"):
        made(tmp_path, "SegformerForSemanticSegmentation")
    with pytest.raises(UserError, match="mean: must be three numbers on a scale of 0 to 255, got"):
        made(tmp_path, "SegformerForSemanticSegmentation", mean=[1], std=[1, 1, 1])
