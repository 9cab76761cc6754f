"""Walks through the parts of an mmseg config: datasets in wrappers, pipelines in pipelines, and the sections from which
mmengine builds classes, with their registries.

No other module knows this structure. The functions work on plain dictionaries and on mmengine's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import ConfigDict
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

DATALOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# Keys of transforms that contain other transforms: their value is a list of transforms, or of lists of transforms.
HOLDERS = ("transforms",)
DEFAULT_CONSTRUCTOR = "DefaultOptimWrapperConstructor"
IN_MODEL = ("data_preprocessor", "backbone", "neck", "decode_head", "auxiliary_head")


def kind_of(part: Any) -> str:
    """The name of the class in ``type`` without its scope, ``'IoUMetric'`` for ``'mmseg.IoUMetric'``; '' if none.

    ``part`` is a section, a name, or a class as in mmengine's pure Python configs.
    """
    named = part.get("type") if isinstance(part, Mapping) else part
    if named is None:
        return ""
    name = named if isinstance(named, str) else getattr(named, "__name__", str(named))
    return name.replace("::", ".").rpartition(".")[2]


def dataloaders(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The name and section of each dataloader in a config; val and test may be the same object and both are given."""
    for name in DATALOADERS:
        if (loader := cfg.get(name)) is not None:
            yield name, loader


