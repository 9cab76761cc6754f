"""Label maps: convert the values in mask files to labels, such as 255 -> 1 in masks of 0 and 255."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdistill.config.walk import dataset_nodes, kind_of
from rdistill.core.errors import UserError

STEP = "MapLabels"  # the transform in rdistill.data.datasets; in a pipeline it is before LoadAnnotations
FORM = "must be VALUE=LABEL of whole numbers from 0 to 255, or several with commas: 255=1,128=0"


def parse_label_map(value: Any, where: str) -> dict[int, int]:
    """``'255=1,128=0'``, a mapping or a list of pairs -> ``{255: 1, 128: 0}``.

    Raises:
        UserError: the value has another form, or names a mask value twice.
    """
    pairs: Sequence[Any] = ()
    if isinstance(value, str):
        pairs = [part.split("=") for part in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence):
        pairs = value
    numbers = [_pair(pair) for pair in pairs]
    labels = {old: new for old, new in filter(None, numbers)}
    if not numbers or None in numbers or len(labels) < len(numbers):
        raise UserError(f"{where}: {FORM}; got {value!r}")
    return labels


def set_label_map(dataset: Mapping[str, Any], labels: Mapping[int, int]) -> int:
    """Puts ``MapLabels`` before each transform that loads masks in a dataset's pipelines, and removes old ones.

    Args:
        dataset: the config of a dataset, with all datasets that it wraps.
        labels: value in a mask file -> label.

    Returns:
        The number of transforms that load masks.
    """
    count = 0
    for _, node in dataset_nodes(dataset):
        if not isinstance(node, Mapping) or not node.get("pipeline"):
            continue
        if isinstance(node["pipeline"], tuple):
            node["pipeline"] = list(node["pipeline"])  # type: ignore[index]
        pipeline = node["pipeline"]
        steps = [step for step in pipeline if kind_of(step) != STEP]
        pipeline.clear()
        for step in steps:
            if kind_of(step).endswith("LoadAnnotations"):
                count += 1
                # A list of pairs, because the keys of mmengine's configs must be texts.
                pipeline.append(type(step)(type=STEP, label_map=[list(pair) for pair in sorted(labels.items())]))
            pipeline.append(step)
    return count


def _pair(pair: Any) -> tuple[int, int] | None:
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        return None
    texts = [str(number).strip() for number in pair]  # 'True' is no number
    if not all(re.fullmatch(r"[0-9]{1,3}", text) for text in texts):
        return None
    old, new = map(int, texts)
    return (old, new) if max(old, new) <= 255 else None
