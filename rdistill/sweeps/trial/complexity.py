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
COMPLEXITY = "costs"  # folder of a sweep: what was measured, by model


def complexity_of(cfg: Config, names: Collection[str], folder: Path) -> dict[str, float]:
    """Some of ``params``, ``flops`` (of one image at test size) and ``latency`` (ms a single image, median).

    Latency is that of the model on this device. A model is measured once a sweep: trials that differ in something
    else share one figure, and no noise makes them differ.
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
    """What each of some models costs, name -> figures; models that are alike share theirs, so that no noise differs.

    A figure that cannot be measured is left out, and ``problem`` says why: a teacher of one's own may not run on a
    blank image.

    Args:
        size: height and width of the blank image.
    """
    sizes: dict[str, ModelSize] = {}
    alike: dict[str, ModelSize] = {}
    for name, model in models.items():
        layers = str(model)
        if layers not in alike:
            figures: ModelSize = {"params": sum(weight.numel() for weight in model.parameters())}
            for figure, measure in MEASURES.items():
                try:
                    figures[figure] = measure(model, size)
                except Exception as error:  # a model raises anything
                    figures.setdefault("problem", UNMEASURED.format(error_line(error, 120)))
            alike[layers] = figures
        sizes[name] = alike[layers]
    return sizes


def device_name() -> str:
    """Of what :func:`latency_ms` measures on."""
    threads = torch.get_num_threads()
    cpu = counted(threads, "CPU thread")
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu


def flops(model: nn.Module, size: tuple[int, int]) -> float:
    """Of a forward pass of one image, height x width ``size``: multiplications and additions."""
    return sum(layer.flops or 0 for layer in describe(model, size) if layer.depth == 1)


@torch.no_grad()
def latency_ms(model: nn.Module, size: tuple[int, int]) -> float:
    """Median milliseconds of a forward pass of one image, height x width ``size``, without its preprocessing."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    image = blank_image(model, size)
    times = []
    for _ in range(WARM_UP + REPEATS):
        began = time.perf_counter()
        model(image, mode="tensor")
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000.0 * median(times[WARM_UP:])


def test_size(cfg: Config) -> tuple[int, int]:
    """Height and width that validation resizes to; those of training where it does not."""
    for _, step in steps(first_leaf(cfg.val_dataloader.dataset).get("pipeline")):
        if kind_of(step) == "Resize" and step.get("scale") is not None:
            width, height = step["scale"]
            return int(height), int(width)
    return training_size(cfg)


MEASURES: Mapping[Literal["flops", "latency_ms"], Callable[[nn.Module, tuple[int, int]], float]] = {
    "flops": flops, "latency_ms": latency_ms,
}  # fmt: skip
