"""Lists the models of the zoo for `rdistill models`, as lines and as plain data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from rdistill.core.errors import UserError, error_line
from rdistill.init.models import Task, adapt, build
from rdistill.init.zoo import CLASSES, SIZE, ZooModel, figures, model_names, model_section, zoo_models
from rdistill.models.shapes import Layer, describe


def matching_models(pattern: str | None, *, measured_now: bool = False) -> list[ZooModel]:
    """Returns the models whose names contain a text.

    Args:
        pattern: the text; its case does not matter, and ``-`` equals ``_``. None returns all models.
        measured_now: build and run each model instead of reading the figures that come with rdistill.

    Raises:
        UserError: no name contains the text.
    """
    normalised = (pattern or "").lower().replace("_", "-")
    matches = [model for model in zoo_models() if normalised in model.name.lower().replace("_", "-")]
    if not matches:
        raise UserError(f"{pattern}: no model's name contains this; `rdistill models` lists all {len(model_names())}")
    return sorted(_measured(matches), key=lambda model: model.parameters or 0) if measured_now else matches


def _measured(models: Sequence[ZooModel]) -> Iterator[ZooModel]:
    yield from measure([model.name for model in models])


def as_plain(models: Sequence[ZooModel]) -> dict[str, Any]:
    """Returns what `--json` prints."""
    return {"size": SIZE, "classes": CLASSES, "models": [asdict(model) for model in models]}


def table_lines(models: Sequence[ZooModel], *, measured_now: bool) -> Iterator[str]:
    """Yields a line for each model, and a last line with the source of the figures."""
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
        names: names from :func:`model_names`; by default all of them.
    """
    task = Task(classes=CLASSES, size=(SIZE, SIZE))
    known_configs = model_names()
    for name in names if names is not None else list(known_configs):
        config = known_configs[name]
        try:
            model = build(adapt(model_section(name, config), task, name=name)).eval()
            parameters = sum(weight.numel() for weight in model.parameters())
            layers = _layers(model)
            flops = sum(layer.flops or 0 for layer in layers if layer.depth == 1)
            yield ZooModel(name, config, parameters, flops)
        except Exception as error:  # mmseg's models may raise anything; the model is listed with the reason
            text = error.problems[0] if isinstance(error, UserError) else error_line(error)
            yield ZooModel(name, config, problem=text.removeprefix(f"{name}: ").removeprefix(f"{config}: "))


def _layers(model: nn.Module) -> list[Layer]:
    """Returns a model's layers; uses torch's meta device, which computes nothing, if the model runs there."""
    try:
        return describe(copy.deepcopy(model).to("meta"), (SIZE, SIZE))
    except Exception:  # the forward pass reads values, which the meta device does not have
        return describe(model, (SIZE, SIZE))
