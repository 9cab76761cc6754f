"""A trained model on single images: loaded safely from any checkpoint, with the config's own test pipeline."""

from __future__ import annotations

import copy
import glob
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from rdistill.checkpoint import load_weights
from rdistill.errors import UserError, blaming
from rdistill.quiet_mmseg import DATASETS
from rdistill.segmentor import build_segmentor, num_classes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to be asked, and what its outputs mean."""

    model: nn.Module  # in eval mode, with its weights
    pipeline: list[dict[str, Any]]  # from an image file to the model's input; reads no labels
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB of each class
    meta: dict[str, Any]  # the checkpoint's


def load_predictor(
    cfg: Config, checkpoint: str | Path, *, trust_checkpoint: bool = False, device: str = "cpu"
) -> Predictor:
    """Builds a config's model with a checkpoint's weights: rdistill's or plain mmseg's.

    Raises:
        UserError: the checkpoint does not fit to the last key, or the config says nothing of its images.
    """
    model = revert_sync_batchnorm(build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint))
    meta = load_weights(model, checkpoint, trust=trust_checkpoint)
    pipeline = cfg.val_dataloader.dataset.get("pipeline")
    if not pipeline:
        raise UserError(f"{cfg.filename}: val_dataloader.dataset.pipeline: is needed to read images, but absent")
    steps = [dict(copy.deepcopy(step)) for step in pipeline if step["type"] != "LoadAnnotations"]
    classes, palette = _classes_and_palette(cfg, meta, num_classes(model))
    return Predictor(model.to(device).eval(), steps, classes, palette, meta)


def image_files(names: Iterable[str | Path]) -> list[Path]:
    """Image files out of files, folders (not their subfolders) and glob patterns, each once, in the order given.

    Raises:
        UserError: a name that stands for nothing.
    """
    found: list[Path] = []
    problems = []
    for name in map(str, names):
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            problems += [] if inside else [f"{name}: holds no images ({', '.join(IMAGE_SUFFIXES)})"]
        elif path.is_file():
            inside = [path]
        else:
            inside = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
            problems += [] if inside else [f"{name}: no such image, folder or pattern"]
        found += inside
    if problems:
        raise UserError(*problems)
    return list(dict.fromkeys(found))


def validation_images(cfg: Config) -> list[Path]:
    """The image files of a config's validation set, in its order."""
    with blaming("val_dataloader.dataset"):
        dataset = DATASETS.build(copy.deepcopy(cfg.val_dataloader.dataset))
        return [Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset))]


@torch.no_grad()
def predict_mask(predictor: Predictor, image: Path) -> np.ndarray:
    """The class of each pixel, at the image's own size: H x W, uint8 (uint16 from 257 classes up).

    Raises:
        UserError: the file is not an image.
    """
    data = _read(predictor, image)
    with _without_warnings():
        (sample,) = predictor.model.test_step(data)  # type: ignore[operator]
    mask = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
    return mask.astype(np.uint8 if len(predictor.classes) <= 256 else np.uint16)


@torch.no_grad()
def network_input(predictor: Predictor, image: Path) -> Tensor:
    """What the network itself is given for an image: 1 x 3 x H x W, resized and normalised, float32."""
    data = predictor.model.data_preprocessor(_read(predictor, image), False)  # type: ignore[operator]
    return data["inputs"].float()


def _read(predictor: Predictor, image: Path) -> dict[str, list[Any]]:
    try:
        with _without_warnings():
            packed = Compose(copy.deepcopy(predictor.pipeline))(dict(img_path=str(image), reduce_zero_label=False))
    except Exception as error:  # OpenCV and mmcv raise anything from AttributeError to FileNotFoundError
        text = " ".join(str(error).split())[:160]
        raise UserError(f"{image}: cannot be read as an image: {text or type(error).__name__}") from None
    return {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _classes_and_palette(
    cfg: Config, meta: dict[str, Any], count: int
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours from the checkpoint, else from the config's data, else made up."""
    dataset = cfg.val_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    own = getattr(DATASETS.get(dataset.get("type", "")), "METAINFO", None) or {}
    sources = [meta.get("dataset_meta") or {}, dataset.get("metainfo") or {}, own]
    count = max(count, 2)  # one channel of logits tells two classes apart
    classes = next((tuple(s["classes"]) for s in sources if len(s.get("classes") or ()) == count), None)
    palette = next((s["palette"] for s in sources if len(s.get("palette") or ()) == count), None)
    if palette is None:
        palette = np.random.RandomState(42).randint(0, 256, (count, 3)).tolist()
        palette[0] = [0, 0, 0]
    return (
        classes or tuple(f"class {index}" for index in range(count)),
        tuple((int(r), int(g), int(b)) for r, g, b in palette),
    )
