"""Describes a model's layers: shapes, strides, parameters and FLOPs; and which pairs of features can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rdistill.core.errors import UserError, error_line
from rdistill.models.features import FeatureCapture, as_maps
from rdistill.models.segmentor import blank_image, decode_heads, run_heads, seen_size, training_outputs

Shape = tuple[int, ...]
Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Layer:
    """One layer, or one element of the tuple or list that a layer returns, as found in a forward pass."""

    name: str  # a feature name: `backbone.layer4`, or `backbone[2]` for an element
    type: str
    shape: Shape  # output shape: N x C x H x W, or N x L x C for tokens; empty if the output has elements
    map_shape: Shape | None  # N x C x H x W, with tokens folded; None if the output is no map
    stride: float | None  # height of the image / height of the map
    channels: int | None
    parameters: int | None  # including those of its children; None for an element
    flops: int | None  # operations for one image, 2 for each multiply-add; None for an element

    @property
    def depth(self) -> int:
        """1 for `backbone` and its elements, 2 for `backbone.layer4`."""
        return self.name.count(".") + 1


def describe(model: nn.Module, height_width: tuple[int, int]) -> list[Layer]:
    """All layers that run in a forward pass, in the order of ``named_modules()``.

    For a layer that runs more than once, the output is the last one, and the FLOPs are those of all its runs.

    Args:
        model: an mmseg segmentor; it is not changed.
        height_width: size of the blank image, in pixels.

    Raises:
        UserError: the model does not run at this size.
    """
    recorder = _Recorder(model)
    with recorder.attached():
        _run_blank(model, height_width, decode_heads(model))
    layers: list[Layer] = []
    for name, module in model.named_modules():
        if name in recorder.outputs:
            sizes = seen_size(model, height_width), height_width
            layers += _entries(name, module, recorder.outputs[name], recorder.flops[name], sizes)
    return layers


def probe_features(
    model: nn.Module, names: Sequence[str], height_width: tuple[int, int], *, training: bool = False
) -> dict[str, Shape | str]:
    """Feature name -> its shape, with tokens folded into maps; or a text that says why it has none.

    Args:
        model: an mmseg segmentor; it is not changed.
        names: feature names, see :mod:`rdistill.models.features`.
        height_width: size of the blank image, in pixels.
        training: whether to get the shapes of training, where some models return several tensors instead of one.

    Raises:
        UserError: the model does not have one of the names, or does not run at this size.
    """
    shapes: dict[str, Shape | str] = {}
    with FeatureCapture(model, names) as capture, torch.no_grad():
        _run_blank(model, height_width, capture.names, training=training)
        for name in capture.names:
            try:
                shapes[name] = tuple(as_maps(capture[name], seen_size(model, height_width)).shape)
            except UserError as error:
                shapes[name] = str(error)
    return shapes


def feature_shapes(model: nn.Module, names: Sequence[str], height_width: tuple[int, int]) -> dict[str, Shape]:
    """Like :func:`probe_features`, but every feature must have a shape.

    Raises:
        UserError: some features have no shape; each is listed.
    """
    shapes = probe_features(model, names, height_width)
    if problems := [reason for reason in shapes.values() if isinstance(reason, str)]:
        raise UserError(*problems)
    return {name: shape for name, shape in shapes.items() if not isinstance(shape, str)}


def pair_problem(student: Shape | str, teacher: Shape | str) -> str | None:
    """The reason why two features cannot be compared sensibly; None if they can.

    Channels and resolution may differ, because the student's feature gets a 1x1 convolution and is resized.

    Args:
        student, teacher: shapes N x C x H x W with tokens folded, or a text that says why there is none.
    """
    for side, shape in (("student", student), ("teacher", teacher)):
        if isinstance(shape, str):
            return f"{side}: {shape}"
        if len(shape) != 4:
            return f"the {side}'s is no map N x C x H x W but {show_shape(shape)}"
    student_size, teacher_size = (int(student[2]), int(student[3])), (int(teacher[2]), int(teacher[3]))
    if (student_size == (1, 1)) != (teacher_size == (1, 1)):
        side, size = ("student", teacher_size) if student_size == (1, 1) else ("teacher", student_size)
        return f"the {side}'s is pooled to 1 x 1, the other is {size[0]} x {size[1]}"
    # If a stride does not divide the image, each side is rounded by up to one cell, on average by half a cell.
    rounding = 0.5 * sum(1 / cells for cells in (*student_size, *teacher_size))
    if abs(math.log(student_size[0] * teacher_size[1] / (student_size[1] * teacher_size[0]))) > rounding:
        return f"aspect ratios differ: {student_size[0]} x {student_size[1]} and {teacher_size[0]} x {teacher_size[1]}"
    return None


def sensible_pairs(
    student: Sequence[Shape | str], teacher: Sequence[Shape | str], height_width: tuple[int, int]
) -> list[tuple[int, int]]:
    """The (student, teacher) index pairs worth trying.

    First come all pairs of equal strides. Then, for each student feature without such a pair, comes the pair with the
    nearest stride, if it is within about a factor of 2; of two that are equally near, the lower teacher index.

    Args:
        student, teacher: shapes by feature index, as for :func:`pair_problem`.
        height_width: size of the images, in pixels.
    """
    equal, near = [], []
    for s, shape in enumerate(student):
        distances = {
            t: abs(math.log2(stride_of(shape, height_width) / stride_of(teacher_shape, height_width)))  # type: ignore[arg-type]
            for t, teacher_shape in enumerate(teacher)
            if pair_problem(shape, teacher_shape) is None
        }
        # Sizes are rounded to cells: with 90 pixels, stride 8 gives 12 cells, which is a stride of 7.5.
        same = [(s, t) for t, distance in distances.items() if distance < 0.25]
        equal += same
        if not same and distances:
            best = min(distances, key=lambda t: (round(distances[t], 6), t))
            near += [(s, best)] if distances[best] <= 1.25 else []
    return equal + near


def stride_of(shape: Shape, height_width: tuple[int, int]) -> float:
    """Height of the image / height of the map (N x C x H x W)."""
    return height_width[0] / shape[2]


def show_shape(shape: Shape) -> str:
    """A shape as text without the batch size: ``(1, 64, 16, 16)`` -> ``64 x 16 x 16``."""
    return " x ".join(str(size) for size in (shape[1:] if len(shape) > 1 else shape)) or "a single number"


class _Recorder:
    """Records the shapes of each layer's output, and its FLOPs.

    It wraps a layer's ``forward`` instead of using a hook, because mmseg calls ``decode_head.forward(...)`` directly,
    which does not run PyTorch's forward hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.outputs: dict[str, Shape | list[Shape | None] | None] = {}
        self.flops: dict[str, int] = {}
        self._counter = FlopCounterMode(display=False)

    @contextmanager
    def attached(self) -> Iterator[None]:
        layers = [(module, name, vars(module).get("forward")) for name, module in self.model.named_modules() if name]
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for module, name, _ in layers:
                module.forward = self._recorded(module.forward, name)
            # The counter does not know fused attention on every device, so attention is computed without it.
            with sdpa_kernel(SDPBackend.MATH), self._counter:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, _, replaced in layers:
                if replaced is None:
                    del module.forward
                else:
                    module.forward = replaced

    def _recorded(self, forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            before = self._counter.get_total_flops()
            result = forward(*args, **kwargs)
            self.flops[name] = self.flops.get(name, 0) + self._counter.get_total_flops() - before
            self.outputs[name] = _shapes(result)
            return result

        return recorded


def _shapes(output: Any) -> Shape | list[Shape | None] | None:
    """The shape of a tensor; a list of shapes for a tuple or list (None for elements that are no tensor); else None."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)):
        return [tuple(item.shape) if isinstance(item, Tensor) else None for item in output]
    return None


def _entries(name: str, module: nn.Module, output: Any, flops: int, sizes: tuple[Size, Size]) -> Iterator[Layer]:
    kind = type(module).__name__
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if isinstance(output, tuple):
        yield Layer(name, kind, output, *_as_map(output, *sizes), parameters, flops)
        return
    yield Layer(name, kind, (), None, None, None, parameters, flops)
    for index, shape in enumerate(output or ()):
        if shape is not None:
            yield Layer(f"{name}[{index}]", kind, shape, *_as_map(shape, *sizes), None, None)


def _as_map(shape: Shape, seen: Size, image: Size) -> tuple[Shape | None, float | None, int | None]:
    """The shape as a map (with tokens folded), its stride and its channels.

    ``seen`` is the size of the image inside the model (see ``input_size`` of a teacher), ``image`` its original size.
    """
    folded = tuple(as_maps(torch.empty(shape, device="meta"), seen).shape)
    if len(folded) == 4 and folded[2] > 0:
        return folded, stride_of(folded, image), folded[1]
    channels = shape[-1] if len(shape) == 3 else shape[1] if len(shape) > 1 else None
    return None, None, channels


@torch.no_grad()
def _run_blank(
    model: nn.Module, height_width: tuple[int, int], names: Sequence[str], *, training: bool = False
) -> None:
    """Runs one forward pass on a blank image in evaluation mode, and restores the mode of each layer."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with training_outputs(model) if training else nullcontext():
            run_heads(model, model.extract_feat(blank_image(model, height_width)), names)
    except UserError:
        raise
    except Exception as error:  # mmseg's layers raise all kinds of errors at a size that they do not support
        raise UserError(
            f"{type(model).__name__} does not run on an image of {height_width[0]} x {height_width[1]} pixels: "
            f"{error_line(error)}; try another --size"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
