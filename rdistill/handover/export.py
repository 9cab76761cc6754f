"""Exports a trained model as one ONNX file (`rdistill export`), and compares it with PyTorch on real images."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdistill.config.walk import kind_of
from rdistill.core.errors import RunError, UserError, error_line
from rdistill.core.files import to_json
from rdistill.core.words import counted
from rdistill.data.images import loads_bgr
from rdistill.handover.inference import Predictor, Sample, network_input, read_sample, require_readable
from rdistill.handover.onnx_file import INPUT, interleaved_ms, latency_line, open_file, quietly, require_packages
from rdistill.models.quiet_mmseg import Upsample
from rdistill.models.segmentor import input_channels, logit_channels, swaps_channels

AGREEMENT = 0.999  # share of pixels whose class must equal PyTorch's
OPSET = 18
MAX_IMAGES = 16  # the largest number of images that are checked
STRIDE = 32  # pixels; the additional sizes that are checked are multiples of it


class ExportError(RunError):
    """The exported model differs too much from the trained one, or no exporter can write it."""

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)  # why each exporter failed, if all did


@dataclass(frozen=True)
class Exported:
    """The written file, and its comparison with PyTorch."""

    file: Path
    output: str  # 'mask' or 'logits'
    opset: int
    exporter: str  # 'trace' or 'torch.export'
    megabytes: float
    images: int  # number of checked images
    agreement: float  # share of equal pixels in the masks of all images and sizes, 0 to 1
    sizes: list[tuple[int, int, int]]  # (batch, height, width) of the checked inputs
    latency_ms: dict[
        str, float
    ]  # medians of 'PyTorch' and 'onnxruntime', measured in turns with batch 1 at `timed_size`
    timed_size: tuple[int, int]
    threads: int


def export_onnx(
    predictor: Predictor,
    out: Path,
    images: Sequence[Path],
    *,
    output: str = "mask",
    fixed_size: tuple[int, int] | None = None,
    opset: int = OPSET,
    min_agreement: float = AGREEMENT,
) -> Exported:
    """Writes a model as ONNX: ``image`` (N x channels x H x W, float32, normalised) -> ``mask`` or ``logits``.

    Args:
        predictor: the model, on the CPU.
        out: the file; it is written only if the check passes.
        images: real images to check on; at most 16 of them are used, evenly spread.
        output: ``mask`` (N x H x W, int64, class indices) or ``logits`` (N x channels x H x W, float32).
        fixed_size: the only accepted (height, width) in pixels; None accepts any. The batch size is always free.
        opset: version of the ONNX operator set.
        min_agreement: share of the pixels on which the masks must be equal.

    Raises:
        UserError: a package is missing, the file cannot be written, or an image cannot be read.
        ExportError: no exporter can write the model, or the masks are equal on too few pixels.
    """
    require_packages()
    require_writable(out)
    if not str(out).isprintable():  # onnxruntime opens only file names in UTF-8
        raise UserError(f"{out}: onnxruntime cannot open a name with these characters; choose another name")
    images = images[:: -(-len(images) // MAX_IMAGES)]
    require_readable(images)
    samples = [read_sample(predictor, image) for image in images]
    checks = _checks(predictor, samples, fixed_size)
    facts = metadata(predictor, output, fixed_size, samples[0].pixels.dtype)
    network = Network(predictor.model, output).eval()
    partial = _partial_file(out)
    failures = []
    try:
        for name, exporter in (("trace", _trace), ("torch.export", _torch_export)):
            try:
                with torch.no_grad(), quietly():
                    exporter(_exportable(network), checks[0].float(), partial, output, fixed_size is None, opset)
                write_metadata(partial, facts)
                agreement = _agreement(network, partial, checks)
            except OSError as error:  # the other exporter would fail too
                raise ExportError(f"{out}: cannot be written: {error_line(error)}") from error
            except Exception as error:  # exporters and onnxruntime raise anything
                failures.append(f"{name}: {error_line(error)}")
                continue
            if agreement >= min_agreement:
                return _finish(partial, out, network, name, agreement, checks, len(images))
            failures.append(
                f"{name}: masks equal on {100 * agreement:.3f} % of the pixels, {100 * min_agreement} % needed"
            )
    finally:
        partial.unlink(missing_ok=True)
    hint = "" if fixed_size else "; try --fixed-size HxW, which needs less of the model"
    raise ExportError(f"{out}: not written: {'; '.join(failures)}{hint}", failures)


def require_exportable(predictor: Predictor, images: Sequence[Path]) -> None:
    """Raises UserError if no exporter can write a model. The model need not be trained: its masks are not compared.

    This takes about a minute for a transformer.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(predictor, Path(folder) / "untrained.onnx", images[:1], min_agreement=0.0)
        except ExportError as error:
            raise UserError(f"the student cannot be exported: {'; '.join(error.reasons) or error}") from None


