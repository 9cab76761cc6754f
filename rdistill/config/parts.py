"""Which sections of a config mmengine builds a class from, and from which of its registries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
    Registry,
)

from rdistill.config.walk import dataloaders, dataset_nodes, dataset_steps, kind_of, metrics_of

DEFAULT_CONSTRUCTOR = "DefaultOptimWrapperConstructor"
IN_MODEL = ("data_preprocessor", "backbone", "neck", "decode_head", "auxiliary_head")


@dataclass(frozen=True)
class Part:
    """A section that mmengine builds a class from."""

    where: str  # its dotted key
    section: Mapping[str, Any]
    registry: Registry
    default: str | None = None  # its class, where it has no `type`
    also: tuple[str, ...] = ()  # keys that whoever builds it takes for itself
    any_key: bool = False  # built by a class of the user's, which may take any
    needs: tuple[str, ...] = ()  # keys without which it builds and does nothing


def parts(cfg: Mapping[str, Any]) -> Iterator[Part]:
    """The sections that the Runner builds, whichever way a run goes."""
    yield from model_parts(cfg.get("model") or {}, "model")
    yield from _sections("visualizer", cfg.get("visualizer"), VISUALIZERS, default="Visualizer")
    backends = (cfg.get("visualizer") or {}).get("vis_backends")
    yield from _sections("visualizer.vis_backends", backends, VISBACKENDS)
    yield from _sections("log_processor", cfg.get("log_processor"), LOG_PROCESSORS, default="LogProcessor")
    by_epoch = (cfg.get("train_cfg") or {}).get("by_epoch", True)
    loops = ("EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop", "ValLoop", "TestLoop")
    for key, loop in zip(("train_cfg", "val_cfg", "test_cfg"), loops, strict=True):
        yield from _sections(key, cfg.get(key), LOOPS, default=loop, also=("by_epoch",))
    for name, hook in (cfg.get("default_hooks") or {}).items():
        yield from _sections(f"default_hooks.{name}", hook, HOOKS, also=("priority",))
    yield from _sections("custom_hooks", cfg.get("custom_hooks"), HOOKS, also=("priority",))
    yield from _sections(
        "param_scheduler", cfg.get("param_scheduler"), PARAM_SCHEDULERS, also=("convert_to_iter_based",)
    )
    yield from _parts_of_data(cfg)
    for name in ("val_evaluator", "test_evaluator"):
        evaluator = cfg.get(name)
        if isinstance(evaluator, Mapping) and "metrics" in evaluator:
            yield from _sections(name, evaluator, EVALUATOR, default="Evaluator")
            name = f"{name}.metrics"
        alone = isinstance(evaluator, Mapping) and not isinstance(evaluator.get("metrics"), (list, tuple))
        metrics = metrics_of(evaluator)
        yield from _sections(name, metrics[0] if alone and metrics else metrics, METRICS)
    wrapper = cfg.get("optim_wrapper") or {}
    constructor = wrapper.get("constructor") or DEFAULT_CONSTRUCTOR
    yield Part("optim_wrapper.constructor", {"type": constructor}, OPTIM_WRAPPER_CONSTRUCTORS, any_key=True)
    own_way = constructor != DEFAULT_CONSTRUCTOR  # such as learning rates by layer
    also = ("optimizer", "constructor", "paramwise_cfg")
    yield Part("optim_wrapper", wrapper, OPTIM_WRAPPERS, "OptimWrapper", also, any_key=own_way)
    yield from _sections("optim_wrapper.optimizer", wrapper.get("optimizer"), OPTIMIZERS)


def model_parts(model: Mapping[str, Any], where: str) -> Iterator[Part]:
    """A model's own section, those of its large parts, of their losses, and of first weights anywhere."""
    yield Part(where, model, MODELS)
    for name in IN_MODEL:
        yield from _sections(f"{where}.{name}", model.get(name), MODELS)
        heads = model.get(name) if name.endswith("head") else None
        for key, head in _entries(heads, f"{where}.{name}"):
            yield from _sections(f"{key}.loss_decode", head.get("loss_decode"), MODELS)
    yield from _first_weights(model, where)


def _first_weights(node: Any, where: str) -> Iterator[Part]:
    for key, section in _entries(node, where):
        for name, value in section.items():
            if name != "init_cfg":
                yield from _first_weights(value, f"{key}.{name}")
                continue
            for place, init in _entries(value, f"{key}.{name}"):
                needs = ("checkpoint",) if kind_of(init) == "Pretrained" else ()
                yield from _sections(place, init, WEIGHT_INITIALIZERS, also=("override",), needs=needs)


def _parts_of_data(cfg: Mapping[str, Any]) -> Iterator[Part]:
    for name, loader in dataloaders(cfg):
        for key in ("sampler", "batch_sampler"):
            yield from _sections(f"{name}.{key}", loader.get(key), DATA_SAMPLERS)
        for where, dataset in dataset_nodes(loader.get("dataset"), f"{name}.dataset"):
            yield from _sections(where, dataset, DATASETS)
        foreign: tuple[str, ...] = ()
        for where, step in dataset_steps(loader.get("dataset"), f"{name}.dataset"):
            if kind_of(step) == "Albu":  # holds albumentations' transforms
                foreign = (*foreign, f"{where}.")
            if not where.startswith(foreign):
                yield from _sections(where, step, TRANSFORMS)


def _entries(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted key and content of a section, or of each section of a list."""
    if isinstance(node, Mapping):
        yield where, node
    for index, item in enumerate(node if isinstance(node, (list, tuple)) else ()):
        yield from _entries(item, f"{where}.{index}")


def _sections(where: str, node: Any, registry: Registry, **options: Any) -> Iterator[Part]:
    """A section, or each of a list."""
    for key, section in _entries(node, where):
        yield Part(key, section, registry, **options)
