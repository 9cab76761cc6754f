"""Adds images without masks to the data stream: their dataset, and pipeline steps that mark pixels without a label.

Such an image goes through the pipeline of the training images with a mask in which every pixel is :data:`NO_LABEL`.
Padding gets the label that the pipeline gives it (usually 255), so padding and image differ. No class has the number
NO_LABEL: if a loss on labels gets such a mask by mistake, it raises an error.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict

from rdistill.config.distill_spec import DistillSpec, UnlabeledSpec
from rdistill.config.load import LoadedConfig
from rdistill.config.walk import dataset_nodes, is_wrapper, kind_of, leaves, without_stream
from rdistill.core.errors import UserError
from rdistill.core.words import counted
from rdistill.data.splits import data_splits, describe_data
from rdistill.models.quiet_mmseg import DATASETS, TRANSFORMS
from rdistill.schemas.data import Packed
from rdistill.schemas.mappings import DataInfo

NO_LABEL = 254  # a pixel that is part of the image
MARK = "unlabeled"  # key in the metainfo of a sample without a mask
IMAGE_AREA = "gt_on_image"  # a temporary field of a sample: 0 on the image, another value on padding


@TRANSFORMS.register_module()
class BlankMask(BaseTransform):
    """Gives an image without a mask a mask in which no pixel has a label; replaces ``LoadAnnotations``."""

    def transform(self, results: DataInfo) -> DataInfo:
        results["gt_seg_map"] = np.full(results["img"].shape[:2], NO_LABEL, np.uint8)
        results["seg_fields"].append("gt_seg_map")
        return results


@TRANSFORMS.register_module()
class NoteImage(BaseTransform):
    """Marks the pixels of the image before any padding; comes after ``LoadAnnotations``."""

    def transform(self, results: DataInfo) -> DataInfo:
        results[IMAGE_AREA] = np.zeros(results["gt_seg_map"].shape[:2], np.uint8)
        results["seg_fields"].append(IMAGE_AREA)
        return results


@TRANSFORMS.register_module()
class MarkIgnored(BaseTransform):
    """Gives the ignored pixels of an image the label :data:`NO_LABEL`; padding keeps the ignored label.

    Args:
        ignore_index: the ignored label.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index

    def transform(self, results: DataInfo) -> DataInfo:
        if IMAGE_AREA not in results:
            raise UserError("distill.on_ignored: no step Load...Annotations of the pipeline reads the mask")
        results["seg_fields"].remove(IMAGE_AREA)
        padded, mask = results.pop(IMAGE_AREA), results["gt_seg_map"]
        rows, columns = (mask_side - noted_side for mask_side, noted_side in zip(mask.shape, padded.shape, strict=True))
        if rows > 0 or columns > 0:  # mmcv's Pad adds rows below and columns on the right, but only to the mask
            padded = np.pad(padded, ((0, max(rows, 0)), (0, max(columns, 0))), constant_values=1)
        ignored = mask == self.ignore_index
        if padded.shape != mask.shape or (~ignored & (padded != 0)).any():
            raise UserError(
                "distill.on_ignored: a step of the pipeline moves the mask but not the other fields of `seg_fields`; "
                "remove the step, or on_ignored"
            )
        results["gt_seg_map"] = np.where(ignored & (padded == 0), NO_LABEL, mask)
        return results


def without_label(sample: Packed) -> Packed:
    """Marks a sample as unlabeled: its mask only separates the image from padding."""
    sample["data_samples"].set_metainfo({MARK: True})
    return sample


