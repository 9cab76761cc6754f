"""A student's complexity, for sweeps with several objectives: parameters, FLOPs, latency."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn

from rdistill.config.walk import first_leaf, kind_of, steps
from rdistill.core.errors import error_line
from rdistill.core.files import read_json, write_json
from rdistill.core.words import counted
from rdistill.models.segmentor import blank_image, build_segmentor, training_size
from rdistill.models.shapes import describe
from rdistill.schemas.pictures import ModelSize

WARM_UP, REPEATS = 3, 15  # passes
UNMEASURED = "it does not run on a blank image: {}"
COMPLEXITY = "costs"  # a folder in the work dir, with the measured figures of each model


def complexity_of(cfg: Config, names: Collection[str], folder: Path) -> dict[str, float]:
    """The complexity of the model that a config describes.

    A model is measured once in a sweep, so that noise makes no difference between trials with the same model.

    Args:
        cfg: the student's config.
        names: the sweep's objectives; ``mIoU`` is ignored.
        folder: where measured figures are kept.

    Returns:
        Those of ``params``, ``flops`` (for one image at test size) and ``latency`` (median milliseconds for a single
        image on this device) that are in ``names``.
    """
    names = [name for name in names if name != "mIoU"]
    if not names:
        return {}
    size = test_size(cfg)
    model_cfg = cfg.model.to_dict()
    digest = hashlib.sha256(json.dumps([model_cfg, size], sort_keys=True, default=str).encode()).hexdigest()[:16]
    file = folder / f"{digest}.json"
    if not file.is_file():
        model = revert_sync_batchnorm(build_segmentor(model_cfg))
        write_json(file, _measure(model, names, size))
    measured = read_json(file, "remove it: it is measured again")
    return {name: float(measured[name]) for name in names}


def _measure(model: nn.Module, names: Collection[str], size: tuple[int, int]) -> dict[str, float]:
    figures: dict[str, float] = {"params": sum(weight.numel() for weight in model.parameters())}
    if "flops" in names:
        figures["flops"] = flops(model, size)
    if "latency" in names:
        figures["latency"] = latency_ms(model, size)
    return figures


def sizes_of(models: Mapping[str, nn.Module], size: tuple[int, int]) -> dict[str, ModelSize]:
    """Parameters, FLOPs and latency of each model: name -> figures.

    Models with the same layers share one measurement, so that noise makes no difference between them. A figure that
    cannot be measured is left out, and ``problem`` says why: a user's own teacher may not run on a blank image.

    Args:
        models: name -> model.
        size: height and width of the blank image.
    """
    sizes: dict[str, ModelSize] = {}
    size_of_layers: dict[str, ModelSize] = {}
    for name, model in models.items():
        layers = str(model)
        if layers not in size_of_layers:
            figures: ModelSize = {"params": sum(weight.numel() for weight in model.parameters())}
            for figure, measure in MEASURES.items():
                try:
                    figures[figure] = measure(model, size)
                except Exception as error:  # a model may raise any error
                    figures.setdefault("problem", UNMEASURED.format(error_line(error, 120)))
            size_of_layers[layers] = figures
        sizes[name] = size_of_layers[layers]
    return sizes


def device_name() -> str:
    """The name of the device that :func:`latency_ms` measures on."""
    threads = torch.get_num_threads()
    cpu = counted(threads, "CPU thread")
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu


def flops(model: nn.Module, size: tuple[int, int]) -> float:
    """Of a forward pass of one image, height x width ``size``: multiplications and additions."""
    return sum(layer.flops or 0 for layer in describe(model, size) if layer.depth == 1)


@torch.no_grad()
def latency_ms(model: nn.Module, size: tuple[int, int]) -> float:
    """Median milliseconds of the forward pass of one image of ``size`` (height, width), without preprocessing."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    image = blank_image(model, size)
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        model(image, mode="tensor")
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000.0 * median(times[WARM_UP:])


def test_size(cfg: Config) -> tuple[int, int]:
    """Height and width that validation resizes images to; the training size if validation resizes none."""
    for _, step in steps(first_leaf(cfg.val_dataloader.dataset).get("pipeline")):
        if kind_of(step) == "Resize" and step.get("scale") is not None:
            width, height = step["scale"]
            return int(height), int(width)
    return training_size(cfg)


MEASURES: Mapping[Literal["flops", "latency_ms"], Callable[[nn.Module, tuple[int, int]], float]] = {
    "flops": flops, "latency_ms": latency_ms,
}  # fmt: skip
