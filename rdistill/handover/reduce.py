"""Exports INT8 and float16 files (`rdistill export --int8`, `--fp16`) that lose no more than the user accepts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from rdistill.core.words import counted, listed
from rdistill.handover.export import Exported, ExportError, Network, export_onnx, read_metadata, write_metadata
from rdistill.handover.inference import Predictor, network_input, validation_images
from rdistill.handover.onnx_file import OnnxSegmentor, interleaved_ms, latency_line, open_file, quietly
from rdistill.handover.quantize import HeldOutScorer, ignored_label, load_examples, quantize
from rdistill.schemas.exported import Quantization
from rdistill.schemas.mappings import Arguments
from rdistill.training.run import evaluate_model

MAX_DROP = 1.0  # mIoU, in points
MAX_SHOWN_LAYERS = 3
# If INT8 loses more than this share of the accepted loss on the held-out training images, layers are kept in float; the
# share is small because training images are easier than new ones.
HELD_OUT_TOLERANCE = 0.25


@dataclass(frozen=True)
class FineTuned:
    """Result of the training with 8-bit rounding; mIoU in percent on the validation images."""

    iterations: int
    teachers: int  # number of teachers; 0: it learned from labels only
    lost_before: float  # points of mIoU that INT8 lost without this training
    rounding: float  # mIoU of the student with rounding, in PyTorch


FineTune = Callable[[Path], tuple[Predictor, FineTuned]]  # the argument is the folder to train in


@dataclass(frozen=True)
class Reduced:
    """The written file, and its comparison with the float32 file of the same model."""

    file: Path
    precision: str  # 'int8' or 'fp16'
    output: str  # 'mask' or 'logits'
    opset: int
    exporter: str  # 'trace' or 'torch.export'
    mIoU: dict[str, float]  # percent on the validation images; keys 'float32' and the file's precision
    max_drop: float  # accepted loss in points of mIoU
    megabytes: dict[str, float]  # keys 'float32' and the file's precision
    latency_ms: dict[str, float]  # medians of 'PyTorch' and each precision, measured in turns with batch 1
    timed_size: tuple[int, int]
    threads: int
    quantization: Quantization | None  # None for fp16
    fine_tuned: FineTuned | None = None  # if quantising alone lost too much


def export_reduced(
    predictor: Predictor,
    cfg: Config,
    out: Path,
    precision: str,
    *,
    max_drop: float = MAX_DROP,
    output: str = "mask",
    fixed_size: tuple[int, int] | None = None,
    opset: int = 18,
    fine_tune: FineTune | None = None,
) -> Reduced:
    """Like :func:`rdistill.handover.export.export_onnx`, but writes INT8 or float16.

    The float32 file is written and checked first, in a temporary folder next to ``out``.

    Args:
        predictor: the model, on the CPU.
        cfg: the model's loaded config with its data.
        out, output, fixed_size, opset: like in ``export_onnx``.
        precision: ``int8`` or ``fp16``.
        max_drop: points of mIoU on the validation images that the file may be below the float32 file.
        fine_tune: continues the model's training with rounding if INT8 loses more; the result is then exported and
            quantised, and compared with the same float32 file.

    Raises:
        UserError: like in ``export_onnx``, or there are too few training images.
        ExportError: like in ``export_onnx``, or the file loses more than ``max_drop``; nothing is written then.
    """
    how: Arguments = {"output": output, "fixed_size": fixed_size, "opset": opset}
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        folder, fine_tuned = Path(name), None
        attempt = _attempt(predictor, cfg, folder / "as-it-is", precision, max_drop, how)
        scores = dict(attempt.scores)
        if scores["float32"] - scores[precision] > max_drop and fine_tune is not None:
            predictor, tuned = fine_tune(folder / "training")
            fine_tuned = replace(tuned, lost_before=scores["float32"] - scores[precision])
            attempt = _attempt(predictor, cfg, folder / "fine-tuned", precision, max_drop, how)
            scores[precision] = attempt.scores[precision]
        if scores["float32"] - scores[precision] > max_drop:
            raise ExportError(_refusal_message(out, precision, scores, max_drop, attempt.quantization, fine_tuned))
        latency, size = _latency(predictor, output, attempt.files, validation_images(cfg), fixed_size)
        megabytes = {kind: file.stat().st_size / 1e6 for kind, file in attempt.files.items()}
        os.replace(attempt.files[precision], out)
    return Reduced(
        file=out,
        precision=precision,
        output=output,
        opset=attempt.exported.opset,
        exporter=attempt.exported.exporter,
        mIoU=scores,
        max_drop=max_drop,
        megabytes=megabytes,
        latency_ms=latency,
        timed_size=size,
        threads=torch.get_num_threads(),
        quantization=attempt.quantization,
        fine_tuned=fine_tuned,
    )


@dataclass(frozen=True)
class _Attempt:
    """A float32 file and the INT8 or float16 file that was made from it."""

    files: dict[str, Path]
    exported: Exported
    quantization: Quantization | None
    scores: dict[str, float]  # mIoU on the validation images


def _attempt(
    predictor: Predictor, cfg: Config, folder: Path, precision: str, max_drop: float, how: Arguments
) -> _Attempt:
    """Writes and scores both files; the arguments are those of :func:`export_reduced`."""
    folder.mkdir()
    files = {name: folder / f"{name}.onnx" for name in ("float32", precision)}
    exported = export_onnx(predictor, files["float32"], validation_images(cfg), **how)
    quantization = write_reduced(predictor, cfg, files["float32"], files[precision], precision, max_drop=max_drop)
    scores = {
        name: evaluate_model(OnnxSegmentor(open_file(file), predictor.model), cfg, split="val")["mIoU"]
        for name, file in files.items()
    }
    predictor.model.cpu()
    return _Attempt(files, exported, quantization, scores)


def write_reduced(
    predictor: Predictor, cfg: Config, float_file: Path, out: Path, precision: str, *, max_drop: float = MAX_DROP
) -> Quantization | None:
    """Writes a float32 file in INT8 or float16, whatever it scores; the arguments are those of :func:`export_reduced`.

    Returns:
        How the file was quantised; None for ``fp16``.
    """
    quantization = None
    if precision == "int8":
        calibration, held_out = load_examples(cfg, predictor.model)
        scorer = HeldOutScorer(predictor.model, held_out, len(predictor.classes), ignored_label(cfg))
        quantization = quantize(float_file, out, scorer, calibration, tolerance=HELD_OUT_TOLERANCE * max_drop)
    else:
        write_fp16(float_file, out)
    write_metadata(out, {**read_metadata(float_file), "precision": precision})
    return quantization


def write_onnx(predictor: Predictor, cfg: Config, out: Path, precision: str) -> Quantization | None:
    """Writes a model's file like `rdistill export`, whatever it scores; arguments like in :func:`export_reduced`.

    Args:
        precision: ``float32``, ``fp16`` or ``int8``.

    Raises:
        UserError, ExportError: like in :func:`export_reduced`, but not for a loss of mIoU.
    """
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        float_file, reduced = Path(name) / "float32.onnx", Path(name) / "reduced.onnx"
        export_onnx(predictor, float_file, validation_images(cfg))
        if precision == "float32":
            os.replace(float_file, out)
            return None
        quantization = write_reduced(predictor, cfg, float_file, reduced, precision)
        os.replace(reduced, out)
    return quantization


def write_fp16(float_file: Path, out: Path) -> None:
    """Converts a float32 file's weights and computations to float16; input and output stay float32.

    A runtime without float16 kernels, such as onnxruntime on most CPUs, computes in float32: only the file is smaller.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with quietly():
        model = OnnxModel(convert_float_to_float16(onnx.load(str(float_file)), keep_io_types=True))
        model.topological_sort()  # the conversion appends the casts of the input at the end
    onnx.save(model.model, str(out))


