"""Runs a trained model on single images: loads any checkpoint safely, and uses the config's test pipeline."""

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
TIFF_SUFFIXES = (".tif", ".tiff")  # Pillow cannot read all TIFF files
MAX_PROBLEMS = 10  # problems that are listed; further ones are counted


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to predict, and the meaning of its outputs."""

    model: nn.Module  # the model with its weights, in eval mode
    pipeline: list[PlainConfig]  # transforms from an image file to the model's input; they read no labels
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # (red, green, blue) of each class
    meta: CheckpointMeta  # metadata of the checkpoint


def load_predictor(
    cfg: Config, checkpoint: str | Path, *, trust_checkpoint: bool = False, device: str = "cpu"
) -> Predictor:
    """Builds a config's model with the weights of a checkpoint of rdistill or plain mmseg.

    Raises:
        UserError: a key of the checkpoint does not fit, or the config has no pipeline for images.
    """
    model = revert_sync_batchnorm(build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint))
    return predictor_of(cfg, model, load_weights(model, checkpoint, trust=trust_checkpoint), device=device)


def predictor_of(cfg: Config, model: nn.Module, meta: CheckpointMeta, *, device: str = "cpu") -> Predictor:
    """Like :func:`load_predictor`, for a model that has its weights; ``meta`` belongs to their checkpoint.

    Raises:
        UserError: the config has no pipeline for images.
    """
    pipeline = first_leaf(cfg.val_dataloader.dataset).get("pipeline")
    if not pipeline:
        raise UserError(f"{cfg.filename}: val_dataloader.dataset.pipeline: is needed to read images, but absent")
    steps = [dict(copy.deepcopy(step)) for step in pipeline if kind_of(step) not in ("LoadAnnotations", "MapLabels")]
    classes, palette = _classes_and_palette(cfg, meta, num_classes(model))
    return Predictor(model.to(device).eval(), steps, classes, palette, meta)


@dataclass(frozen=True)
class ImageFiles:
    """The image files that names of files, folders and patterns refer to."""

    files: list[Path]  # the files without duplicates, in the given order
    left_out: list[str]  # a line for each entry of a folder that has an image's suffix but is no file


def image_files(names: Iterable[str | Path]) -> ImageFiles:
    """Collects image files from files, folders (without subfolders) and glob patterns.

    Raises:
        UserError: a name refers to no image.
    """
    files: list[Path] = []
    problems, left_out = [], []
    for name in map(str, names):
        path = Path(name).expanduser()
        matches: list[Path] = []
        if "\0" in name:
            problems.append(f"{name!r}: a path must not contain a NUL byte")
        elif path.is_file():
            matches = [path]
        elif path.is_dir():
            try:
                entries = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
            except OSError as error:
                problems.append(f"{name}: cannot be listed: {error.strerror}")
                continue
            matches = [entry for entry in entries if entry.is_file()]
            left_out += [f"{entry}: {_why_not_a_file(entry)}" for entry in entries if not entry.is_file()]
            problems += [] if matches else [f"{name}: holds no images ({', '.join(IMAGE_SUFFIXES)})"]
        elif os.path.lexists(path):
            problems.append(f"{name}: {_why_not_a_file(path)}")
        else:
            entries = sorted(map(Path, glob.glob(str(path), recursive=True)))
            matches = [entry for entry in entries if entry.is_file()]
            image_like = [entry for entry in entries if not entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES]
            left_out += [f"{entry}: {_why_not_a_file(entry)}" for entry in image_like]
            problems += [] if matches else [f"{name}: no such image, folder or pattern"]
        files += matches
    if problems:
        raise UserError(*problems)
    first_names = {os.path.abspath(file): file for file in reversed(files)}  # the first name of each file counts
    return ImageFiles([file for file in dict.fromkeys(files) if first_names[os.path.abspath(file)] == file], left_out)


def _why_not_a_file(path: Path) -> str:
    """Says what a path is that is no regular file."""
    if path.is_symlink() and not path.exists():
        return "is a broken link"
    return "is a folder, not an image" if path.is_dir() else "is no regular file"


def require_readable(images: Sequence[Path]) -> None:
    """Decodes files before a model is built, if Pillow can read their format; others are left to the pipeline.

    Raises:
        UserError: files are empty, truncated, damaged, cannot be opened, or have more pixels than Pillow accepts.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("ignore")  # Pillow warns at half of its limit, and about unknown tags
        raise_first_problems([problem for problem in pool.map(_file_problem, images) if problem is not None])


