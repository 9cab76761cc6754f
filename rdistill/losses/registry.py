"""The registry of losses: one declaration beside each function, which all code about losses reads."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rdistill.core.errors import UserError
from rdistill.losses.common import wrap_loss
from rdistill.registration.parameters import Choice, Number, Parameter, declared, problems_of
from rdistill.registration.registry import Registry
from rdistill.schemas.mappings import LossParams

Side = Literal["logits", "features"]
Function = TypeVar("Function", bound=Callable[..., Any])
# Arguments of a loss that are no parameters: a term passes them if the loss takes them.
NOT_PARAMETERS = ("mask", "key_mask", "label", "ignore_index", "num_classes")
COMPARED_AT = ("label", "logits")


@dataclass(frozen=True)
class LossInfo:
    """The declaration of one loss. See :func:`register` for the meaning of the fields."""

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
        """The pure function, or the class of a loss that exists only as a module."""
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
        """All parameters that a term on ``logits`` or ``features`` takes."""
        return {**self.params, **({"at": Choice(self.at, COMPARED_AT)} if on == "logits" else {})}

    def default_params(self, on: str) -> LossParams:
        """All parameters that a term on ``logits`` or ``features`` takes, with their defaults."""
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

    A function has the form ``loss(student, teacher, [label], *, mask, PARAMETERS) -> scalar`` and takes N x C x H x W
    tensors. It is called like every loss: shapes are checked, it computes in float32 also under autocast, and the
    teacher gets no gradient. A class is an ``nn.Module``. It is built as ``Loss(student_channels, teacher_channels,
    [num_classes], *, PARAMETERS)`` and called like a function; it gets the student's tensor unchanged and contains the
    layers that it needs. Both may take these arguments by name: ``mask`` (N x H x W, True = valid; on logits),
    ``label`` (N x H x W), ``num_classes``, and ``ignore_index`` (always with ``label``). Every other keyword-only
    argument is a parameter that a config may set.

    Args:
        name: the name in a config's ``type``.
        on: what the loss can compare: ``logits`` (ignored pixels masked), ``features``, or both.
        weight: the default weight.
        weight_on_features: the default weight on features, if it differs from that on logits.
        params: name -> allowed values; a parameter without an entry accepts values with the type of its default.
        channels: ``equal``: both sides need equal channels, so a student's feature gets a 1x1 convolution if its
            number differs; ``projected``: it always gets one; ``any``: the numbers may differ.
        constant_over: dimensions over which the loss is constant if their size is 1, such as ``positions``; this is
            reported as an error before training.
        softmax: whether the loss takes a softmax over the classes; a single channel z of two classes becomes (0, z).
        layers: whether the loss takes several pairs of features, as two lists of tensors.
        label: whether the loss needs labels; by default, whether the function takes ``label``.
        buffers: whether the loss keeps values from earlier steps in buffers, which are saved in every checkpoint.
        exchanges: what workers exchange within a step, see :mod:`rdistill.distributed.collectives`: ``counts`` for the
            divisor of a mean, ``statistics`` such as means, ``embeddings`` of all images.
        module: ``module:Class`` of the ``nn.Module`` around the function, for a declaration that must not import torch.
        at: default of the parameter ``at``, which exists on logits only: compare at the resolution of the ``label``
            (both logits are upsampled) or at the teacher's ``logits`` resolution (the label is resized).
        paper: the reference.
        formula: one line of plain text; s and t are the student's and the teacher's tensors, p is a softmax.
        use_when: one line of advice.

    Raises:
        UserError: the name is taken, or the declaration does not fit the function.
    """

    def decorate(function: Function) -> Function:
        where = f"loss {name!r} of {function.__module__}"
        signature = inspect.signature(function.forward if isinstance(function, type) else function)  # type: ignore[attr-defined]
        arguments = signature.parameters
        problems = _problems(
            on=on, weight=weight, weight_on_features=weight_on_features, channels=channels, at=at, label=label,
            arguments=arguments, module=module,
        )  # fmt: skip
        if problems:
            raise UserError(*(f"{where}: {problem}" for problem in problems))
        parts = [function, function.forward] if isinstance(function, type) else [function]  # type: ignore[attr-defined]
        parameters = declared(parts, params, NOT_PARAMETERS, where=where)
        is_class = isinstance(function, type)
        wrapped = function if is_class else wrap_loss(function, same_channels=channels != "any", layers=layers)
        info = LossInfo(
            name, wrapped, tuple(on), weight, weight_on_features, parameters, channels, constant_over, softmax, layers,
            "label" in arguments if label is None else label, buffers, exchanges, module, at, paper, formula, use_when,
        )  # fmt: skip
        LOSSES.add(name, info, function)
        return wrapped  # type: ignore[return-value]

    return decorate


def _problems(
    *, on: Any, weight: Any, weight_on_features: Any, channels: Any, at: Any, label: Any, arguments: Any, module: Any
) -> list[str]:
    """The mistakes in a declaration, one line each; ``arguments`` are those of the declared function."""
    problems = []
    if not isinstance(on, (tuple, list)) or not on or set(on) - {"logits", "features"}:
        problems.append(f"on must be ('logits',), ('features',) or both, got {on!r}")
    for key, value in (("weight", weight), ("weight_on_features", weight_on_features)):
        if value is not None and not Number(at_least=0).fits(value):
            problems.append(f"{key} must be a number >= 0, got {value!r}")
    if channels not in ("equal", "projected", "any"):
        problems.append(f"channels must be 'equal', 'projected' or 'any', got {channels!r}")
    if at not in COMPARED_AT:
        problems.append(f"at must be 'label' or 'logits', got {at!r}")
    if "label" in arguments and label is False:
        problems.append("takes a label, but is declared with label=False")
    if label and "label" not in arguments and module is None:
        problems.append("is declared with label=True, but takes no argument `label`")
    return problems


def check_params(type: str, params: Mapping[str, Any], on: str) -> list[str]:
    """The mistakes in a loss's parameters, one line each; an empty list if there are none.

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
