"""An ONNX file of `rdistill export` as a model that can be scored and timed, by onnxruntime on the CPU."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn

from rdistill.core.errors import UserError, error_line
from rdistill.core.files import DamagedFileError, read_json, write_json
from rdistill.core.words import counted
from rdistill.schemas.data import Batch
from rdistill.schemas.exported import ExportRecord

INPUT = "image"
TIMED, WARM_UP = 20, 3  # runs a latency
EXTRA = ("onnx", "onnxruntime", "onnxscript")


def require_packages(names: Sequence[str] = EXTRA, what: str = "export") -> None:
    """Raises UserError where the ``onnx`` extra is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, not installed here: pip install 'rdistill[onnx]'")


@dataclass(frozen=True)
class OnnxFile:
    """A session of onnxruntime, with as many threads as torch has."""

    run: Callable[[np.ndarray], np.ndarray]  # N x channels x H x W, float32, normalised -> mask or logits
    output: str  # 'mask' or 'logits'
    size: tuple[int, int] | None  # height and width that alone are accepted; None for any


def open_file(file: Path) -> OnnxFile:
    """Loads a model into onnxruntime.

    Raises:
        UserError: there is no such file, onnxruntime cannot open it, or it is none of `rdistill export`.
    """
    import onnxruntime

    if not file.is_file():
        raise UserError(f"{file}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised too
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which share no base but Exception
        raise UserError(f"{file}: onnxruntime cannot open it: {error_line(error)}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = [entry.name for entry in inputs], [entry.name for entry in outputs]
    if names not in (([INPUT], ["mask"]), ([INPUT], ["logits"])):
        raise UserError(
            f"{file}: has inputs {', '.join(names[0])} and outputs {', '.join(names[1])}, not `image` and `mask` or "
            "`logits`: write it by `rdistill export`"
        )
    height, width = inputs[0].shape[2:]
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return OnnxFile(lambda x: session.run(None, {INPUT: x})[0], names[1][0], size)


class OnnxSegmentor(nn.Module):
    """An ONNX file in the place of a segmentor, as :func:`rdistill.training.evaluation.evaluate` takes one.

    Images are prepared by the segmentor's own preprocessor; logits become masks by its own steps, masks go back to an
    image's size by the nearest pixel.

    Args:
        file: the model.
        segmentor: the model in PyTorch; its weights have no part.

    Attributes:
        first: the first prepared image that it was given, 1 x channels x H x W at the file's size; None before.
        resized: (from, to) of the first mask that left the file at another size than its image has, height and width.
    """

    first: Tensor | None = None
    resized: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def __init__(self, file: OnnxFile, segmentor: nn.Module) -> None:
        super().__init__()
        self.file, self.segmentor = file, segmentor

    def val_step(self, batch: Batch) -> list[Any]:
        """A batch of the data loader -> mmseg's samples with their ``pred_sem_seg``."""
        data = self.segmentor.data_preprocessor(batch, False)  # type: ignore[operator]
        return self.predict(data["inputs"].float(), data["data_samples"])

    def predict(self, image: Tensor, samples: list[Any]) -> list[Any]:
        """Prepared images, N x channels x H x W, and their samples -> the samples with their ``pred_sem_seg``."""
        size = tuple(image.shape[2:])
        if self.file.size not in (None, size):
            image = F.interpolate(image, size=self.file.size, mode="bilinear", align_corners=False)
        image = image.cpu()
        if self.first is None:
            self.first = image[:1]
        output = torch.from_numpy(self.file.run(image.numpy()))
        if self.file.output == "logits":
            if tuple(output.shape[2:]) != size:
                output = F.interpolate(output, size=size, mode="bilinear", align_corners=False)
            return self.segmentor.postprocess_result(output, samples)  # type: ignore[no-any-return, operator]
        for mask, sample in zip(_resized(output, size), samples, strict=True):
            left, right, top, bottom = sample.get("img_padding_size", sample.get("padding_size", [0] * 4))
            inside = mask[top : size[0] - bottom, left : size[1] - right]
            if self.resized is None and tuple(inside.shape) != tuple(sample.ori_shape):
                self.resized = tuple(inside.shape), tuple(sample.ori_shape)
            sample.set_data({"pred_sem_seg": PixelData(data=_resized(inside[None], sample.ori_shape))})
        return samples


def _resized(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """N x H x W class indices at another height and width: those of the nearest pixels."""
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    return F.interpolate(masks[:, None].float(), size=tuple(size), mode="nearest-exact").long().squeeze(1)


def latency_line(latency_ms: Mapping[str, float], size: tuple[int, int], threads: int) -> tuple[str, str]:
    """What a command prints of :func:`interleaved_ms`: its word and its line, for images of this height and width."""
    height, width = size
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in latency_ms.items())
    busy = f"; {text}" if (text := busy_machine()) else ""
    return (
        "latency",
        f"{times} (medians of {TIMED} in turns, batch 1, {height} x {width}, CPU, {counted(threads, 'thread')}{busy})",
    )


def busy_machine() -> str:
    """``the machine was busy: load 9.8 on 2 cores``, by the last minute's load average; nothing where it was not.

    What is timed then waits for others now and then: ratios of what took turns hold, milliseconds are too long.
    """
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f"the machine was busy: load {load:.1f} on {counted(cores, 'core')}" if load > cores else ""


def interleaved_ms(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each call, in turns: what slows the machine for a while slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(WARM_UP + TIMED):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if index >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * median(values) for name, values in seconds.items()}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Exporters and quantisers warn, log and print; what counts is the check of what they wrote."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def record_of(file: Path) -> Path:
    """``student.onnx`` -> ``student.onnx.json``."""
    return file.with_name(f"{file.name}.json")


def write_record(file: Path, record: ExportRecord) -> None:
    """Writes beside an exported file what it was made of."""
    write_json(record_of(file), record)


def read_record(file: Path) -> ExportRecord | None:
    """What an exported file was made of; None where nothing lies beside it.

    Raises:
        DamagedFileError: what lies there cannot be read.
    """
    beside = record_of(file)
    if not beside.is_file():
        return None
    record = read_json(beside, "export the model again")
    wrong = [name for name in ("config", "checkpoint") if not isinstance(record.get(name), str)]
    wrong += [name for name in ("overrides", "shortcuts") if not isinstance(record.get(name), dict)]
    if wrong:
        raise DamagedFileError(f"{beside}: is damaged (no {', '.join(wrong)}); export the model again")
    return record  # type: ignore[return-value]
