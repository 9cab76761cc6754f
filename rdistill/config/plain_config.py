"""Writes the student's config for plain mmseg: complete, without rdistill, with a comment for each part."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.label_map import STEP
from rdistill.config.render import as_written, assignment, comment_line, literal
from rdistill.config.walk import dataset_steps, first_leaf, kind_of, metrics_of

HEADER_END = "# " + "-" * 98
# Comment -> keys under it, in the order of the file. Other keys of a config are only variables from which it was built,
# and are left out.
_SECTIONS = (
    (
        "The model. Its data_preprocessor gets images of 0 to 255 and makes (pixel - mean) / std of them.\n"
        "# On several GPUs SyncBN is the norm_cfg to train with; BN trains anywhere.",
        ("model",),
    ),
    (
        "Training data: a folder of images and one of masks, whose pixels are class indices (255 counts nowhere).",
        ("train_dataloader",),
    ),
    (
        "Validation and test data. Labels are loaded after Resize: predictions are scored at the image's own size.",
        ("val_dataloader", "test_dataloader"),
    ),
    ("What mmseg.apis.inference_model does to an image.", ("test_pipeline", "tta_pipeline", "tta_model")),
    ("Scores: IoU of each class and their mean, in percent.", ("val_evaluator", "test_evaluator")),
    (
        "Optimizer and learning rate. Trained alone with these, the student learns without its teacher.",
        ("optim_wrapper", "param_scheduler", "auto_scale_lr"),
    ),
    (
        "How long: iterations of training, and how often to validate.",
        ("train_cfg", "val_cfg", "test_cfg"),
    ),
    (
        "The rest is mmengine's: logs, checkpoints, processes.",
        (
            "default_scope", "custom_imports", "crop_size", "default_hooks", "env_cfg", "visualizer", "log_processor",
            "log_level", "load_from", "resume", "activation_checkpointing", "efficient_conv_bn_eval",
        ),
    ),
)  # fmt: skip


def plain_config(cfg: Config, *, on_gpu: bool) -> Config:
    """The student's config without rdistill, with which plain mmseg trains, tests and predicts.

    If ``on_gpu`` is False, SyncBN becomes BN, because SyncBN cannot train on a CPU; the weights stay the same.
    """
    plain = copy.deepcopy(config_dict(cfg).to_dict())
    if not on_gpu:
        plain["model"] = _without_sync_bn(plain["model"])
    for key in ("distill", "work_dir", "custom_hooks", "experiment_name", "launcher", "randomness"):
        plain.pop(key, None)
    dataset = plain["train_dataloader"]["dataset"]
    if dataset.get("type") == "StreamDataset":
        plain["train_dataloader"]["dataset"] = dataset["dataset"]
        plain["train_dataloader"]["sampler"] = dict(type="InfiniteSampler", shuffle=True)
    for evaluator in ("val_evaluator", "test_evaluator"):
        for metric in metrics_of(plain.get(evaluator)):
            if kind_of(metric) == "ClassIoUMetric":
                metric["type"] = "IoUMetric"
    # mmseg.apis.inference_model reads `test_pipeline`. Replace a variable of this name, which may not have the size of
    # --size, by the validation pipeline, without the step for masks.
    steps = copy.deepcopy(first_leaf(plain["val_dataloader"]["dataset"]).get("pipeline"))
    plain["test_pipeline"] = [step for step in steps if kind_of(step) != STEP] if steps else steps
    if any(kind_of(step) == STEP for _, step in dataset_steps(plain["train_dataloader"]["dataset"])):
        imports = plain.get("custom_imports") or {}  # rdistill has this step: scoring and training need it
        modules = [*imports.get("imports", ()), "rdistill.data.datasets"]
        plain["custom_imports"] = dict(imports=modules, allow_failed_imports=True)
    kept = [key for _, keys in _SECTIONS for key in keys if key in plain]
    return Config({key: plain[key] for key in kept})


def config_text(plain: Config, header: Sequence[str]) -> str:
    """The text of a config file to read and to edit: a header of comment lines, then one part after the other.

    The folder of the data is in one line at the top.
    """
    values = as_written(config_dict(plain).to_dict())
    root = _data_root(values)
    names = {root: "data_root"} if root else {}
    lines = [comment_line(line) for line in header] + [HEADER_END]
    if root:
        lines += ["# Where the images are: the line to change on another machine.", f"data_root = {literal(root)}", ""]
    for comment, keys in _SECTIONS:
        present = [key for key in keys if key in values]
        if present:
            lines += [f"# {comment}", "".join(assignment(key, values[key], names) for key in present)]
    return "\n".join(lines)


def replace_header(text: str, header: Sequence[str]) -> str:
    """The text of a config file with another header."""
    body = text.partition(HEADER_END)[2]
    return "\n".join([comment_line(line) for line in header] + [HEADER_END]) + body


def header(
    config: str, checkpoint: str, model: Mapping[str, Any], scores: Sequence[str], repeat: Sequence[str]
) -> list[str]:
    """The lines of comment at the top of a config file.

    Args:
        config, checkpoint: names of the two files, which are in one folder.
        model: the ``model`` section of the config.
        scores: lines about the scores of the checkpoint.
        repeat: lines about how it was trained.
    """
    parts = [model["backbone"]["type"]] if "type" in model.get("backbone", {}) else []
    heads = model.get("decode_head") or {}
    parts += [head["type"] for head in ([heads] if isinstance(heads, Mapping) else heads) if "type" in head]
    return [
        f"{model['type']} of {' and '.join(parts)}: a complete config for plain MMSegmentation.",
        f"Its weights are {checkpoint}, beside this file. Neither needs rdistill or the teacher.",
        "",
        *scores,
        *repeat,
        "",
        "On images:",
        "    from mmseg.apis import inference_model, init_model",
        f"    model = init_model('{config}', '{checkpoint}', device='cpu')",
        "    mask = inference_model(model, 'image.jpg').pred_sem_seg.data  # 1 x H x W: class indices",
        "Score it again, or train the same model without a teacher, with MMSegmentation's tools:",
        f"    python tools/test.py {config} {checkpoint}",
        f"    python tools/train.py {config} --work-dir DIR",
    ]


def _without_sync_bn(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: "BN" if (key, item) == ("type", "SyncBN") else _without_sync_bn(item) for key, item in node.items()
        }
    return type(node)(_without_sync_bn(item) for item in node) if isinstance(node, (list, tuple)) else node


def _data_root(values: Mapping[str, Any]) -> str | None:
    root = first_leaf(values["train_dataloader"]["dataset"]).get("data_root")
    return str(root) if root else None
