"""What a model's layers give: shapes, strides, parameters and FLOPs, and which pairs of features can be compared."""

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
    """One layer, or one element of the tuple or list that a layer gives, as a forward pass showed it."""

    name: str  # a feature name: `backbone.layer4`, or `backbone[2]` for an element
    type: str
    shape: Shape  # what the layer gives: N x C x H x W, or N x L x C for tokens; empty where elements follow
    map_shape: Shape | None  # N x C x H x W, tokens folded; None for what is no map
    stride: float | None  # height of the image / height of the map
    channels: int | None
    parameters: int | None  # its own and its children's; None for an element
    flops: int | None  # operations for one image: 2 for each multiply-add; None for an element

    @property
    def depth(self) -> int:
        """1 for `backbone` and its elements, 2 for `backbone.layer4`."""
        return self.name.count(".") + 1


def describe(model: nn.Module, height_width: tuple[int, int]) -> list[Layer]:
    """Every layer that runs in a forward pass, in the order of ``named_modules()``.

    A layer that runs more than once shows its last output, and the FLOPs of all its runs.

    Args:
        model: an mmseg segmentor; left as it was.
        height_width: of the blank image, in pixels.

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
    """Feature name -> its shape, tokens folded into maps; or why it has none.

    Args:
        model: an mmseg segmentor; left as it was.
        names: as :mod:`rdistill.models.features` defines them.
        height_width: of the blank image, in pixels.
        training: the shapes are those of training, where some models give several tensors instead of one.

    Raises:
        UserError: a name that the model does not have, or a model that does not run at this size.
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
    """As :func:`probe_features`, where every feature must have a shape.

    Raises:
        UserError: naming every feature that has none.
    """
    shapes = probe_features(model, names, height_width)
    if problems := [reason for reason in shapes.values() if isinstance(reason, str)]:
        raise UserError(*problems)
    return {name: shape for name, shape in shapes.items() if not isinstance(shape, str)}


def pair_problem(student: Shape | str, teacher: Shape | str) -> str | None:
    """Why two features cannot sensibly be compared; None when they can.

    Channels and resolution may differ: a 1x1 convolution and resizing see to that. Shapes are
    N x C x H x W with tokens folded, or the reason why there is none.
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
    # A stride that does not divide the image rounds each side by up to one cell, by half of one on average.
    rounding = 0.5 * sum(1 / cells for cells in (*student_size, *teacher_size))
    if abs(math.log(student_size[0] * teacher_size[1] / (student_size[1] * teacher_size[0]))) > rounding:
        return f"aspect ratios differ: {student_size[0]} x {student_size[1]} and {teacher_size[0]} x {teacher_size[1]}"
    return None


def sensible_pairs(
    student: Sequence[Shape | str], teacher: Sequence[Shape | str], height_width: tuple[int, int]
) -> list[tuple[int, int]]:
    """Index pairs worth trying: all of equal stride first, then the nearest for a student feature without one.

    "Nearest" is within a factor of 2 in stride, the lower teacher index where two are as near.

    Args:
        student, teacher: shapes by feature index, as :func:`pair_problem` takes them.
        height_width: of the images, in pixels.
    """
    equal, near = [], []
    for s, shape in enumerate(student):
        distances = {
            t: abs(math.log2(stride_of(shape, height_width) / stride_of(teacher_shape, height_width)))  # type: ignore[arg-type]
            for t, teacher_shape in enumerate(teacher)
            if pair_problem(shape, teacher_shape) is None
        }
        # Sizes are rounded to cells: at 90 pixels stride 8 gives 12, so 7.5.
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
    """``(1, 64, 16, 16)`` -> ``64 x 16 x 16``: the batch says nothing."""
    return " x ".join(str(size) for size in (shape[1:] if len(shape) > 1 else shape)) or "a single number"


class _Recorder:
    """Keeps the shapes of what each layer gives, and the FLOPs that it takes.

    A layer's ``forward`` is wrapped rather than hooked: mmseg calls ``decode_head.forward(...)``
    directly, past PyTorch's forward hooks.
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
            # Fused attention is no operator that the counter knows on every device.
            with sdpa_kernel(SDPBackend.MATH), self._counter:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, _, own in layers:
                if own is None:
                    del module.forward
                else:
                    module.forward = own

    def _recorded(self, forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            before = self._counter.get_total_flops()
            result = forward(*args, **kwargs)
            self.flops[name] = self.flops.get(name, 0) + self._counter.get_total_flops() - before
            self.outputs[name] = _shapes(result)
            return result

        return recorded


def _shapes(output: Any) -> Shape | list[Shape | None] | None:
    """A tensor's shape; those of a tuple's or list's elements (None for what is no tensor); None for the rest."""
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
    """The map that a shape is or folds into, with its stride and its channels.

    ``seen``, ``image``: height and width at which the model sees the image, and of the image itself.
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
    """One forward pass of a blank image in evaluation mode; every layer's own mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with training_outputs(model) if training else nullcontext():
            run_heads(model, model.extract_feat(blank_image(model, height_width)), names)
    except UserError:
        raise
    except Exception as error:  # mmseg's layers raise anything at a size that a model cannot take
        raise UserError(
            f"{type(model).__name__} does not run on an image of {height_width[0]} x {height_width[1]} pixels: "
            f"{error_line(error)}; try another --size"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