def require_writable(out: Path) -> None:
    """Raises UserError if a file cannot be written, before an export that may take a minute."""
    try:
        if out.is_dir():
            raise UserError(f"{out}: is a folder; name the file to write, such as {out / 'model.onnx'}")
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial_file(out)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.filename}: {error.strerror}; choose another file") from None


def _partial_file(out: Path) -> Path:
    """Returns the name of the file while it is incomplete."""
    return out.with_name(f".{out.name}.partial")


class Network(nn.Module):
    """Maps normalised images to logits or masks of the same size, like mmseg's whole-image test mode."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, image: Tensor) -> Tensor:
        logits = self.logits(image)
        return logits if self.output == "logits" else self.mask(logits)

    def logits(self, image: Tensor) -> Tensor:
        # One entry for the whole batch: with one for each image, torch.export would fix the batch size.
        return self.model.encode_decode(image, [dict(img_shape=image.shape[2:])])  # type: ignore[operator]

    def mask(self, logits: Tensor) -> Tensor:
        if logits.shape[1] > 1:
            return logits.argmax(dim=1)
        return (logits.sigmoid() > self.model.decode_head.threshold).long().squeeze(1)  # type: ignore[union-attr]


class _AnySizePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, which ONNX can express for dynamic sizes."""

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x_nchw: Tensor) -> Tensor:
        rows = self._weights(x_nchw, -2, self.output_size[0])
        columns = self._weights(x_nchw, -1, self.output_size[1])
        return rows @ x_nchw @ columns.T

    @staticmethod
    def _weights(x: Tensor, axis: int, bins: int) -> Tensor:
        """Returns the share of each position in each bin (bins x length), with torch's bin borders."""
        length, index = x.shape[axis], torch.arange(bins, device=x.device)
        start, end = (index * length) // bins, ((index + 1) * length + bins - 1) // bins
        position = torch.arange(length, device=x.device)
        inside = (position >= start[:, None]) & (position < end[:, None])
        return inside.to(x.dtype) / (end - start)[:, None].to(x.dtype)


class _AnySizeUpsample(nn.Module):
    """mmseg's ``Upsample`` by a factor; mmseg computes the size as an ``int``, which tracing would make constant."""

    def __init__(self, factor: float, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x_nchw: Tensor) -> Tensor:
        return F.interpolate(x_nchw, scale_factor=self.factor, mode=self.mode, align_corners=self.align_corners)