def dataset_nodes(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """The dotted key and section of a dataset and of all datasets within it: wrappers first, then what they wrap.

    Args:
        dataset: a section such as ``RepeatDataset``, ``ConcatDataset``, ``MultiImageMixDataset``, or a dataset that
            reads files.
        where: the key of that section.
    """
    yield where, dataset
    if not isinstance(dataset, Mapping):
        return
    if "dataset" in dataset:
        yield from dataset_nodes(dataset["dataset"], f"{where}.dataset")
    inner = dataset.get("datasets")
    for index, part in enumerate(inner if isinstance(inner, (list, tuple)) else ()):
        yield from dataset_nodes(part, f"{where}.datasets.{index}")


def is_wrapper(dataset: Mapping[str, Any]) -> bool:
    """Whether a dataset takes its images from another dataset."""
    return "dataset" in dataset or "datasets" in dataset


def leaves(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """Like :func:`dataset_nodes`, but only the datasets that read files."""
    for key, node in dataset_nodes(dataset, where):
        if isinstance(node, Mapping) and not is_wrapper(node):
            yield key, node


def leaf_datasets(cfg: Mapping[str, Any], loader: str) -> list[Any]:
    """The datasets of one dataloader that read files; an empty list if there is no such dataloader."""
    section = cfg.get(loader)
    return [leaf for _, leaf in leaves(section["dataset"])] if section is not None else []


def first_leaf(dataset: Any) -> Any:
    """The first dataset that reads files. (Several in one dataloader share the classes, and usually the pipeline.)"""
    return next(leaf for _, leaf in leaves(dataset))


def class_names(dataset: Any) -> tuple[str, ...]:
    """The class names of a dataset, without reading its files; empty if it has none.

    Errors: all errors from building the dataset.
    """
    plain = ConfigDict(copy.deepcopy(dict(dataset)))
    plain.update(lazy_init=True, pipeline=[])
    return tuple(DATASETS.build(plain).metainfo.get("classes") or ())


def without_stream(dataset: ConfigDict) -> ConfigDict:
    """A copy of the section of a training dataset without the stream that :mod:`rdistill.training.runner` adds.

    It is made from a plain dict, because a deepcopy of mmengine's ConfigDict would keep lazy objects.
    """
    plain = ConfigDict(copy.deepcopy(dataset.to_dict()))
    return plain.dataset if kind_of(plain) == "StreamDataset" else plain


def pipelines(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """The key and the list of each pipeline of a dataset, also those of wrappers."""
    for key, node in dataset_nodes(dataset, where):
        if isinstance(node, Mapping) and node.get("pipeline"):
            yield f"{key}.pipeline", node["pipeline"]


def steps(pipeline: Any, where: str = "pipeline") -> Iterator[tuple[str, Any]]:
    """The key and section of each transform of a pipeline, also those inside others (``TestTimeAug``, ``Compose``)."""
    for index, step in enumerate(pipeline if isinstance(pipeline, (list, tuple)) else ()):
        key = f"{where}.{index}"
        if isinstance(step, (list, tuple)):
            yield from steps(step, key)
            continue
        yield key, step
        for holder in HOLDERS if isinstance(step, Mapping) else ():
            yield from steps(step.get(holder), f"{key}.{holder}")


def dataset_steps(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """Like :func:`steps`, but for all pipelines of a dataset."""
    for key, pipeline in pipelines(dataset, where):
        yield from steps(pipeline, key)


def metrics_of(evaluator: Any) -> list[Any]:
    """The metrics of an evaluator: one section, a list of them, or ``dict(metrics=...)``."""
    if isinstance(evaluator, Mapping) and "metrics" in evaluator:
        evaluator = evaluator["metrics"]
    if evaluator is None:
        return []
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def one_or_more(section: Any) -> list[Any]:
    """The sections of a key that takes one section or a list, such as ``param_scheduler`` or ``model.decode_head``."""
    if section is None:
        return []
    return list(section) if isinstance(section, (list, tuple)) else [section]


@dataclass(frozen=True)
class Part:
    """A section from which mmengine builds a class."""

    where: str  # its dotted key
    section: Mapping[str, Any]
    registry: Registry
    default: str | None = None  # the class if the section has no `type`
    also: tuple[str, ...] = ()  # keys that the builder takes out before it calls the class
    any_key: bool = False  # whether a class of the user builds it, which may take any key
    needs: tuple[str, ...] = ()  # keys without which it is built but has no effect


def parts(cfg: Mapping[str, Any]) -> Iterator[Part]:
    """All sections from which the Runner builds a class."""
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
        single = isinstance(evaluator, Mapping) and not isinstance(evaluator.get("metrics"), (list, tuple))
        metrics = metrics_of(evaluator)
        yield from _sections(name, metrics[0] if single and metrics else metrics, METRICS)
    wrapper = cfg.get("optim_wrapper") or {}
    constructor = wrapper.get("constructor") or DEFAULT_CONSTRUCTOR
    yield Part("optim_wrapper.constructor", {"type": constructor}, OPTIM_WRAPPER_CONSTRUCTORS, any_key=True)
    custom_constructor = constructor != DEFAULT_CONSTRUCTOR  # such as one for layer-wise learning rates
    also = ("optimizer", "constructor", "paramwise_cfg")
    yield Part("optim_wrapper", wrapper, OPTIM_WRAPPERS, "OptimWrapper", also, any_key=custom_constructor)
    yield from _sections("optim_wrapper.optimizer", wrapper.get("optimizer"), OPTIMIZERS)


def model_parts(model: Mapping[str, Any], where: str) -> Iterator[Part]:
    """The sections of a model, of its main parts, of their losses, and of all initialisers (``init_cfg``)."""
    yield Part(where, model, MODELS)
    for name in IN_MODEL:
        yield from _sections(f"{where}.{name}", model.get(name), MODELS)
        heads = model.get(name) if name.endswith("head") else None
        for key, head in _entries(heads, f"{where}.{name}"):
            yield from _sections(f"{key}.loss_decode", head.get("loss_decode"), MODELS)
    yield from _initialisers(model, where)


def _initialisers(node: Any, where: str) -> Iterator[Part]:
    for key, section in _entries(node, where):
        for name, value in section.items():
            if name != "init_cfg":
                yield from _initialisers(value, f"{key}.{name}")
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
            if kind_of(step) == "Albu":  # it contains transforms of albumentations, which mmengine does not know
                foreign = (*foreign, f"{where}.")
            if not where.startswith(foreign):
                yield from _sections(where, step, TRANSFORMS)


def _entries(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dotted key and content of a section, or of each section in a list."""
    if isinstance(node, Mapping):
        yield where, node
    for index, item in enumerate(node if isinstance(node, (list, tuple)) else ()):
        yield from _entries(item, f"{where}.{index}")


def _sections(where: str, node: Any, registry: Registry, **options: Any) -> Iterator[Part]:
    """A part for a section, or for each section in a list."""
    for key, section in _entries(node, where):
        yield Part(key, section, registry, **options)
