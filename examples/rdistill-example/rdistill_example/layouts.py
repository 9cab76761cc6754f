"""A layout of a data folder: how it is recognised, and what a dataset reads there."""

from pathlib import Path

import rdistill


@rdistill.layouts.register("ExamplePhotos", marks=("photos", "labels"))
def photos(root: Path, split: str) -> dict[str, object]:
    """photos/train/1.jpg with labels/train/1.png; the test images are those of the validation."""
    folder = "val" if split == "test" else split
    return dict(data_prefix=dict(img_path=f"photos/{folder}", seg_map_path=f"labels/{folder}"))
