"""The layouts that rdistill declares; users declare theirs in the same way."""

from __future__ import annotations

from pathlib import Path

from rdistill.layouts.registry import register
from rdistill.schemas.mappings import PlainConfig

PAGE = "see 'Data in other layouts' in docs/configs.md"


@register("PaddleSeg", marks=("train_list.txt",))
def paddleseg(root: Path, split: str) -> PlainConfig:
    """PaddleSeg: a list for each split, with lines ``IMAGE MASK``."""
    prefix = dict(img_path="", seg_map_path="")
    return dict(type="PaddleSegDataset", ann_file=f"{split}_list.txt", data_prefix=prefix)


# The next layouts return no keys: a config for them must also name their classes.


@register("mmseg", marks=("img_dir", "ann_dir"), hint=f"name its folders in data_prefix, {PAGE}")
def mmseg(root: Path, split: str) -> PlainConfig:
    """``img_dir/train`` and ``ann_dir/train``, like most mmseg configs and `rdistill data synthetic`."""
    return {}


@register("Cityscapes", marks=("leftImg8bit", "gtFine"), hint=PAGE)
def cityscapes(root: Path, split: str) -> PlainConfig:
    """Cityscapes: a folder for each city."""
    return {}


@register("VOC", marks=("JPEGImages", "SegmentationClass"), hint=PAGE)
def voc(root: Path, split: str) -> PlainConfig:
    """Pascal VOC: lists in ``ImageSets/Segmentation``."""
    return {}


@register("ADE20K", marks=("images/training", "annotations/training"), hint=PAGE)
def ade20k(root: Path, split: str) -> PlainConfig:
    """ADE20K: label 0 is ignored."""
    return {}
