"""Quantises a float32 ONNX file to INT8 (statically, by onnxruntime); all choices use training images only.

Activations have unsigned 8 bits and a range for each tensor, which is measured on half of the chosen training images.
Weights have signed 8 bits and a scale for each output channel (Nagel et al., "A White Paper on Neural Network
Quantization", 2021). The other half of the images is held out: it decides how ranges are measured and which layers stay
in float. Validation images are not used.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from rdistill.config.walk import first_leaf, kind_of, metrics_of
from rdistill.core.errors import UserError, blaming
from rdistill.handover.onnx_file import INPUT, OnnxSegmentor, open_file, quietly
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.schemas.data import Batch
from rdistill.schemas.exported import Quantization
from rdistill.schemas.mappings import Arguments
from rdistill.training.evaluation import confusion

if TYPE_CHECKING:
    from onnxruntime.quantization.calibrate import TensorsData

# Methods to measure the range of a tensor: the name of onnxruntime's method, and its options.
METHODS: dict[str, tuple[str, Arguments]] = {
    "min-max": ("MinMax", {}),
    "entropy": ("Entropy", {"symmetric": False}),
    "percentile": ("Percentile", {"symmetric": False, "percentile": 99.99}),
}
MAX_EXAMPLES = 64  # images in each half
MAX_PIXELS = 2**25  # pixels in all images of a half together; these and all layers' outputs fit into a few GB
MAX_COMPARED = 8  # number of held-out images that decide the order of the layers
# Operators that compute in 8 bits. The others, such as softmax, layer norm and argmax, would lose accuracy and save
# hardly any time.
OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad", "Reshape", "Transpose", "Flatten", "Squeeze",
    "Unsqueeze", "Split", "Slice",
)  # fmt: skip
AT_LEAST = "at_least_1"  # what each size inside an INT8 file is held against
LAYERS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
    "Concat",
    "Resize",
    "Sigmoid",
)  # layers that may stay in float


@dataclass(frozen=True)
class Example:
    """One training image, prepared by the test pipeline."""

    image: Tensor  # 1 x channels x H x W, normalised
    sample: Any  # mmseg's SegDataSample with its mask


def load_examples(cfg: Config, model: nn.Module) -> tuple[list[Example], list[Example]]:
    """Loads training images, evenly spread over the set: one half for calibration, the other held out.

    Args:
        cfg: a loaded config with its data.
        model: the segmentor, whose preprocessor prepares the images.

    Raises:
        UserError: the training set has fewer than two images, or cannot be read.
    """
    with blaming("train_dataloader.dataset"):
        dataset = require_examples(cfg)
        total = len(dataset)
        first = _example(dataset[0], model)
        limit = min(MAX_EXAMPLES, max(2, MAX_PIXELS // (first.image.shape[2] * first.image.shape[3])))
        chosen = np.unique(np.linspace(0, total - 1, min(total, 2 * limit)).round().astype(int))
        examples = [_example(dataset[int(index)], model) for index in chosen]
    return examples[::2], examples[1::2]


def require_examples(cfg: Config, option: str = "--int8") -> Any:
    """Builds the training dataset with the validation's pipeline.

    Args:
        cfg: a loaded config with its data.
        option: the option that needs the images; it begins the message.

    Raises:
        UserError: there are fewer than two images, or they cannot be read.
    """
    section = copy.deepcopy(first_leaf(cfg.train_dataloader.dataset))
    section["pipeline"] = _pipeline(cfg)
    with blaming("train_dataloader.dataset"):
        dataset = DATASETS.build(section)
    if len(dataset) < 2:
        raise UserError(
            f"{option}: needs at least two training images, one for calibration and one held out, got {len(dataset)}"
        )
    return dataset


def _pipeline(cfg: Config) -> list[Any]:
    """Returns the steps of the validation's pipeline, with the steps that read masks from the training's pipeline."""
    training_steps = {kind_of(step): step for step in first_leaf(cfg.train_dataloader.dataset).pipeline}
    steps = []
    for step in first_leaf(cfg.val_dataloader.dataset).pipeline:
        if kind_of(step) == "MapLabels":
            continue
        if kind_of(step) == "LoadAnnotations":
            steps += [training_steps[kind] for kind in ("MapLabels", "LoadAnnotations") if kind in training_steps]
        else:
            steps.append(step)
    return copy.deepcopy(steps)


def _example(packed: Any, model: nn.Module) -> Example:
    batch: Batch = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
    data = model.data_preprocessor(batch, False)  # type: ignore[operator]
    return Example(data["inputs"].float(), data["data_samples"][0])


def ignored_label(cfg: Config) -> int:
    """Returns the label that the config's metric ignores."""
    metrics = metrics_of(cfg.get("val_evaluator"))
    return next((int(metric.get("ignore_index", 255)) for metric in metrics), 255)


