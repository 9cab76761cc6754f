"""The files that a run leaves for use elsewhere: the student alone, with a config that plain mmseg reads."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.plain_config import config_text, header, plain_config
from rdistill.config.render import checked_source
from rdistill.core.files import write_whole
from rdistill.models import checkpoint
from rdistill.models.segmentor import build_segmentor
from rdistill.schemas.run import CheckpointMeta
from rdistill.training.hooks import METRIC


def write_student(cfg: Config, work_dir: Path) -> None:
    """Writes ``student.pth`` and ``student.py``: the best student alone, which plain mmseg can load."""
    best = checkpoint.load_file(work_dir / "best.pth")
    model = build_segmentor(cfg.model)
    model.load_state_dict(checkpoint.model_weights(best))
    dataset = best["meta"].get("dataset_meta") or {}
    meta: CheckpointMeta = {
        "iter": best["meta"]["iter"],
        "seed": best["meta"]["seed"],
        "mIoU": best["meta"]["best"]["metrics"].get(METRIC),
    }
    classes, palette = list(dataset.get("classes") or ()), list(dataset.get("palette") or ())
    checkpoint.save_student(model, work_dir / "student.pth", classes=classes, palette=palette, meta=meta)
    plain, metrics = plain_config(cfg, on_gpu=torch.cuda.is_available()), best["meta"]["best"]["metrics"]
    classes_iou = ", ".join(
        f"{name} {'-' if iou is None else format(iou, '.2f')}" for name, iou in (metrics.get("IoU") or {}).items()
    )
    scores = [
        f"mIoU {metrics[METRIC]:.2f} % on the validation images, at iteration {best['meta']['iter']} "
        f"of seed {best['meta']['seed']}."
    ]
    scores += textwrap.wrap(f"IoU: {classes_iou}.", 98) if classes_iou else []
    config_name = "config.py, or trial.py in a sweep," if cfg.get("distill") else "config.py"
    repeat = [f"Trained by rdistill: `rdistill train` on {config_name} in the run's folder repeats it."]
    lines = header("student.py", "student.pth", plain.model, scores, repeat)
    write_whole(work_dir / "student.py", config_text(plain, lines))


def write_config(cfg: Config, path: Path, seed: int) -> None:
    """Writes the user's config with the seed, so that training it repeats this run, on any number of workers.

    Raises:
        UserError: mmengine would not read the same values back from the file.
    """
    plain = config_dict(cfg).to_dict()
    cfg = Config({**plain, "randomness": {**(plain.get("randomness") or {}), "seed": seed}})
    write_whole(path, checked_source(cfg))
