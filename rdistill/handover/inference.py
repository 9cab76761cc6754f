"""A trained model on single images: loaded safely from any checkpoint, with the config's own test pipeline."""

from __future__ import annotations

import copy
import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from rdistill._compat import texts
from rdistill.config.walk import first_leaf, kind_of
from rdistill.core.errors import UserError, blaming, message_line
from rdistill.core.words import counted
from rdistill.data.images import as_rgb, loading_steps, loads_bgr
from rdistill.models.checkpoint import load_weights
from rdistill.models.packages import absent_packages
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.models.segmentor import build_segmentor, input_channels, num_classes, require_numbers
from rdistill.schemas.data import Batch
from rdistill.schemas.mappings import DataInfo, PlainConfig
from rdistill.schemas.run import CheckpointMeta

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TIFF_SUFFIXES = (".tif", ".tiff")  # Pillow does not know every kind of them
MOST_PROBLEMS = 10  # that are named; the others are counted


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to predict, and what its outputs mean."""

    model: nn.Module  # has its weights, and is in eval mode
    pipeline: list[PlainConfig]  # leads from an image file to the model's input; reads no labels
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB of each class
    meta: CheckpointMeta  # the checkpoint's


def load_predictor(
    cfg: Config, checkpoint: str | Path, *, trust_checkpoint: bool = False, device: str = "cpu"
) -> Predictor:
    """Builds a config's model with a checkpoint's weights: rdistill's or plain mmseg's.

    Raises:
        UserError: the checkpoint does not fit to the last key, or the config says nothing of its images.
    """
    model = revert_sync_batchnorm(build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint))
    return predictor_of(cfg, model, load_weights(model, checkpoint, trust=trust_checkpoint), device=device)


def predictor_of(cfg: Config, model: nn.Module, meta: CheckpointMeta, *, device: str = "cpu") -> Predictor:
    """As :func:`load_predictor`, of a model that has its weights; ``meta`` is that of the checkpoint they came from.

    Raises:
        UserError: the config says nothing of its images.
    """
    pipeline = first_leaf(cfg.val_dataloader.dataset).get("pipeline")
    if not pipeline:
        raise UserError(f"{cfg.filename}: val_dataloader.dataset.pipeline: is needed to read images, but absent")
    steps = [dict(copy.deepcopy(step)) for step in pipeline if kind_of(step) not in ("LoadAnnotations", "MapLabels")]
    classes, palette = _classes_and_palette(cfg, meta, num_classes(model))
    return Predictor(model.to(device).eval(), steps, classes, palette, meta)


@dataclass(frozen=True)
class ImageFiles:
    """The image files that some names stand for."""

    files: list[Path]  # each once, in the order given
    left_out: list[str]  # a line for each entry of a folder that looks like an image and is none


def image_files(names: Iterable[str | Path]) -> ImageFiles:
    """Image files out of files, folders (not their subfolders) and glob patterns.

    Raises:
        UserError: a name that stands for nothing.
    """
    files: list[Path] = []
    problems, left_out = [], []
    for name in map(str, names):
        path = Path(name).expanduser()
        inside: list[Path] = []
        if "\0" in name:
            problems.append(f"{name!r}: no path may hold a NUL byte")
        elif path.is_file():
            inside = [path]
        elif path.is_dir():
            try:
                entries = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
            except OSError as error:
                problems.append(f"{name}: cannot be listed: {error.strerror}")
                continue
            inside = [entry for entry in entries if entry.is_file()]
            left_out += [f"{entry}: {_what_it_is(entry)}" for entry in entries if not entry.is_file()]
            problems += [] if inside else [f"{name}: holds no images ({', '.join(IMAGE_SUFFIXES)})"]
        elif os.path.lexists(path):
            problems.append(f"{name}: {_what_it_is(path)}")
        else:
            entries = sorted(map(Path, glob.glob(str(path), recursive=True)))
            inside = [entry for entry in entries if entry.is_file()]
            looks = [entry for entry in entries if not entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES]
            left_out += [f"{entry}: {_what_it_is(entry)}" for entry in looks]
            problems += [] if inside else [f"{name}: no such image, folder or pattern"]
        files += inside
    if problems:
        raise UserError(*problems)
    once = {os.path.abspath(file): file for file in reversed(files)}  # the first of each stays
    return ImageFiles([file for file in dict.fromkeys(files) if once[os.path.abspath(file)] == file], left_out)


def _what_it_is(path: Path) -> str:
    """What an entry is that is no file."""
    if path.is_symlink() and not path.exists():
        return "is a link that leads to no file"
    return "is a folder, not an image" if path.is_dir() else "is no regular file"


def require_readable(images: Sequence[Path]) -> None:
    """Decodes files before a model is built, as far as Pillow knows them; the rest is for the pipeline's loader.

    Raises:
        UserError: files that are empty, cut off, damaged, not to be opened, or of more pixels than Pillow takes.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of half of its limit, and of tags that it does not know
        raise_some([problem for problem in pool.map(_file_problem, images) if problem is not None])


