"""A float32 ONNX file in INT8: static quantisation by onnxruntime, all choices made on training images alone.

Activations have 8 bits without a sign and a range for each tensor, measured on half of the chosen training images;
weights have 8 bits with a sign and a scale for each output channel (Nagel et al., "A White Paper on Neural Network
Quantization", 2021). The other half, which no range has seen, chooses how ranges are measured and which layers stay in
float. Validation images have no part in it.
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

# How the range of a tensor's values is found: the name of onnxruntime's method, and its options.
METHODS: dict[str, tuple[str, Arguments]] = {
    "min-max": ("MinMax", {}),
    "entropy": ("Entropy", {"symmetric": False}),
    "percentile": ("Percentile", {"symmetric": False, "percentile": 99.99}),
}
MOST_EXAMPLES = 64  # images in each half
MOST_PIXELS = 2**25  # all images of a half together: a few GB hold these with every layer's outputs
MOST_COMPARED = 8  # held-out images by which the layers are ordered
# What is computed in 8 bits. The others, such as softmax, layer norms and argmax, cost accuracy and hardly any time.
OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad", "Reshape", "Transpose", "Flatten", "Squeeze",
    "Unsqueeze", "Split", "Slice",
)  # fmt: skip
AT_LEAST = "at_least_1"  # what each size inside an INT8 file is held against
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Resize", "Sigmoid")  # may stay in float


@dataclass(frozen=True)
class Example:
    """One training image as the test pipeline prepares it."""

    image: Tensor  # 1 x channels x H x W, normalised
    sample: Any  # mmseg's SegDataSample with its mask


def examples_of(cfg: Config, model: nn.Module) -> tuple[list[Example], list[Example]]:
    """Training images, evenly spread over the set: one half to calibrate on, the other held out to choose by.

    Args:
        cfg: loaded, with its data.
        model: the segmentor, whose preprocessor prepares the images.

    Raises:
        UserError: the training set has fewer than two images, or cannot be read.
    """
    with blaming("train_dataloader.dataset"):
        dataset = require_examples(cfg)
        total = len(dataset)
        first = _example(dataset[0], model)
        most = min(MOST_EXAMPLES, max(2, MOST_PIXELS // (first.image.shape[2] * first.image.shape[3])))
        chosen = np.unique(np.linspace(0, total - 1, min(total, 2 * most)).round().astype(int))
        examples = [_example(dataset[int(index)], model) for index in chosen]
    return examples[::2], examples[1::2]


def require_examples(cfg: Config, what: str = "--int8") -> Any:
    """The training images as the validation's pipeline reads them: a data set of mmseg's.

    Args:
        cfg: loaded, with its data.
        what: needs them; a message begins with it.

    Raises:
        UserError: there are fewer than two, or they cannot be read.
    """
    section = copy.deepcopy(first_leaf(cfg.train_dataloader.dataset))
    section["pipeline"] = _pipeline(cfg)
    with blaming("train_dataloader.dataset"):
        dataset = DATASETS.build(section)
    if len(dataset) < 2:
        raise UserError(
            f"{what}: needs two training images at least, one to calibrate on and one held out, got {len(dataset)}"
        )
    return dataset


def _pipeline(cfg: Config) -> list[Any]:
    """The steps of the validation's pipeline, those that read masks as the training's has them."""
    own = {kind_of(step): step for step in first_leaf(cfg.train_dataloader.dataset).pipeline}
    steps = []
    for step in first_leaf(cfg.val_dataloader.dataset).pipeline:
        if kind_of(step) == "MapLabels":
            continue
        if kind_of(step) == "LoadAnnotations":
            steps += [own[kind] for kind in ("MapLabels", "LoadAnnotations") if kind in own]
        else:
            steps.append(step)
    return copy.deepcopy(steps)


def _example(packed: Any, model: nn.Module) -> Example:
    batch: Batch = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
    data = model.data_preprocessor(batch, False)  # type: ignore[operator]
    return Example(data["inputs"].float(), data["data_samples"][0])


def ignored_label(cfg: Config) -> int:
    """The label of pixels that the config's metric leaves out."""
    metrics = metrics_of(cfg.get("val_evaluator"))
    return next((int(metric.get("ignore_index", 255)) for metric in metrics), 255)


