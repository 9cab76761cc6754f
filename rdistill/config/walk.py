"""How the parts of an mmseg config hang together: data sets under wrappers, pipelines within pipelines.

The one place that knows it. Works on plain dictionaries and mmengine's, loaded or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DATALOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# Transforms that hold others: the key, whose value is a list of transforms or of lists of them.
HOLDERS = ("transforms",)


def kind_of(part: Any) -> str:
    """The class's own name in ``type``: ``'IoUMetric'`` of ``'mmseg.IoUMetric'``; empty where there is none.

    A class itself, as mmengine's pure Python configs have it, gives its name too.
    """
    named = part.get("type") if isinstance(part, Mapping) else part
    if named is None:
        return ""
    name = named if isinstance(named, str) else getattr(named, "__name__", str(named))
    return name.replace("::", ".").rpartition(".")[2]


def dataloaders(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and section of the dataloaders there are. mmseg's configs often give val and test one object: both come."""
    for name in DATALOADERS:
        if (loader := cfg.get(name)) is not None:
            yield name, loader


def dataset_nodes(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """Dotted key and section of a data set and all within it: wrappers first, then what they wrap.

    Args:
        dataset: a section such as ``RepeatDataset``, ``ConcatDataset``, ``MultiImageMixDataset`` or one that reads
            files.
        where: its own key.
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
    """Whether a data set takes its images from another one."""
    return "dataset" in dataset or "datasets" in dataset


def leaves(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """As :func:`dataset_nodes`, of the data sets that read files."""
    for key, node in dataset_nodes(dataset, where):
        if isinstance(node, Mapping) and not is_wrapper(node):
            yield key, node


def leaf_datasets(cfg: Mapping[str, Any], loader: str) -> list[Any]:
    """The data sets of one dataloader that read files; empty where it is absent."""
    section = cfg.get(loader)
    return [leaf for _, leaf in leaves(section["dataset"])] if section is not None else []


def first_leaf(dataset: Any) -> Any:
    """The first data set that reads files: several in one dataloader share classes and, as a rule, the pipeline."""
    return next(leaf for _, leaf in leaves(dataset))


def pipelines(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """Key and list of each pipeline of a data set, a wrapper's own included."""
    for key, node in dataset_nodes(dataset, where):
        if isinstance(node, Mapping) and node.get("pipeline"):
            yield f"{key}.pipeline", node["pipeline"]


def steps(pipeline: Any, where: str = "pipeline") -> Iterator[tuple[str, Any]]:
    """Key and section of each transform of a pipeline, those within others included (``TestTimeAug``, ``Compose``)."""
    for index, step in enumerate(pipeline if isinstance(pipeline, (list, tuple)) else ()):
        key = f"{where}.{index}"
        if isinstance(step, (list, tuple)):
            yield from steps(step, key)
            continue
        yield key, step
        for holder in HOLDERS if isinstance(step, Mapping) else ():
            yield from steps(step.get(holder), f"{key}.{holder}")


def dataset_steps(dataset: Any, where: str = "dataset") -> Iterator[tuple[str, Any]]:
    """As :func:`steps`, of all pipelines of a data set."""
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
    """A section that may stand alone or in a list, such as ``param_scheduler`` or ``model.decode_head``."""
    if section is None:
        return []
    return list(section) if isinstance(section, (list, tuple)) else [section]
