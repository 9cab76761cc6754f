"""What a run hands over: the student alone, with a config that plain mmseg reads, and figures as JSON."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rdistill import checkpoint
from rdistill.hooks import METRIC
from rdistill.segmentor import build_segmentor


def write_student(cfg: Config, work_dir: Path) -> None:
    """Writes ``student.pth`` and ``student.py``: the best student alone, as plain mmseg loads it."""
    best = checkpoint.load_file(work_dir / "best.pth")
    model = build_segmentor(cfg.model)
    model.load_state_dict(checkpoint.model_weights(best))
    dataset = best["meta"].get("dataset_meta") or {}
    meta = {
        "iter": best["meta"]["iter"],
        "seed": best["meta"]["seed"],
        METRIC: best["meta"]["best"]["metrics"].get(METRIC),
    }
    classes, palette = list(dataset.get("classes") or ()), list(dataset.get("palette") or ())
    checkpoint.save_student(model, work_dir / "student.pth", classes=classes, palette=palette, meta=meta)
    plain_config(cfg).dump(work_dir / "student.py")


def plain_config(cfg: Config) -> Config:
    """The student's config without rdistill: what plain mmseg trains, tests and runs."""
    plain = copy.deepcopy(cfg._cfg_dict.to_dict())
    for key in ("distill", "work_dir", "custom_hooks", "experiment_name", "launcher", "randomness", "tracking"):
        plain.pop(key, None)
    dataset = plain["train_dataloader"]["dataset"]
    if dataset.get("type") == "StreamDataset":
        plain["train_dataloader"]["dataset"] = dataset["dataset"]
        plain["train_dataloader"]["sampler"] = dict(type="InfiniteSampler", shuffle=True)
    for evaluator in ("val_evaluator", "test_evaluator"):
        metrics = plain.get(evaluator)
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            if metric and metric.get("type") == "ClassIoUMetric":
                metric["type"] = "IoUMetric"
    # mmseg.apis.inference_model reads this one; a variable of that name may be older than --size.
    plain["test_pipeline"] = copy.deepcopy(plain["val_dataloader"]["dataset"].get("pipeline"))
    return Config(plain)


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def write_config(cfg: Config, path: Path, seed: int) -> None:
    """Writes the config as it was asked for, so that a run of it is this run again, on any number of workers."""
    cfg = Config({**cfg._cfg_dict.to_dict(), "randomness": dict(seed=seed)})
    cfg.dump(path)