def _refusal_message(
    out: Path,
    precision: str,
    scores: Mapping[str, float],
    max_drop: float,
    quantization: Quantization | None,
    fine_tuned: FineTuned | None = None,
) -> str:
    lost = scores["float32"] - scores[precision]
    how = ""
    if quantization is not None:
        kept = len(quantization["kept_in_float"])
        how = f", calibrated by {quantization['method']} and with {kept} of {quantization['layers']} layers in float"
    if fine_tuned is not None:
        iterations = counted(fine_tuned.iterations, "iteration")
        how += f", after {iterations} with rounding ({fine_tuned.lost_before:.2f} lost before them)"
    next_step = (
        "; --qat ITERS continues the training with rounding" if precision == "int8" and fine_tuned is None else ""
    )
    return (
        f"{out}: not written: {precision}{how} scores {scores[precision]:.2f} mIoU on the validation images, float32 "
        f"{scores['float32']:.2f}: {lost:.2f} lost, at most {max_drop:g} accepted by --max-drop{next_step}"
    )


def _latency(
    predictor: Predictor, output: str, files: Mapping[str, Path], images: Sequence[Path], fixed_size: Any
) -> tuple[dict[str, float], tuple[int, int]]:
    image = network_input(predictor, images[0])
    if fixed_size is not None:
        image = torch.nn.functional.interpolate(image, size=fixed_size, mode="bilinear", align_corners=False)
    network, array = Network(predictor.model, output).eval(), image.numpy()
    runs = {name: open_file(file).run for name, file in files.items()}
    with torch.no_grad():
        times = interleaved_ms(
            {"PyTorch": lambda: network(image), **{name: lambda run=run: run(array) for name, run in runs.items()}}  # type: ignore[misc]
        )
    return times, (int(image.shape[2]), int(image.shape[3]))