def _exportable(network: nn.Module) -> nn.Module:
    """Returns a copy in which adaptive pools and upsampling by whole factors work for dynamic sizes."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size if isinstance(child.output_size, tuple) else (child.output_size,) * 2
                if None not in size and size != (1, 1):
                    setattr(parent, name, _AnySizePool(size))
            elif isinstance(child, Upsample) and not child.size:
                factor = child.scale_factor
                if isinstance(factor, float) and factor.is_integer():
                    setattr(parent, name, _AnySizeUpsample(factor, child.mode, child.align_corners))
    return network


def _trace(network: nn.Module, example: Tensor, file: Path, output: str, dynamic: bool, opset: int) -> None:
    """Exports by tracing: fast, but sizes that code reads as Python numbers, like attention does, become constant."""
    names, axes = (
        ("height", "width"),
        {INPUT: 2, output: 1 if output == "mask" else 2},
    )  # axis of the height; the next one is the width
    axes_by_tensor = {
        tensor: {0: "batch", **({first: names[0], first + 1: names[1]} if dynamic else {})}
        for tensor, first in axes.items()
    }
    torch.onnx.export(
        network, (example,), str(file), dynamo=False, input_names=[INPUT], output_names=[output],
        dynamic_axes=axes_by_tensor, opset_version=opset,
    )  # fmt: skip


def _torch_export(network: nn.Module, example: Tensor, file: Path, output: str, dynamic: bool, opset: int) -> None:
    """Exports by ``torch.export``, which keeps sizes symbolic; it takes a minute for a transformer."""
    symbols = dict.fromkeys((0, 2, 3) if dynamic else (0,), torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        network, (example,), str(file), dynamo=True, input_names=[INPUT], output_names=[output],
        dynamic_shapes={INPUT: symbols}, opset_version=opset, external_data=False, verbose=False,
    )  # fmt: skip


def _checks(predictor: Predictor, images: Sequence[Path | Sample], fixed_size: tuple[int, int] | None) -> list[Tensor]:
    """Returns the batches to compare on: two images together, each single image, and other sizes if they are free."""
    inputs = [network_input(predictor, image) for image in images]
    if fixed_size is not None:
        inputs = [_resized(x, fixed_size) for x in inputs]
    first = inputs[0]
    pair = torch.cat([first, _resized(inputs[1 % len(inputs)], tuple(first.shape[2:]))])
    resized = []
    if fixed_size is None:
        height, width = (side / STRIDE for side in first.shape[2:])
        smaller, larger = (max(1, int(height * 0.75)), max(1, int(width * 0.75))), (int(height) + 1, int(width) + 2)
        for x, (rows, columns) in ((first, smaller), (pair, larger)):
            resized.append(_resized(x, (rows * STRIDE, columns * STRIDE)))
    return [pair, *inputs, *resized]


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _agreement(network: Network, file: Path, checks: Sequence[Tensor]) -> float:
    """Returns the share of the pixels whose class is the same in PyTorch and in onnxruntime."""
    run = open_file(file).run
    equal = pixels = 0
    with torch.no_grad():
        for x in checks:
            expected = network.mask(network.logits(x))
            got = torch.from_numpy(run(x.numpy()))
            got = got if network.output == "mask" else network.mask(got)
            if got.shape != expected.shape:
                raise ValueError(f"gives {tuple(got.shape)} for {tuple(x.shape)}, not {tuple(expected.shape)}")
            equal, pixels = equal + int((got == expected).sum()), pixels + expected.numel()
    return equal / pixels


def read_metadata(file: Path) -> dict[str, str]:
    """Reads what :func:`write_metadata` wrote into a file."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}


def write_metadata(file: Path, facts: dict[str, str]) -> None:
    """Writes metadata (name -> text) into an ONNX file."""
    import onnx

    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def metadata(
    predictor: Predictor, output: str, fixed_size: tuple[int, int] | None, pixels: np.dtype[Any] | None = None
) -> dict[str, str]:
    """Returns the metadata of an exported model: name -> text; lists are JSON.

    Args:
        predictor, output, fixed_size: as for :func:`export_onnx`.
        pixels: data type of a loaded image; None for 8 bits.
    """
    preprocessor = predictor.model.data_preprocessor
    channels = input_channels(predictor.model)
    mean, std = (_per_channel(preprocessor, name, channels) for name in ("mean", "std"))
    order = _channel_order(predictor, channels)
    size = "H x W" if fixed_size is None else f"{fixed_size[0]} x {fixed_size[1]}"
    classes = predictor.classes
    logits = f"N x classes x {size}, float32: the largest is the class"
    if logit_channels(predictor.model) == 1:
        threshold = predictor.model.decode_head.threshold  # type: ignore[union-attr]
        logits = f"N x 1 x {size}, float32: class 1 where its sigmoid is above {threshold}, else class 0"
    result = {"mask": f"N x {size}, int64: the index in `classes` of each pixel", "logits": logits}
    scales = [step["scale"] for step in predictor.pipeline if kind_of(step) == "Resize" and step.get("scale")]
    facts = {
        "input": f"N x {channels} x {size}, float32, {_order_text(order)}, ({_range(pixels)} - mean) / std",
        "channels": str(channels),
        "channel_order": order,
        "mean": to_json(mean),
        "std": to_json(std),
        "output": result[output],
        "classes": to_json(list(classes)),
        "palette": to_json([list(colour) for colour in predictor.palette]),
        "made_by": "rdistill export",
    }
    if scales:
        facts["validated_at_width_height"] = to_json(list(scales[0]))
    if predictor.meta.get("mIoU") is not None:
        facts["validation_mIoU_percent"] = f"{predictor.meta['mIoU']:.2f}"
    return facts