def raise_first_problems(problems: Sequence[str]) -> None:
    """Raises UserError with the first problems and the number of further ones, if there are any."""
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], f"... and {counted(len(problems) - MAX_PROBLEMS, 'more file')}"]
    if problems:
        raise UserError(*problems)


def _file_problem(path: Path) -> str | None:
    try:
        if path.stat().st_size == 0:
            return f"{path}: is an empty file"
        with Image.open(path) as image:
            if image.format != "TIFF":
                image.draft(
                    "L", (max(1, image.width // 8), max(1, image.height // 8))
                )  # reads the whole JPEG, but decodes it at an eighth of its size
                image.load()
    except UnidentifiedImageError:
        pillow_reads = path.suffix.lower() in IMAGE_SUFFIXES and path.suffix.lower() not in TIFF_SUFFIXES
        return f"{path}: cannot be read as an image: it is no {path.suffix[1:].upper()} file" if pillow_reads else None
    except Image.DecompressionBombError as error:
        count = texts.PIXELS_CLAIMED.read(error) or "too many"
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"{path}: its header claims {count} pixels, more than {limit}: not read; cut a real image into tiles"
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error
        reason = getattr(error, "strerror", None) or message_line(error, 160)
        return f"{path}: cannot be read as an image: {reason}"
    return None


def validation_images(cfg: Config) -> list[Path]:
    """Returns the image files of a config's validation set, in its order."""
    with blaming("val_dataloader.dataset"):
        dataset = DATASETS.build(copy.deepcopy(cfg.val_dataloader.dataset))
        return [Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset))]


@dataclass(frozen=True)
class Sample:
    """One image after the pipeline."""

    pixels: np.ndarray  # loaded values: height x width, or height x width x bands; integers or floats
    data: Batch  # input of the model's preprocessor

    def rgb(self, predictor: Predictor) -> np.ndarray:
        """Returns the image for display: height x width x 3, uint8."""
        return as_rgb(self.pixels, bgr=loads_bgr(predictor.pipeline))


def read_sample(predictor: Predictor, image: Path) -> Sample:
    """Reads an image with the config's pipeline.

    Raises:
        UserError: the pipeline cannot read it, or its number of channels differs from the model's.
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
    channels, expected = len(packed["inputs"]), input_channels(predictor.model)
    means = getattr(getattr(predictor.model, "data_preprocessor", None), "mean", None)
    if channels != expected and not (channels == 1 and means is not None and means.numel() == expected):
        raise UserError(f"{image}: the pipeline reads {channels} channels; the model needs {expected}")
    if packed["inputs"].is_floating_point() and packed["inputs"].isnan().any():
        raise UserError(f"{image}: contains pixels that are NaN; replace them first")
    return Sample(pixels, {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]})


@torch.no_grad()
def predict_mask(predictor: Predictor, image: Path | Sample) -> np.ndarray:
    """Predicts the class of each pixel at the image's own size: H x W, uint8 (uint16 for more than 256 classes).

    Raises:
        UserError: the model cannot use the image, or its outputs are not finite.
    """
    sample = image if isinstance(image, Sample) else read_sample(predictor, image)
    with _without_warnings():
        results = predictor.model.test_step(sample.data)  # type: ignore[operator]
    require_numbers(results)
    mask = results[0].pred_sem_seg.data.squeeze(0).cpu().numpy()
    return mask.astype(np.uint8 if len(predictor.classes) <= 256 else np.uint16)


@torch.no_grad()
def network_input(predictor: Predictor, image: Path | Sample) -> Tensor:
    """Returns the network's input for an image: 1 x channels x H x W, resized and normalised, float32."""
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
    """Returns names and colours of the classes from the checkpoint, else from the config, else generated ones."""
    dataset = first_leaf(cfg.val_dataloader.dataset)
    dataset_meta = getattr(DATASETS.get(dataset.get("type", "")), "METAINFO", None) or {}
    sources = [meta.get("dataset_meta") or {}, dataset.get("metainfo") or {}, dataset_meta]
    count = max(count, 2)  # one channel of logits means two classes
    classes = next((tuple(source["classes"]) for source in sources if len(source.get("classes") or ()) == count), None)
    palette = next((source["palette"] for source in sources if len(source.get("palette") or ()) == count), None)
    if palette is None:
        palette = np.random.RandomState(42).randint(0, 256, (count, 3)).tolist()
        palette[0] = [0, 0, 0]
    return (
        classes or tuple(f"class {index}" for index in range(count)),
        tuple((int(r), int(g), int(b)) for r, g, b in palette),
    )