def summary(reduced: Reduced) -> Iterator[tuple[str, str]]:
    """Yields (topic, text) for each line that the command prints."""
    if (tuned := reduced.fine_tuned) is not None:
        under = {0: "on labels only", 1: "under its teacher"}.get(tuned.teachers, f"under {tuned.teachers} teachers")
        yield (
            "finetune",
            f"{counted(tuned.iterations, 'iteration')} with rounding, {under}, because INT8 lost "
            f"{tuned.lost_before:.2f} mIoU without them; the student with rounding has {tuned.rounding:.2f} in PyTorch",
        )
    if (made := reduced.quantization) is not None:
        scores = ", ".join(f"{name} {score:.2f}" for name, score in made["held_out_mIoU"].items())
        yield (
            "calibrate",
            f"on {made['calibrated']} training images; mIoU on {made['held_out']} held-out ones: {scores}; "
            f"{made['method']} is chosen",
        )
        if kept := made["kept_in_float"]:
            yield "float32", f"{len(kept)} of {made['layers']} layers: {listed(kept, MAX_SHOWN_LAYERS)}"
        else:
            yield "float32", f"none of {made['layers']} layers has to stay in float32"
    before, after = reduced.mIoU["float32"], reduced.mIoU[reduced.precision]
    yield (
        "mIoU",
        f"{reduced.precision} {after:.2f}, float32 {before:.2f} on the validation images: {after - before:+.2f}, "
        f"at most {reduced.max_drop:g} may be lost",
    )
    yield latency_line(reduced.latency_ms, reduced.timed_size, reduced.threads)
    yield (
        "file",
        f"{reduced.file}: {reduced.megabytes[reduced.precision]:.2f} MB, float32 has "
        f"{reduced.megabytes['float32']:.2f} MB; opset {reduced.opset}, by {reduced.exporter}",
    )


def as_plain(reduced: Reduced) -> Mapping[str, Any]:
    """Returns the same as plain data, for ``--json``."""
    fine_tuned = None if reduced.fine_tuned is None else asdict(reduced.fine_tuned)
    plain = {"file": str(reduced.file), "timed_size": list(reduced.timed_size), "fine_tuned": fine_tuned}
    return {**reduced.__dict__, **plain}
