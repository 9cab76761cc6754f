"""Images and masks of a folder that init has read, as a pipeline's loading steps give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdistill.init.data import Data
from rdistill.models.quiet_mmseg import DATASETS


def samples(data: Data, root: Path, split: str) -> list[dict[str, Any]]:
    """What a pipeline's loading steps make of a split."""
    pipeline: list[dict[str, Any]] = [dict(data.images.loader)]
    if data.labels.label_map:
        pipeline.append({"type": "MapLabels", "label_map": sorted(data.labels.label_map.items())})
    pipeline.append({"type": "LoadAnnotations"})
    metainfo = {"classes": data.labels.classes, "palette": data.labels.palette}
    keys = {"type": "BaseSegDataset", "data_root": str(root), "metainfo": metainfo, **data.datasets[split]}
    if data.labels.reduce_zero_label:
        keys["reduce_zero_label"] = True
    dataset = DATASETS.build({**keys, "pipeline": pipeline})
    return [dataset[index] for index in range(len(dataset))]
