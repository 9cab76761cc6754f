"""Class maps: make a teacher with other classes predict the student's classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.models.quiet_mmseg import PointHead
from rdistill.models.segmentor import decode_heads, logit_channels

LOG_ZERO = -30.0  # log-probability of a class that the model does not know; it is finite in float16, too


class ClassMap(nn.Module):
    """Converts logits of a model's classes to log-probabilities of the student's classes.

    The probabilities of all classes that map to the same class are added up. The probability of classes that map to no
    class is missing from the sum over the student's classes, from which :func:`mapped_share` computes it; a softmax
    over the result divides it among the other classes.

    Args:
        to: for each class of the model, the student's class, or None.
        num_classes: number of the student's classes.
        masks: whether losses leave out the pixels that mostly belong to classes which map to None.

    Attributes:
        known: the student's classes that the model knows, in order.
        masks: the argument, but False if no class of the model maps to None.
    """

    def __init__(self, to: Sequence[int | None], num_classes: int, *, masks: bool = True) -> None:
        super().__init__()
        self.to_classes, self.num_classes = tuple(to), num_classes
        self.known = tuple(sorted({target for target in to if target is not None}))
        self.masks = masks and None in self.to_classes

    def forward(self, logits_nchw: Tensor) -> Tensor:
        """N x classes of the model x h x w -> N x ``num_classes`` x h x w, in at least float32."""
        precise = logits_nchw.to(torch.promote_types(logits_nchw.dtype, torch.float32))
        if precise.shape[1] == 1:  # sigmoid(z) is softmax((0, z))[1]
            precise = torch.cat([torch.zeros_like(precise), precise], dim=1)
        logarithm = precise.log_softmax(dim=1)
        columns = []
        for index in range(self.num_classes):
            sources = [number for number, target in enumerate(self.to_classes) if target == index]
            if not sources:
                columns.append(torch.full_like(logarithm[:, 0], LOG_ZERO))
            elif len(sources) == 1:
                columns.append(logarithm[:, sources[0]])
            else:
                columns.append(torch.stack([logarithm[:, number] for number in sources], dim=1).logsumexp(dim=1))
        return torch.stack(columns, dim=1).clamp_min(LOG_ZERO)

    def extra_repr(self) -> str:
        return f"{list(self.to_classes)}, num_classes={self.num_classes}"


def mapped_share(logits_nchw: Tensor) -> Tensor:
    """The probability, N x h x w, of all classes that map to one of the student's, from the output of a ClassMap."""
    return logits_nchw.logsumexp(dim=1).exp()


def map_classes(model: nn.Module, to: Sequence[int | None], num_classes: int, *, masks: bool = True) -> None:
    """Makes a segmentor output the student's classes, in losses and in predictions. Its weights keep their names.

    Args:
        model: a model with its weights; changed in place.
        to, num_classes, masks: see :class:`ClassMap`.

    Raises:
        UserError: the model has fewer classes than ``to``, no logits, or refines single points.
    """
    names = decode_heads(model)
    if not names:
        raise UserError("classes: the teacher gives features alone, and no classes; leave classes out")
    if any(isinstance(module, PointHead) for module in model.modules()):
        raise UserError("classes: a model that refines single points (PointRend) cannot have a class map")
    channels = logit_channels(model)
    have = max(2, channels)
    if len(to) > have:
        raise UserError(f"classes: names the teacher's class {len(to) - 1}, and its model tells {have} apart, from 0")
    class_map = ClassMap((*to, *([None] * (have - len(to)))), num_classes, masks=masks)
    heads = [model.get_submodule(name) for name in names if logit_channels(model, name) == channels]
    for head in heads:
        _map_head(head, class_map, channels)
    model.class_map = class_map
    # The heads keep their own numbers of classes, which a forward pass may read; the model's is that of its output.
    model.out_channels = num_classes  # type: ignore[assignment]


def class_map_of(model: nn.Module) -> ClassMap | None:
    """The class map of a model that has one."""
    class_map = getattr(model, "class_map", None)
    return class_map if isinstance(class_map, ClassMap) else None


def known_classes(models: Iterable[nn.Module]) -> tuple[int, ...] | None:
    """The student's classes that all teacher models know, in order; None if they know all classes."""
    maps = [class_map for class_map in map(class_map_of, models) if class_map is not None]
    if not maps:
        return None
    common = set(range(maps[0].num_classes)).intersection(*(class_map.known for class_map in maps))
    return None if len(common) == maps[0].num_classes else tuple(sorted(common))


def masking_models(models: Sequence[nn.Module]) -> tuple[int, ...]:
    """The indices of the teacher models that exclude pixels from losses on logits, see :class:`ClassMap`."""
    maps = [class_map_of(model) for model in models]
    return tuple(index for index, class_map in enumerate(maps) if class_map is not None and class_map.masks)


class _MapsClasses:
    """A mixin in front of a head's own class that applies the class map to the logits in the head's output."""

    class_map: ClassMap
    channels_before: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)  # type: ignore[misc]
        return self._mapped(outputs)

    def _mapped(self, outputs: Any) -> Any:
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self._mapped(output) for output in outputs)
        is_map = isinstance(outputs, Tensor) and outputs.ndim == 4 and outputs.shape[1] == self.channels_before
        return self.class_map(outputs) if is_map else outputs


def _map_head(head: nn.Module, class_map: ClassMap, channels: int) -> None:
    # Change the class instead of setting `forward` on the object: so it also works for a copy of the head, and for code
    # that calls `forward` directly, such as mmseg's `predict`.
    kind = type(head)
    head.__class__ = type(kind.__name__, (_MapsClasses, kind), {})
    head.class_map, head.channels_before = class_map, channels  # type: ignore[assignment]