def raise_some(problems: Sequence[str]) -> None:
    """Raises UserError with the first problems and the number of the others, if there are any."""
    if len(problems) > MOST_PROBLEMS:
        problems = [*problems[:MOST_PROBLEMS], f"... and {counted(len(problems) - MOST_PROBLEMS, 'more file')}"]
    if problems:
        raise UserError(*problems)


def _file_problem(path: Path) -> str | None:
    try:
        if path.stat().st_size == 0:
            return f"{path}: is an empty file"
        with Image.open(path) as image:
            if image.format != "TIFF":
                image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))  # all of a JPEG, at an eighth
                image.load()
    except UnidentifiedImageError:
        pillow_reads = path.suffix.lower() in IMAGE_SUFFIXES and path.suffix.lower() not in TIFF_SUFFIXES
        return f"{path}: cannot be read as an image: is no {path.suffix[1:].upper()} file" if pillow_reads else None
    except Image.DecompressionBombError as error:
        count = texts.PIXELS_CLAIMED.read(error) or "too many"
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"{path}: its header claims {count} pixels, more than {most}: not read; cut a real image into tiles"
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error
        reason = getattr(error, "strerror", None) or message_line(error, 160)
        return f"{path}: cannot be read as an image: {reason}"
    return None


def validation_images(cfg: Config) -> list[Path]:
    """The image files of a config's validation set, in its order."""
    with blaming("val_dataloader.dataset"):
        dataset = DATASETS.build(copy.deepcopy(cfg.val_dataloader.dataset))
        return [Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset))]


@dataclass(frozen=True)
class Sample:
    """One image, as the pipeline reads it."""

    pixels: np.ndarray  # what was loaded: height x width, or height x width x bands; whole numbers or floats
    data: Batch  # what the model's preprocessor takes

    def rgb(self, predictor: Predictor) -> np.ndarray:
        """What a person is shown of it: height x width x 3, uint8."""
        return as_rgb(self.pixels, bgr=loads_bgr(predictor.pipeline))


def read_sample(predictor: Predictor, image: Path) -> Sample:
    """Reads an image by the config's own pipeline.

    Raises:
        UserError: the pipeline cannot read it, or it has other channels than the model takes.
    """
    count = loading_steps(predictor.pipeline)
    loaded: DataInfo = dict(img_path=str(image), reduce_zero_label=False)
    try:
        with _without_warnings():
            loaded = Compose(copy.deepcopy(predictor.pipeline[:count]))(loaded)
            pixels = np.asarray(loaded["img"])
            packed = Compose(copy.deepcopy(predictor.pipeline[count:]))(loaded)
    except Exception as error:  # OpenCV and mmcv raise anything from AttributeError to FileNotFoundError
        if absent := absent_packages(predictor.pipeline):
            raise UserError(f"val_dataloader.dataset.pipeline: {absent}") from None
        raise UserError(f"{image}: cannot be read as an image: {message_line(error, 160)}") from None
    channels, taken = len(packed["inputs"]), input_channels(predictor.model)
    means = getattr(getattr(predictor.model, "data_preprocessor", None), "mean", None)
    if channels != taken and not (channels == 1 and means is not None and means.numel() == taken):
        raise UserError(f"{image}: has {channels} channels as the pipeline reads it; the model takes {taken}")
    if packed["inputs"].is_floating_point() and packed["inputs"].isnan().any():
        raise UserError(f"{image}: holds pixels that are no number (NaN); fill them first")
    return Sample(pixels, {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]})


@torch.no_grad()
def predict_mask(predictor: Predictor, image: Path | Sample) -> np.ndarray:
    """The class of each pixel, at the image's own size: H x W, uint8 (uint16 from 257 classes up).

    Raises:
        UserError: the file is not an image that the model takes, or the model's outputs are not numbers.
    """
    sample = image if isinstance(image, Sample) else read_sample(predictor, image)
    with _without_warnings():
        results = predictor.model.test_step(sample.data)  # type: ignore[operator]
    require_numbers(results)
    mask = results[0].pred_sem_seg.data.squeeze(0).cpu().numpy()
    return mask.astype(np.uint8 if len(predictor.classes) <= 256 else np.uint16)


@torch.no_grad()
def network_input(predictor: Predictor, image: Path | Sample) -> Tensor:
    """What the network itself is given for an image: 1 x channels x H x W, resized and normalised, float32."""
    sample = image if isinstance(image, Sample) else read_sample(predictor, image)
    return predictor.model.data_preprocessor(sample.data, False)["inputs"].float()  # type: ignore[operator]


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _classes_and_palette(
    cfg: Config, meta: CheckpointMeta, count: int
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours from the checkpoint, else from the config's data, else made up."""
    dataset = first_leaf(cfg.val_dataloader.dataset)
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
