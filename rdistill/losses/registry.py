"""What a loss is: one declaration beside its function, which everything that has to do with losses reads."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rdistill.core.errors import UserError
from rdistill.losses.common import compared
from rdistill.registration.parameters import Choice, Parameter, declared, problems_of
from rdistill.registration.registry import Registry
from rdistill.schemas.mappings import LossParams

Side = Literal["logits", "features"]
Function = TypeVar("Function", bound=Callable[..., Any])
# Arguments that a term gives a loss by itself, as far as it takes them.
NOT_PARAMETERS = ("mask", "key_mask", "label", "ignore_index", "num_classes")
COMPARED_AT = ("label", "logits")


@dataclass(frozen=True)
class LossInfo:
    """What there is to know about one loss without computing it. See :func:`register` for what the fields mean."""

    name: str
    implementation: Callable[..., Any]
    on: tuple[Side, ...]
    weight: float
    weight_on_features: float | None = None
    params: Mapping[str, Parameter] = field(default_factory=dict)
    channels: Literal["equal", "projected", "any"] = "equal"
    constant_over: tuple[Literal["channels", "positions"], ...] = ()
    softmax: bool = False
    layers: bool = False
    label: bool = False
    buffers: bool = False
    exchanges: tuple[Literal["counts", "statistics", "embeddings"], ...] = ()
    module: str | None = None
    at: str = "logits"
    paper: str = ""
    formula: str = ""
    use_when: str = ""

    @property
    def function(self) -> str:
        """Name of the function or class that :meth:`load` returns."""
        return self.implementation.__name__

    @property
    def defaults(self) -> LossParams:
        """The loss's own parameters and their defaults."""
        return {name: parameter.default for name, parameter in self.params.items()}

    def load(self) -> Callable[..., Any]:
        """The pure function, or where a loss is a module alone its class."""
        return self.implementation

    def load_module(self) -> type | None:
        """The class of the loss's module (imports torch); None for a loss that is a pure function."""
        if isinstance(self.implementation, type):
            return self.implementation
        if self.module is None:
            return None
        source, _, name = self.module.partition(":")
        module_class: type = getattr(importlib.import_module(source), name)
        return module_class

    def default_weight(self, on: str) -> float:
        """The default weight on ``logits`` or ``features``."""
        if on == "features" and self.weight_on_features is not None:
            return self.weight_on_features
        return self.weight

    def parameters(self, on: str) -> dict[str, Parameter]:
        """Every parameter a term on ``logits`` or ``features`` takes."""
        return {**self.params, **({"at": Choice(self.at, COMPARED_AT)} if on == "logits" else {})}

    def default_params(self, on: str) -> LossParams:
        """Every parameter a term on ``logits`` or ``features`` takes, with its default."""
        return {**self.defaults, **({"at": self.at} if on == "logits" else {})}


LOSSES: Registry[LossInfo] = Registry("loss", "rdistill.losses")