def _per_channel(preprocessor: Any, name: str, channels: int) -> list[float]:
    value = getattr(preprocessor, name, None)
    if value is None:
        return [0.0 if name == "mean" else 1.0] * channels
    values = [round(float(x), 6) for x in value.flatten()]
    return values * channels if len(values) == 1 else values


def _channel_order(predictor: Predictor, channels: int) -> str:
    """Returns ``RGB``, ``BGR``, ``BGRA``, ``grey``, ``file`` (the order in the image file), or ``file reversed``."""
    if channels == 1:
        return "grey"
    swapped = channels == 3 and swaps_channels(predictor.model.data_preprocessor)
    if not loads_bgr(predictor.pipeline) or channels not in (3, 4):
        return "file reversed" if swapped else "file"
    return "BGRA" if channels == 4 else "RGB" if swapped else "BGR"


def _order_text(order: str) -> str:
    return {
        "grey": "one channel",
        "file": "channels in the order of the image's file",
        "file reversed": "channels in the reverse order of the image's file",
    }.get(order, f"channels in the order {order}")


def _range(pixels: np.dtype[Any] | None) -> str:
    """Describes the values of a loaded image."""
    if pixels is None or pixels == np.uint8:
        return "pixel of 0 to 255"
    if np.issubdtype(pixels, np.integer):
        return f"pixel of 0 to {np.iinfo(pixels).max}"
    return "pixel as in the file"


def _finish(
    partial: Path, out: Path, network: Network, exporter: str, agreement: float, checks: Sequence[Tensor], images: int
) -> Exported:
    import onnx

    single = checks[1]
    run, array = open_file(partial).run, single.numpy()
    with torch.no_grad():
        latency = interleaved_ms({"PyTorch": lambda: network(single), "onnxruntime": lambda: run(array)})
    opset = next(entry.version for entry in onnx.load(str(partial)).opset_import if not entry.domain)
    os.replace(partial, out)
    return Exported(
        file=out,
        output=network.output,
        opset=opset,
        exporter=exporter,
        megabytes=out.stat().st_size / 1e6,
        images=images,
        agreement=agreement,
        sizes=sorted({(len(x), int(x.shape[2]), int(x.shape[3])) for x in checks}),
        latency_ms=latency,
        timed_size=(int(single.shape[2]), int(single.shape[3])),
        threads=torch.get_num_threads(),
    )


def summary(exported: Exported) -> Iterator[tuple[str, str]]:
    """Yields (topic, text) for each line that the command prints."""
    yield (
        "masks",
        (
            f"equal to PyTorch's on {100 * exported.agreement:.4f} % of the pixels of "
            f"{counted(exported.images, 'image')}; "
            f"batch x height x width: {', '.join('x'.join(map(str, size)) for size in exported.sizes)}"
        ),
    )
    yield latency_line(exported.latency_ms, exported.timed_size, exported.threads)
    yield "file", f"{exported.file}: {exported.megabytes:.2f} MB, opset {exported.opset}, by {exported.exporter}"


def as_plain(exported: Exported) -> Mapping[str, Any]:
    """Returns the same as plain data, for ``--json``."""
    return {**exported.__dict__, "file": str(exported.file), "sizes": [list(size) for size in exported.sizes]}