class HeldOutScorer:
    """Scores ONNX files on held-out images: mIoU in percent, over all their pixels.

    Args:
        model: the segmentor in PyTorch; its weights are not used.
        held_out: the held-out images.
        classes: number of classes.
        ignored: the ignored label.
    """

    def __init__(self, model: nn.Module, held_out: Sequence[Example], classes: int, ignored: int = 255) -> None:
        self.model, self.held_out, self.classes, self.ignored = model, held_out, classes, ignored

    def masks(self, file: Path, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the predicted and the true mask (H x W) of each held-out image."""
        segmentor = OnnxSegmentor(open_file(file), self.model)
        for example in self.held_out[:limit]:
            (result,) = segmentor.predict(example.image, [copy.copy(example.sample)])
            yield result.pred_sem_seg.data.squeeze(0), example.sample.gt_sem_seg.data.squeeze(0)

    def score(self, file: Path) -> float:
        """Returns the mIoU over the classes that occur in the masks or in the predictions."""
        counts = sum(confusion(*pair, self.classes, self.ignored) for pair in self.masks(file))
        hit, union = np.diagonal(counts), np.sum(counts, 0) + np.sum(counts, 1) - np.diagonal(counts)
        return float(100 * np.mean(hit[union > 0] / union[union > 0])) if union.any() else 0.0


def quantize(
    float_file: Path, out: Path, scorer: HeldOutScorer, calibration: Sequence[Example], *, tolerance: float
) -> Quantization:
    """Writes a float32 file as INT8 with the best of three methods, and with some layers in float if necessary.

    Args:
        float_file: a file that :func:`rdistill.handover.export.export_onnx` has written.
        out: the file to write.
        scorer: scores files on the held-out images.
        calibration: the images that ranges are measured on.
        tolerance: mIoU, in points, that INT8 may lose on the held-out images before layers are kept in float.
    """
    with tempfile.TemporaryDirectory() as name, quietly():
        writer = _Int8Writer(Path(name), float_file, open_file(float_file).size, calibration)
        scores = {"float32": scorer.score(float_file)}
        for method in METHODS:
            writer.write(out, method)
            scores[method] = scorer.score(out)
        best = max(METHODS, key=lambda method: scores[method])
        float_layers: list[str] = []
        if scores["float32"] - scores[best] > tolerance:
            float_layers, scores[best] = _keep_in_float(writer, out, scorer, best, scores, tolerance)
        writer.write(out, best, float_layers)
    return {
        "method": best,
        "held_out_mIoU": {name: round(score, 4) for name, score in scores.items()},
        "calibrated": len(calibration),
        "held_out": len(scorer.held_out),
        "layers": len(writer.layers),
        "kept_in_float": float_layers,
    }


def _keep_in_float(
    writer: _Int8Writer, out: Path, scorer: HeldOutScorer, method: str, scores: dict[str, float], tolerance: float
) -> tuple[list[str], float]:
    """Keeps the 1, 2, 4, ... most sensitive layers in float, until the loss of mIoU is tolerable.

    Returns:
        Names of the layers, and the score with them; those with the best score if no loss is tolerable.
    """
    order = _by_sensitivity(writer, out, scorer, method)
    attempts: list[tuple[float, list[str]]] = [(scores[method], [])]
    count = 1
    while count <= max(1, len(order) // 2):
        writer.write(out, method, order[:count])
        attempts.append((scorer.score(out), order[:count]))
        if scores["float32"] - attempts[-1][0] <= tolerance:
            break
        count *= 2
    score, float_layers = max(attempts, key=lambda entry: (entry[0], -len(entry[1])))
    return float_layers, score


def _by_sensitivity(writer: _Int8Writer, out: Path, scorer: HeldOutScorer, method: str) -> list[str]:
    """Sorts layers by the number of held-out pixels that change when only this layer is quantised, most first."""
    expected = [mask for mask, _ in scorer.masks(writer.prepared, MAX_COMPARED)]
    changed = {}
    for layer in writer.layers:
        writer.write(out, method, only=layer)
        pairs = zip(scorer.masks(out, MAX_COMPARED), expected, strict=True)
        changed[layer] = sum(int((mask != original).sum()) for (mask, _), original in pairs)
    return sorted((layer for layer in writer.layers if changed[layer]), key=lambda layer: -changed[layer])


class _Int8Writer:
    """Writes INT8 files from one float32 file, and measures the ranges of each method once.

    Attributes:
        prepared: the float32 file with fused operators and inferred shapes.
        layers: names of its nodes that may stay in float.
    """

    def __init__(
        self, folder: Path, float_file: Path, size: tuple[int, int] | None, calibration: Sequence[Example]
    ) -> None:
        import onnx

        self.folder, self.prepared = folder, _prepared(float_file, folder)
        self.size, self.calibration = size, calibration
        nodes = onnx.load(str(self.prepared)).graph.node
        self.layers = [node.name for node in nodes if node.op_type in LAYERS]
        self.ranges: dict[str, TensorsData] = {}

    def write(self, out: Path, method: str, float_layers: Sequence[str] = (), *, only: str | None = None) -> None:
        """Writes a file with the layers ``float_layers`` in float, or with ``only`` one layer in INT8."""
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        if method not in self.ranges:
            self.ranges[method] = self._measure_ranges(method)
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(onnx.load(str(self.prepared))),
            True,  # weights have a scale for each channel
            False,  # no reduced range: weights use all 8 bits
            QuantType.QInt8,
            QuantType.QUInt8,
            self.ranges[method],
            [only] if only is not None else [],
            list(float_layers),
            list(OPERATORS),
            {},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(out), False)

    def _measure_ranges(self, method: str) -> TensorsData:
        """Measures the ranges of all tensors, image by image: with all together, all outputs would be in memory."""
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        name, options = METHODS[method]
        calibrator = create_calibrator(
            self.prepared, list(OPERATORS), str(self.folder / "augmented.onnx"), CalibrationMethod[name],
            extra_options=options,
        )  # fmt: skip
        for example in self.calibration:
            image = example.image
            if self.size is not None:
                image = F.interpolate(image, size=self.size, mode="bilinear", align_corners=False)
            calibrator.collect_data(_OneImage({INPUT: image.numpy()}))
        return calibrator.compute_data()


class _OneImage:
    """A CalibrationDataReader of onnxruntime with one input."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.feed: dict[str, np.ndarray] | None = feed

    def get_next(self) -> dict[str, np.ndarray] | None:
        feed, self.feed = self.feed, None
        return feed


def _prepared(float_file: Path, folder: Path) -> Path:
    """Fuses operators and infers shapes, because tensors of unknown type are not quantised."""
    from onnxruntime.quantization import quant_pre_process

    prepared = folder / "prepared.onnx"
    try:
        quant_pre_process(str(float_file), str(prepared), auto_merge=True)
    except Exception:  # symbolic shape inference may raise anything; onnx's inference is enough
        quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
    _part_shapes(prepared)
    return prepared


def _part_shapes(file: Path) -> None:
    """Passes each size that is read inside the network through a maximum with 1, which changes no size.

    OpenVINO (2026.4.1) knows that a convolution with its bias has the size of the convolution alone, and reads the size
    there. The bias is then added apart from a convolution in 8 bits, and added wrongly: an EfficientNet-Lite0 predicted
    the background alone. Past a maximum it does not see whose size it is.
    """
    import onnx

    model = onnx.load(str(file))
    nodes, inputs = list(model.graph.node), {value.name for value in model.graph.input}
    inside = {node.output[0] for node in nodes if node.op_type == "Shape" and node.input[0] not in inputs}
    if not inside:
        return
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        if (size := node.output[0]) in inside:
            read = model.graph.node[-1].output[0] = f"{size}_read"
            maximum = onnx.helper.make_node("Max", [read, AT_LEAST], [size], f"{node.name or size}/{AT_LEAST}")
            model.graph.node.append(maximum)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.int64), AT_LEAST))
    onnx.save(model, str(file))
