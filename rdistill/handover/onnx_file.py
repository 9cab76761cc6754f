"""Runs ONNX files of `rdistill export` with onnxruntime on the CPU, to score and time them."""

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
TIMED_RUNS, WARM_UP_RUNS = 20, 3  # number of runs for a latency
EXTRA = ("onnx", "onnxruntime", "onnxscript")


def require_packages(names: Sequence[str] = EXTRA, what: str = "export") -> None:
    """Raises UserError if packages of the ``onnx`` extra are not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, not installed here: pip install 'rdistill[onnx]'")


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model that is ready to run, with as many threads as torch has."""

    run: Callable[[np.ndarray], np.ndarray]  # N x channels x H x W, float32, normalised -> mask or logits
    output: str  # 'mask' or 'logits'
    size: tuple[int, int] | None  # the only accepted (height, width); None accepts any


def open_file(file: Path) -> OnnxFile:
    """Loads a model into onnxruntime.

    Raises:
        UserError: the file does not exist, onnxruntime cannot open it, or `rdistill export` did not write it.
    """
    import onnxruntime

    if not file.is_file():
        raise UserError(f"{file}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised anyway
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class but Exception
        raise UserError(f"{file}: onnxruntime cannot open it: {error_line(error)}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = [entry.name for entry in inputs], [entry.name for entry in outputs]
    if names not in (([INPUT], ["mask"]), ([INPUT], ["logits"])):
        raise UserError(
            f"{file}: has inputs {', '.join(names[0])} and outputs {', '.join(names[1])}, not `image` and `mask` or "
            "`logits`: write it with `rdistill export`"
        )
    height, width = inputs[0].shape[2:]
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return OnnxFile(lambda x: session.run(None, {INPUT: x})[0], names[1][0], size)


class OnnxSegmentor(nn.Module):
    """Wraps an ONNX file as a segmentor that :func:`rdistill.training.evaluation.evaluate` can score.

    The PyTorch segmentor's preprocessor prepares the images, and its own steps turn logits into masks. Masks of another
    size are resized to the image's size by the nearest pixel.

    Args:
        file: the opened ONNX file.
        segmentor: the model in PyTorch; its weights are not used.

    Attributes:
        first: the first prepared image (1 x channels x H x W, at the file's size); None before the first batch.
        resized: (from, to) as (height, width) of the first mask that had to be resized; None if there was none.
    """

    first: Tensor | None = None
    resized: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def __init__(self, file: OnnxFile, segmentor: nn.Module) -> None:
        super().__init__()
        self.file, self.segmentor = file, segmentor

    def val_step(self, batch: Batch) -> list[Any]:
        """Predicts a batch of the data loader; returns mmseg's samples with their ``pred_sem_seg``."""
        data = self.segmentor.data_preprocessor(batch, False)  # type: ignore[operator]
        return self.predict(data["inputs"].float(), data["data_samples"])

    def predict(self, image: Tensor, samples: list[Any]) -> list[Any]:
        """Predicts prepared images (N x channels x H x W); returns their samples with ``pred_sem_seg``."""
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
    """Resizes masks (N x H x W class indices) by the nearest pixel."""
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    return F.interpolate(masks[:, None].float(), size=tuple(size), mode="nearest-exact").long().squeeze(1)


def latency_line(latency_ms: Mapping[str, float], size: tuple[int, int], threads: int) -> tuple[str, str]:
    """Returns (topic, text) of the line that shows :func:`interleaved_ms`; ``size`` is (height, width)."""
    height, width = size
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in latency_ms.items())
    busy = f"; {text}" if (text := busy_machine()) else ""
    return (
        "latency",
        f"{times} (medians of {TIMED_RUNS} in turns, batch 1, {height} x {width}, CPU, "
        f"{counted(threads, 'thread')}{busy})",
    )


def busy_machine() -> str:
    """Returns a note such as ``the machine was busy: load 9.8 on 2 cores``, or an empty text if it was not busy.

    On a busy machine (by the load average of the last minute) milliseconds are too long, but ratios of calls that were
    timed in turns still hold.
    """
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f"the machine was busy: load {load:.1f} on {counted(cores, 'core')}" if load > cores else ""


def interleaved_ms(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Times calls in turns, so that a slow phase of the machine affects all of them; returns median milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(WARM_UP_RUNS + TIMED_RUNS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if index >= WARM_UP_RUNS:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * median(values) for name, values in seconds.items()}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silences exporters and quantisers, which warn, log and print; their files are checked afterwards."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def record_path(file: Path) -> Path:
    """Returns the path of a file's record: ``student.onnx`` -> ``student.onnx.json``."""
    return file.with_name(f"{file.name}.json")


def write_record(file: Path, record: ExportRecord) -> None:
    """Writes a record next to an exported file that names its config, checkpoint and options."""
    write_json(record_path(file), record)


def read_record(file: Path) -> ExportRecord | None:
    """Reads the record next to an exported file; returns None if there is none.

    Raises:
        DamagedFileError: the record cannot be read.
    """
    path = record_path(file)
    if not path.is_file():
        return None
    record = read_json(path, "export the model again")
    missing = [name for name in ("config", "checkpoint") if not isinstance(record.get(name), str)]
    missing += [name for name in ("overrides", "shortcuts") if not isinstance(record.get(name), dict)]
    if missing:
        raise DamagedFileError(f"{path}: is damaged (no {', '.join(missing)}); export the model again")
    return record  # type: ignore[return-value]
