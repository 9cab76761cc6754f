"""`rdistill models`: the zoo as lines and as plain data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from rdistill.core.errors import UserError, error_line
from rdistill.init.models import Task, adapted, build
from rdistill.init.zoo import CLASSES, SIZE, ZooModel, figures, model_names, model_section, zoo_models
from rdistill.models.shapes import Layer, describe


def listed(pattern: str | None, *, measured_now: bool = False) -> list[ZooModel]:
    """The models whose names hold a text.

    Args:
        pattern: case, ``-`` and ``_`` count alike; None is all.
        measured_now: build and run each instead of reading the figures that come with rdistill.

    Raises:
        UserError: there is none.
    """
    wanted = (pattern or "").lower().replace("_", "-")
    chosen = [model for model in zoo_models() if wanted in model.name.lower().replace("_", "-")]
    if not chosen:
        raise UserError(f"{pattern}: no model's name holds this; `rdistill models` lists all {len(model_names())}")
    return sorted(_measured(chosen), key=lambda model: model.parameters or 0) if measured_now else chosen


def _measured(models: Sequence[ZooModel]) -> Iterator[ZooModel]:
    yield from measure([model.name for model in models])


def as_plain(models: Sequence[ZooModel]) -> dict[str, Any]:
    """What `--json` prints."""
    return {"size": SIZE, "classes": CLASSES, "models": [asdict(model) for model in models]}


def shown(models: Sequence[ZooModel], *, measured_now: bool) -> Iterator[str]:
    """A line for each model, and where the figures come from."""
    width = max(len(model.name) for model in models)
    yield f"{'name':<{width}}  {'M param.':>9}  {'GFLOPs':>8}  config"
    for model in models:
        if model.parameters is None or model.flops is None:
            yield f"{model.name:<{width}}  {'':>9}  {'':>8}  {model.config}: {model.problem or 'not measured'}"
            continue
        yield f"{model.name:<{width}}  {model.parameters / 1e6:>9.2f}  {model.flops / 1e9:>8.1f}  {model.config}"
    source = "measured now" if measured_now else f"measured by rdistill with mmsegmentation {figures()['mmseg']}"
    yield (
        f"{source}: one image of {SIZE} x {SIZE} pixels, {CLASSES} classes, auxiliary heads counted, "
        "2 FLOPs for each multiply-add"
    )


def measure(names: list[str] | None = None) -> Iterator[ZooModel]:
    """Builds models for ``CLASSES`` classes and runs each once on a blank image of ``SIZE`` x ``SIZE`` pixels.

    Args:
        names: of :func:`model_names`; by default all of them.
    """
    task = Task(classes=CLASSES, size=(SIZE, SIZE))
    known_configs = model_names()
    for name in names if names is not None else list(known_configs):
        config = known_configs[name]
        try:
            model = build(adapted(model_section(name, config), task, name=name)).eval()
            parameters = sum(weight.numel() for weight in model.parameters())
            layers = _layers(model)
            flops = sum(layer.flops or 0 for layer in layers if layer.depth == 1)
            yield ZooModel(name, config, parameters, flops)
        except Exception as error:  # a model of others may fail in any way; it is listed with the reason
            text = error.problems[0] if isinstance(error, UserError) else error_line(error)
            yield ZooModel(name, config, problem=text.removeprefix(f"{name}: ").removeprefix(f"{config}: "))


def _layers(model: nn.Module) -> list[Layer]:
    """Its layers as a forward pass shows them: on torch's meta device, where that works, which computes nothing."""
    try:
        return describe(copy.deepcopy(model).to("meta"), (SIZE, SIZE))
    except Exception:  # what looks at values, which that device does not have
        return describe(model, (SIZE, SIZE))