class Judge:
    """Scores files on held-out images: mIoU in percent, over all their pixels.

    Args:
        model: the segmentor in PyTorch; its weights have no part.
        held_out: the images.
        classes: how many there are.
        ignored: the label of pixels that do not count.
    """

    def __init__(self, model: nn.Module, held_out: Sequence[Example], classes: int, ignored: int = 255) -> None:
        self.model, self.held_out, self.classes, self.ignored = model, held_out, classes, ignored

    def masks(self, file: Path, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Predicted and true mask of each held-out image, H x W."""
        segmentor = OnnxSegmentor(open_file(file), self.model)
        for example in self.held_out[:most]:
            (result,) = segmentor.predict(example.image, [copy.copy(example.sample)])
            yield result.pred_sem_seg.data.squeeze(0), example.sample.gt_sem_seg.data.squeeze(0)

    def score(self, file: Path) -> float:
        """mIoU over the classes that the images hold, or that are predicted on them."""
        counts = sum(confusion(*pair, self.classes, self.ignored) for pair in self.masks(file))
        hit, union = np.diagonal(counts), np.sum(counts, 0) + np.sum(counts, 1) - np.diagonal(counts)
        return float(100 * np.mean(hit[union > 0] / union[union > 0])) if union.any() else 0.0


def quantize(
    float_file: Path, out: Path, judge: Judge, calibration: Sequence[Example], *, tolerance: float
) -> Quantization:
    """Writes an INT8 file of a float32 one: the best of three methods, with layers in float where that is not enough.

    Args:
        float_file: as :func:`rdistill.handover.export.export_onnx` writes it.
        out: the file to write.
        judge: with the held-out images.
        calibration: the images that ranges are measured on.
        tolerance: mIoU, in points, that INT8 may lose on the held-out images before layers are kept in float.
    """
    with tempfile.TemporaryDirectory() as name, quietly():
        maker = _Maker(Path(name), float_file, open_file(float_file).size, calibration)
        scores = {"float32": judge.score(float_file)}
        for method in METHODS:
            maker.write(out, method)
            scores[method] = judge.score(out)
        best = max(METHODS, key=lambda method: scores[method])
        kept: list[str] = []
        if scores["float32"] - scores[best] > tolerance:
            kept, scores[best] = _keep_in_float(maker, out, judge, best, scores, tolerance)
        maker.write(out, best, kept)
    return {
        "method": best,
        "held_out_mIoU": {name: round(score, 4) for name, score in scores.items()},
        "calibrated": len(calibration),
        "held_out": len(judge.held_out),
        "layers": len(maker.layers),
        "kept_in_float": kept,
    }


def _keep_in_float(
    maker: _Maker, out: Path, judge: Judge, method: str, scores: dict[str, float], tolerance: float
) -> tuple[list[str], float]:
    """The fewest of 1, 2, 4, ... layers, the most sensitive first, with which the loss is tolerable; else the best.

    Returns:
        Names of the layers, and the score with them.
    """
    order = _by_sensitivity(maker, out, judge, method)
    tried: list[tuple[float, list[str]]] = [(scores[method], [])]
    count = 1
    while count <= max(1, len(order) // 2):
        maker.write(out, method, order[:count])
        tried.append((judge.score(out), order[:count]))
        if scores["float32"] - tried[-1][0] <= tolerance:
            break
        count *= 2
    score, kept = max(tried, key=lambda entry: (entry[0], -len(entry[1])))
    return kept, score


def _by_sensitivity(maker: _Maker, out: Path, judge: Judge, method: str) -> list[str]:
    """Layers by how many held-out pixels change their class when the layer alone is quantised, most first."""
    expected = [mask for mask, _ in judge.masks(maker.prepared, MOST_COMPARED)]
    changed = {}
    for layer in maker.layers:
        maker.write(out, method, only=layer)
        pairs = zip(judge.masks(out, MOST_COMPARED), expected, strict=True)
        changed[layer] = sum(int((mask != before).sum()) for (mask, _), before in pairs)
    return sorted((layer for layer in maker.layers if changed[layer]), key=lambda layer: -changed[layer])


class _Maker:
    """Writes INT8 files of one float32 file; measures the ranges of each method once.

    Attributes:
        prepared: the float32 file, its operators fused and its shapes known as far as they are.
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

    def write(self, out: Path, method: str, kept: Sequence[str] = (), *, only: str | None = None) -> None:
        """Writes a file with these layers in float, or with one layer alone in INT8."""
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        if method not in self.ranges:
            self.ranges[method] = self._measured(method)
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(onnx.load(str(self.prepared))),
            True,  # a scale for each channel of the weights
            False,  # weights have all 8 bits
            QuantType.QInt8,
            QuantType.QUInt8,
            self.ranges[method],
            [only] if only is not None else [],
            list(kept),
            list(OPERATORS),
            {},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(out), False)

    def _measured(self, method: str) -> TensorsData:
        """onnxruntime's ranges of all tensors. Images go in singly: together, every layer's outputs would be kept."""
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
    """One feed, as onnxruntime's CalibrationDataReader gives it."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.feed: dict[str, np.ndarray] | None = feed

    def get_next(self) -> dict[str, np.ndarray] | None:
        feed, self.feed = self.feed, None
        return feed


def _prepared(float_file: Path, folder: Path) -> Path:
    """Fuses operators and infers shapes: a tensor of unknown type is not quantised."""
    from onnxruntime.quantization import quant_pre_process

    prepared = folder / "prepared.onnx"
    try:
        quant_pre_process(str(float_file), str(prepared), auto_merge=True)
    except Exception:  # symbolic shapes raise anything; onnx's own inference is what is left
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