class TrainingData(NamedTuple):
    """The datasets that a run's training draws from, as sections of a config."""

    labeled: ConfigDict
    unlabeled: ConfigDict | None
    per_batch: int  # images without masks that are added to each batch, in all workers together

    def unlabeled_for(self, images: int, batch_size: int) -> int:
        """Returns the number of images without masks for ``images`` of the ``batch_size``, rounded up."""
        return -(-self.per_batch * images // batch_size)


def training_data(config: Config | LoadedConfig) -> TrainingData:
    """Returns the datasets of a config's training, without the wrapper of the stream."""
    run = LoadedConfig.of(config)
    cfg, spec = run.cfg, run.distill
    dataset = without_stream(cfg.train_dataloader.dataset)
    if spec is None:
        return TrainingData(dataset, None, 0)
    if spec.unlabeled is None:
        return TrainingData(_with_marked_ignored(dataset, cfg, spec), None, 0)
    count = spec.unlabeled.count(int(cfg.train_dataloader.batch_size))
    return TrainingData(_with_marked_ignored(dataset, cfg, spec), unlabeled_dataset(dataset, spec.unlabeled), count)


def unlabeled_images(config: Config | LoadedConfig) -> list[Path]:
    """Returns the files that ``distill.unlabeled`` adds; empty without the section."""
    data = training_data(config)
    if data.unlabeled is None:
        return []
    (leaf,) = (leaf for _, leaf in leaves(data.unlabeled))
    folder = str(leaf.data_prefix.img_path)
    files = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return sorted(file for file in files if file.name.endswith(leaf.img_suffix))


def describe_unlabeled(run: LoadedConfig, images: Sequence[Path] | None = None) -> str:
    """Says how many images without masks there are in all and in a batch; empty without the section.

    Args:
        run: the run.
        images: result of :func:`unlabeled_images`, if known: listing a large or remote folder again takes time.
    """
    if run.distill is None or run.distill.unlabeled is None:
        return ""
    images = unlabeled_images(run) if images is None else images
    batch = int(run.cfg.train_dataloader.batch_size)
    per_batch = run.distill.unlabeled.count(batch)
    return f"{counted(len(images), 'image')} without masks, {per_batch} beside {batch} labelled ones in each batch"


def count_images(run: LoadedConfig) -> dict[str, int]:
    """Returns the number of images of each kind: training and validation images, and those without masks if any."""
    splits = data_splits(run.cfg)
    counts = {
        kind: sum(len(split.entries) for split in splits if split.name == name)
        for name, kind in (("train", "training"), ("val", "validation"))
    }
    has_unlabeled = run.distill is not None and run.distill.unlabeled is not None
    return {**counts, "without_masks": len(unlabeled_images(run))} if has_unlabeled else counts


def describe_images(run: LoadedConfig) -> str:
    """Says how many images of each kind a run with ``distill.unlabeled`` has; empty without the section."""
    added = describe_unlabeled(run)
    return f"{describe_data(data_splits(run.cfg))}, {added}" if added else ""


def unlabeled_dataset(training: Mapping[str, Any], spec: UnlabeledSpec) -> ConfigDict:
    """Returns the section of a dataset of images without masks, with the pipeline of the training images.

    Wrappers with a pipeline (``MultiImageMixDataset``) are kept; of several datasets the first one counts.
    """
    node: Any = training
    wrappers = []
    while is_wrapper(node):
        if node.get("pipeline"):
            wrappers.append(node)
        inner = node.get("dataset") or node["datasets"]
        node = inner[0] if isinstance(inner, (list, tuple)) else inner
    section = dict(
        type="BaseSegDataset",
        data_prefix=dict(img_path=spec.img_dir, seg_map_path=None),
        img_suffix=spec.img_suffix or suffix_of(node),
        pipeline=[_without_label(step) for step in node.get("pipeline") or () if kind_of(step) != "MapLabels"],
    )
    for key in ("metainfo", "backend_args"):
        if node.get(key) is not None:
            section[key] = node[key]
    for wrapper in reversed(wrappers):
        section = {**wrapper, "dataset": section}
    return ConfigDict(copy.deepcopy(section))


def suffix_of(dataset: Mapping[str, Any]) -> str:
    """Returns the suffix of a dataset's image names."""
    lazy = ConfigDict(copy.deepcopy(dict(dataset)))
    lazy.update(lazy_init=True, pipeline=[])
    return str(DATASETS.build(lazy).img_suffix)


def _without_label(step: Any) -> Any:
    """Returns a step of a pipeline, changed for an image without a mask."""
    kind = kind_of(step)
    if kind.startswith("Load") and "Annotation" in kind:
        return dict(type="BlankMask")
    # RandomCrop searches a crop in which no class is too frequent; without classes the search would always fail.
    return {**step, "cat_max_ratio": 1.0} if kind == "RandomCrop" else step


def _with_marked_ignored(dataset: ConfigDict, cfg: Config, spec: DistillSpec) -> ConfigDict:
    """Adds steps that distinguish ignored pixels from padding, if distillation uses ignored pixels."""
    if not spec.on_ignored:
        return dataset
    head = cfg.model.decode_head
    ignored = (head[-1] if isinstance(head, (list, tuple)) else head).get("ignore_index", 255)
    for _, node in dataset_nodes(dataset):
        if node.get("pipeline"):
            node.pipeline = _add_marking_steps(node.pipeline, ignored)
    return dataset


def _add_marking_steps(pipeline: Sequence[Any], ignored: int) -> list[Any]:
    steps = []
    for step in pipeline:
        kind = kind_of(step)
        if kind == "PackSegInputs":
            steps.append(dict(type="MarkIgnored", ignore_index=ignored))
        steps.append(step)
        if kind.startswith("Load") and "Annotation" in kind:
            steps.append(dict(type="NoteImage"))
    return steps