def register(
    name: str,
    *,
    on: tuple[Side, ...],
    weight: float,
    weight_on_features: float | None = None,
    params: Mapping[str, Parameter] | None = None,
    channels: Literal["equal", "projected", "any"] = "equal",
    constant_over: tuple[Literal["channels", "positions"], ...] = (),
    softmax: bool = False,
    layers: bool = False,
    label: bool | None = None,
    buffers: bool = False,
    exchanges: tuple[Literal["counts", "statistics", "embeddings"], ...] = (),
    module: str | None = None,
    at: Literal["label", "logits"] = "logits",
    paper: str = "",
    formula: str = "",
    use_when: str = "",
) -> Callable[[Function], Function]:
    """Declares a loss; decorates the function or the class that computes it.

    A function is ``loss(student, teacher, [label], *, mask, PARAMETERS) -> scalar`` of N x C x H x W tensors. It is
    called as every loss is: shapes checked, in float32 whatever autocast says, the teacher's side without a gradient.
    A class is an ``nn.Module``, built as ``Loss(student_channels, teacher_channels, [num_classes], *, PARAMETERS)`` and
    called as a function is; it gets the student's tensor as it is, and has what layers it needs. Both take by name what
    they need of ``mask`` (N x H x W, True = valid; on logits), ``label`` (N x H x W), ``num_classes`` and
    ``ignore_index`` (always with ``label``); every other keyword-only argument is a parameter that a config may set.

    Args:
        name: what a config's ``type`` calls it.
        on: what it can compare: ``logits`` (ignored pixels masked), ``features``, or both.
        weight: default weight.
        weight_on_features: default weight on features where it is not that on logits.
        params: name -> what the parameter may be; one that is left out takes what has the type of its default.
        channels: ``equal``: both sides must have as many, so a student's feature gets a 1x1 convolution where the
            numbers differ; ``projected``: it always gets one; ``any``: they may differ.
        constant_over: of what a single one leaves nothing to compare, such as one position: an error before training.
        softmax: whether it takes a softmax over the classes: one channel z of two classes then becomes (0, z).
        layers: whether it takes several pairs of features, as two lists of tensors.
        label: whether it needs the labels; where it is left out, whether the function takes ``label``.
        buffers: whether it keeps what it has seen, in buffers, and so in every checkpoint.
        exchanges: what workers send each other within a step, see :mod:`rdistill.distributed.collectives`: ``counts``
            of what a mean is over, ``statistics`` such as means, ``embeddings`` of every image.
        module: ``module:Class`` of the ``nn.Module`` around the function, of a declaration that must not import torch.
        at: default of the parameter ``at``, which exists on logits only: compare at the ``label``'s resolution (both
            logits upsampled) or at the teacher's ``logits`` resolution (the label resized).
        paper: where it is from.
        formula: one line of plain text; s and t are the student's and the teacher's tensors, p a softmax.
        use_when: one line.

    Raises:
        UserError: the name is taken, or the declaration is not that of the function.
    """

    def decorate(function: Function) -> Function:
        where = f"loss {name!r} of {function.__module__}"
        own = inspect.signature(function.forward if isinstance(function, type) else function).parameters  # type: ignore[attr-defined]
        problems = _problems(
            on=on, weight=weight, weight_on_features=weight_on_features, channels=channels, at=at, label=label,
            own=own, module=module,
        )  # fmt: skip
        if problems:
            raise UserError(*(f"{where}: {problem}" for problem in problems))
        parts = [function, function.forward] if isinstance(function, type) else [function]  # type: ignore[attr-defined]
        parameters = declared(parts, params, NOT_PARAMETERS, where=where)
        is_class = isinstance(function, type)
        wrapped = function if is_class else compared(function, same_channels=channels != "any", layers=layers)
        info = LossInfo(
            name, wrapped, tuple(on), weight, weight_on_features, parameters, channels, constant_over, softmax, layers,
            "label" in own if label is None else label, buffers, exchanges, module, at, paper, formula, use_when,
        )  # fmt: skip
        LOSSES.add(name, info, function)
        return wrapped  # type: ignore[return-value]

    return decorate


def _problems(
    *, on: Any, weight: Any, weight_on_features: Any, channels: Any, at: Any, label: Any, own: Any, module: Any
) -> list[str]:
    """What is wrong with a declaration of a user's, one line each."""
    problems = []
    if not isinstance(on, (tuple, list)) or not on or set(on) - {"logits", "features"}:
        problems.append(f"on must be ('logits',), ('features',) or both, got {on!r}")
    for key, value in (("weight", weight), ("weight_on_features", weight_on_features)):
        if isinstance(value, bool) or not isinstance(value, int | float | None) or (value or 0) < 0:
            problems.append(f"{key} must be a number >= 0, got {value!r}")
    if channels not in ("equal", "projected", "any"):
        problems.append(f"channels must be 'equal', 'projected' or 'any', got {channels!r}")
    if at not in COMPARED_AT:
        problems.append(f"at must be 'label' or 'logits', got {at!r}")
    if "label" in own and label is False:
        problems.append("takes a label, but is declared with label=False")
    if label and "label" not in own and module is None:
        problems.append("is declared with label=True, but takes no argument `label`")
    return problems


def check_params(type: str, params: Mapping[str, Any], on: str) -> list[str]:
    """What is wrong with a loss's parameters, one line a problem; an empty list when nothing is.

    Args:
        type: a name in :data:`LOSSES`.
        params: the loss's own parameters, without ``type``, ``on``, ``weight`` and the like.
        on: ``logits`` or ``features``.
    """
    info = LOSSES.get(type)
    if info is None:
        return [f"type must be one of {', '.join(LOSSES)}, got {type!r}{LOSSES.nearest(type)}"]
    if on not in info.on:
        return [f"on must be {' or '.join(map(repr, info.on))} for {type}, got {on!r}"]
    return problems_of(params, info.parameters(on), f"{type} on {on}")
