"""Checks the folder of images without masks before training."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from mmengine.config import Config

from rdistill.checks.data import inspect_data
from rdistill.checks.scored_training_images import same_files
from rdistill.config.load import LoadedConfig
from rdistill.config.walk import leaves
from rdistill.data.reading import Loaders
from rdistill.data.splits import SampleFiles, Split, data_splits
from rdistill.data.unlabeled import describe_unlabeled, training_data, unlabeled_images
from rdistill.losses import LOSSES

MAX_SHOWN = 3  # number of suffixes that a line lists


def unlabeled_notes(run: LoadedConfig) -> list[str]:
    """Returns a note for each loss that cannot use images without masks."""
    if run.distill is None or run.distill.unlabeled is None:
        return []
    return [
        f"distill.losses.{name}: {loss.type} needs labels, so it leaves out images without masks"
        for name, loss in run.distill.losses.items()
        if LOSSES[loss.type].label
    ]


def inspect_unlabeled(config: Config | LoadedConfig, *, full: bool = False) -> tuple[list[str], str]:
    """Returns problems of the images of ``distill.unlabeled``, one line each, and a description of the images.

    A problem is: no image has the suffix, an image is also a validation or test image, or a file cannot be read.

    Args:
        config: config of the run.
        full: decode every file; see :func:`rdistill.checks.data.inspect_data`.
    """
    run = LoadedConfig.of(config)
    spec = run.distill
    if spec is None or spec.unlabeled is None:
        return [], ""
    data = training_data(run)
    assert data.unlabeled is not None
    (leaf,) = (leaf for _, leaf in leaves(data.unlabeled))
    folder, suffix = Path(spec.unlabeled.img_dir), leaf.img_suffix
    if not folder.is_dir():
        return [f"distill.unlabeled.img_dir: no such folder {folder}; give a folder of images"], ""
    images = unlabeled_images(run)
    if not images:
        files = (Path(name) for _, _, names in os.walk(folder) for name in names)
        counts = Counter(file.suffix or "without a suffix" for file in files).most_common(MAX_SHOWN)
        contents = ", ".join(f"{count} {kind}" for kind, count in counts) or "no file at all"
        return [
            f"distill.unlabeled.img_dir: {folder} has no images that end in {suffix}, got {contents}; set img_suffix, "
            f"or give another folder"
        ], ""
    scored = [entry["img_path"] for split in data_splits(run.cfg, ("val", "test")) for entry in split.entries]
    leaked = list(same_files(scored, [str(image) for image in images]))
    if leaked:
        return [
            f"distill.unlabeled.img_dir: {len(leaked)} of its {len(images)} images are validation or test images, such "
            f"as {leaked[0]}: the scores would be of images that were trained on; give a folder without them"
        ], ""
    loaders = Loaders(leaf.get("pipeline") or ())
    split = Split("unlabeled", [SampleFiles(img_path=str(image)) for image in images], loaders=loaders)
    return inspect_data([split], full=full).problems, describe_unlabeled(run, images)
