"""Images without masks in the data stream: the data set that reads them, and the steps that say where no label is.

Such an image goes through the pipeline of the training images, with a mask in which every pixel is :data:`NO_LABEL`.
Whatever the pipeline pads has the label that it gives to padding (255 as a rule), so that the two differ. No
class has that number: a loss on labels that was given such a mask by mistake raises, and learns nothing wrong.
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
from rdistill.models.quiet_mmseg import DATASETS, TRANSFORMS
from rdistill.schemas.data import Packed
from rdistill.schemas.mappings import DataInfo

NO_LABEL = 254  # a pixel that is part of the image
MARK = "unlabeled"  # key in the metainfo of a sample without a mask
ON_IMAGE = "gt_on_image"  # a field of a sample on its way: 0 on the image, another value where a step has padded


@TRANSFORMS.register_module()
class BlankMask(BaseTransform):
    """Gives an image without a mask one in which no pixel has a label; takes the place of ``LoadAnnotations``."""

    def transform(self, results: DataInfo) -> DataInfo:
        results["gt_seg_map"] = np.full(results["img"].shape[:2], NO_LABEL, np.uint8)
        results["seg_fields"].append("gt_seg_map")
        return results


@TRANSFORMS.register_module()
class NoteImage(BaseTransform):
    """Notes which pixels are the image's, before any is padded; stands behind ``LoadAnnotations``."""

    def transform(self, results: DataInfo) -> DataInfo:
        results[ON_IMAGE] = np.zeros(results["gt_seg_map"].shape[:2], np.uint8)
        results["seg_fields"].append(ON_IMAGE)
        return results


@TRANSFORMS.register_module()
class MarkIgnored(BaseTransform):
    """Gives the ignored pixels of an image the label :data:`NO_LABEL`; those of padding keep the ignored one.

    Args:
        ignore_index: the ignored label.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index

    def transform(self, results: DataInfo) -> DataInfo:
        if ON_IMAGE not in results:
            raise UserError("distill.on_ignored: no step Load...Annotations of the pipeline reads the mask")
        results["seg_fields"].remove(ON_IMAGE)
        padded, mask = results.pop(ON_IMAGE), results["gt_seg_map"]
        rows, columns = (there - noted for there, noted in zip(mask.shape, padded.shape, strict=True))
        if rows > 0 or columns > 0:  # mmcv's Pad, which adds rows below and columns at the right of the mask alone
            padded = np.pad(padded, ((0, max(rows, 0)), (0, max(columns, 0))), constant_values=1)
        ignored = mask == self.ignore_index
        if padded.shape != mask.shape or (~ignored & (padded != 0)).any():
            raise UserError(
                "distill.on_ignored: a step of the pipeline moves the mask and not the other fields of `seg_fields`; "
                "leave the step out, or on_ignored"
            )
        results["gt_seg_map"] = np.where(ignored & (padded == 0), NO_LABEL, mask)
        return results


def without_label(sample: Packed) -> Packed:
    """A sample as it left the pipeline, marked as one whose mask says where the image is, and nothing else."""
    sample["data_samples"].set_metainfo({MARK: True})
    return sample


class TrainingData(NamedTuple):
    """The data sets that a run's training draws from, as sections of a config."""

    labeled: ConfigDict
    unlabeled: ConfigDict | None
    per_batch: int  # images without masks that are added to each batch, over all workers together

    def part_of(self, images: int, batch_size: int) -> int:
        """How many of them go with ``images`` of a batch's ``batch_size``; one at least, where there are any."""
        return -(-self.per_batch * images // batch_size)


def training_data(config: Config | LoadedConfig) -> TrainingData:
    """What a config's training draws from, without the stream around it."""
    run = LoadedConfig.of(config)
    cfg, spec = run.cfg, run.distill
    dataset = without_stream(cfg.train_dataloader.dataset)
    if spec is None:
        return TrainingData(dataset, None, 0)
    if spec.unlabeled is None:
        return TrainingData(_on_ignored(dataset, cfg, spec), None, 0)
    count = spec.unlabeled.count(int(cfg.train_dataloader.batch_size))
    return TrainingData(_on_ignored(dataset, cfg, spec), unlabeled_dataset(dataset, spec.unlabeled), count)


def unlabeled_images(config: Config | LoadedConfig) -> list[Path]:
    """The files that ``distill.unlabeled`` adds, as the data set of them finds them; none without the section."""
    data = training_data(config)
    if data.unlabeled is None:
        return []
    (leaf,) = (leaf for _, leaf in leaves(data.unlabeled))
    folder = str(leaf.data_prefix.img_path)
    files = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return sorted(file for file in files if file.name.endswith(leaf.img_suffix))


def describe_unlabeled(run: LoadedConfig, images: Sequence[Path] | None = None) -> str:
    """How many images without masks there are, and how many of them a batch has; empty without the section.

    ``images``: those of :func:`unlabeled_images`, where they are known: the folder may be large, and far away.
    """
    if run.distill is None or run.distill.unlabeled is None:
        return ""
    images = unlabeled_images(run) if images is None else images
    batch = int(run.cfg.train_dataloader.batch_size)
    per_batch = run.distill.unlabeled.count(batch)
    return f"{counted(len(images), 'image')} without masks, {per_batch} beside {batch} labelled ones in each batch"


def unlabeled_dataset(training: Mapping[str, Any], spec: UnlabeledSpec) -> ConfigDict:
    """The section of the data set of images without masks: read and augmented as the training images are.

    Of wrappers those stay that have a pipeline (``MultiImageMixDataset``); with several data sets the first counts.
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
    """What the names of a data set's images end in."""
    lazy = ConfigDict(copy.deepcopy(dict(dataset)))
    lazy.update(lazy_init=True, pipeline=[])
    return str(DATASETS.build(lazy).img_suffix)


def _without_label(step: Any) -> Any:
    """A step of a pipeline as it is for an image without a mask."""
    kind = kind_of(step)
    if kind.startswith("Load") and "Annotation" in kind:
        return dict(type="BlankMask")
    # A crop is looked for until no class has too much of it: with no class it would be looked for in vain.
    return {**step, "cat_max_ratio": 1.0} if kind == "RandomCrop" else step


def _on_ignored(dataset: ConfigDict, cfg: Config, spec: DistillSpec) -> ConfigDict:
    """The training images so that their ignored pixels differ from padding, where distillation sees them."""
    if not spec.on_ignored:
        return dataset
    head = cfg.model.decode_head
    ignored = (head[-1] if isinstance(head, (list, tuple)) else head).get("ignore_index", 255)
    for _, node in dataset_nodes(dataset):
        if node.get("pipeline"):
            node.pipeline = _marking(node.pipeline, ignored)
    return dataset


def _marking(pipeline: Sequence[Any], ignored: int) -> list[Any]:
    steps = []
    for step in pipeline:
        kind = kind_of(step)
        if kind == "PackSegInputs":
            steps.append(dict(type="MarkIgnored", ignore_index=ignored))
        steps.append(step)
        if kind.startswith("Load") and "Annotation" in kind:
            steps.append(dict(type="NoteImage"))
    return steps
