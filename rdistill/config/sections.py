"""Checks the kinds of values in a config that rdistill, mmengine and mmseg read, by one table.

It finds a section that is a list, a number that is a text or NaN, or a mistyped key at the top level, so that later
code can rely on the right kinds.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from rdistill.config.walk import DATALOADERS, dataset_nodes, is_wrapper, pipelines, steps
from rdistill.core.errors import did_you_mean, one_line
from rdistill.core.validation import short

MAX_VALUE_CHARS = 80  # characters of a wrong value in a message


@dataclass(frozen=True)
class Kind:
    """A kind of value: its description for messages, and its test."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _is_typed(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and bool(value["type"])


def _is_colour(value: Any) -> bool:
    return _is_list(value) and len(value) == 3 and all(_is_whole(part) and 0 <= part <= 255 for part in value)


def whole(minimum: int, *, unit: str = "") -> Kind:
    """A whole number that is at least ``minimum``."""
    return Kind(f"a whole number{unit}, at least {minimum}", lambda value: _is_whole(value) and value >= minimum)


def number(minimum: float) -> Kind:
    """A finite number that is at least ``minimum``."""
    return Kind(
        f"a number, at least {minimum:g}",
        lambda value: _is_number(value) and math.isfinite(value) and value >= minimum,
    )


SECTION = Kind("a section, dict(...)", _is_section)
TYPED = Kind("a section with a `type`, dict(type='NAME', ...)", _is_typed)
TYPED_LIST = Kind("a list of sections, [dict(type='NAME', ...), ...]", lambda v: _is_list(v) and all(map(_is_typed, v)))
ONE_OR_MORE = Kind(
    "a section with a `type`, dict(type='NAME', ...), or a list of such",
    lambda v: _is_typed(v) or (_is_list(v) and len(v) > 0 and all(map(_is_typed, v))),
)
METRICS = Kind(
    "a section with a `type`, dict(type='IoUMetric', ...), or a list of such",
    lambda v: ONE_OR_MORE.fits(v) or (_is_section(v) and "metrics" in v),
)
SCHEDULES = Kind(
    "a section with a `type`, dict(type='PolyLR', ...), or a list of such",
    lambda v: _is_typed(v) or (_is_list(v) and all(map(_is_typed, v))),
)
TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXT_OR_LIST = Kind(
    "a text or a list of texts", lambda v: isinstance(v, str) or (_is_list(v) and all(isinstance(t, str) for t in v))
)
TEXTS = Kind("a list of texts", lambda v: _is_list(v) and all(isinstance(item, str) for item in v))
YES_NO = Kind("True or False", lambda value: isinstance(value, bool))
FINITE = Kind("a finite number", lambda value: _is_number(value) and math.isfinite(value))
SIZE = Kind(
    "two whole numbers of pixels, at least 1 each",
    lambda v: _is_list(v) and len(v) == 2 and all(_is_whole(n) and n > 0 for n in v),
)
PIXELS = Kind(
    "a whole number of pixels or two of them, at least 1 each",
    lambda v: SIZE.fits(v) or (_is_whole(v) and v > 0),
)
NUMBERS = Kind(
    "finite numbers, one a channel",
    lambda v: _is_list(v) and len(v) > 0 and all(_is_number(n) and math.isfinite(n) for n in v),
)
PALETTE = Kind(
    "a list of colours, [[red, green, blue], ...], each of whole numbers from 0 to 255",
    lambda v: _is_list(v) and all(map(_is_colour, v)),
)
SECTIONS_OR_NONE = Kind(
    "a section of sections", lambda v: _is_section(v) and all(item is None or _is_section(item) for item in v.values())
)
LIST_OF_SECTIONS = Kind("a list of sections, [dict(...), ...]", lambda v: _is_list(v) and all(map(_is_section, v)))
INTERVAL = Kind("a whole number, at least 1, or -1 for never", lambda v: _is_whole(v) and (v >= 1 or v == -1))
MILESTONES = Kind(
    "a list of whole numbers, each at least 1", lambda v: _is_list(v) and all(_is_whole(n) and n > 0 for n in v)
)
END = Kind("a whole number, at least 1", lambda v: _is_whole(v) and v >= 1)

# Dotted key -> kind. `*` means every entry of a section or a list. `?` before a key means the key of each entry of a
# list, or of the section itself if there is no list. A key that is missing or None has its default, unless it is in
# REQUIRED.
_LOADER = {
    "": SECTION,
    "batch_size": whole(1, unit=" of images"),
    "num_workers": whole(0),
    "sampler": TYPED,
    "batch_sampler": TYPED,
    "sampler.shuffle": YES_NO,
    "persistent_workers": YES_NO,
    "pin_memory": YES_NO,
    "drop_last": YES_NO,
    "prefetch_factor": whole(1),
    "num_batch_per_epoch": whole(1),
    "dataset": TYPED,
}
_DATASET = {
    "": TYPED,
    "dataset": TYPED,
    "datasets": ONE_OR_MORE,
    "times": whole(1),
    "oversample_thr": number(0),
    "pipeline": TYPED_LIST,
    "data_root": TEXT,
    "ann_file": TEXT,
    "img_suffix": TEXT,
    "seg_map_suffix": TEXT,
    "data_prefix": SECTION,
    "data_prefix.img_path": TEXT,
    "data_prefix.seg_map_path": TEXT,
    "metainfo": SECTION,
    "metainfo.classes": TEXTS,
    "metainfo.palette": PALETTE,
    "reduce_zero_label": YES_NO,
    "test_mode": YES_NO,
    "ignore_index": whole(0),
    "max_refetch": whole(1),
}
_TABLE: dict[str, Kind] = {
    **{f"{loader}.{key}".rstrip("."): kind for loader in DATALOADERS for key, kind in _LOADER.items()},
    "model": TYPED,
    "model.data_preprocessor": SECTION,
    "model.data_preprocessor.size": SIZE,
    "model.data_preprocessor.size_divisor": whole(1),
    "model.data_preprocessor.mean": NUMBERS,
    "model.data_preprocessor.std": NUMBERS,
    "model.data_preprocessor.batch_augments": TYPED_LIST,
    "model.backbone": TYPED,
    "model.neck": TYPED,
    "model.decode_head": ONE_OR_MORE,
    "model.decode_head.?num_classes": whole(1),
    "model.decode_head.?out_channels": whole(1),
    "model.decode_head.?channels": whole(1),
    "model.decode_head.?loss_decode": ONE_OR_MORE,
    "model.decode_head.?ignore_index": whole(0),
    "model.auxiliary_head": ONE_OR_MORE,
    "model.auxiliary_head.?num_classes": whole(1),
    "model.auxiliary_head.?channels": whole(1),
    "model.auxiliary_head.?loss_decode": ONE_OR_MORE,
    "model.train_cfg": SECTION,
    "model.test_cfg": SECTION,
    "model.test_cfg.mode": TEXT,
    "model.test_cfg.crop_size": PIXELS,
    "model.test_cfg.stride": PIXELS,
    "optim_wrapper": SECTION,
    "optim_wrapper.type": TEXT,
    "optim_wrapper.optimizer": TYPED,
    "optim_wrapper.optimizer.lr": FINITE,
    "optim_wrapper.optimizer.momentum": FINITE,
    "optim_wrapper.optimizer.weight_decay": FINITE,
    "optim_wrapper.optimizer.eps": FINITE,
    "optim_wrapper.optimizer.betas": Kind(
        "two numbers from 0 up to 1",
        lambda v: _is_list(v) and len(v) == 2 and all(_is_number(b) and 0 <= b < 1 for b in v),
    ),
    "optim_wrapper.clip_grad": SECTION,
    "optim_wrapper.clip_grad.max_norm": number(0),
    "optim_wrapper.accumulative_counts": whole(1),
    "optim_wrapper.paramwise_cfg": SECTION,
    "optim_wrapper.paramwise_cfg.custom_keys": SECTIONS_OR_NONE,
    "optim_wrapper.constructor": TEXT,
    "param_scheduler": SCHEDULES,
    "param_scheduler.?begin": whole(0),
    "param_scheduler.?end": END,
    "param_scheduler.?by_epoch": YES_NO,
    "param_scheduler.?T_max": whole(1),
    "param_scheduler.?step_size": whole(1),
    "param_scheduler.?milestones": MILESTONES,
    "param_scheduler.?power": FINITE,
    "param_scheduler.?eta_min": FINITE,
    "param_scheduler.?gamma": FINITE,
    "param_scheduler.?factor": FINITE,
    "param_scheduler.?start_factor": FINITE,
    "param_scheduler.?end_factor": FINITE,
    "train_cfg": SECTION,
    "train_cfg.type": TEXT,
    "train_cfg.by_epoch": YES_NO,
    "train_cfg.max_iters": whole(1),
    "train_cfg.max_epochs": whole(1),
    "train_cfg.val_interval": whole(1),
    "train_cfg.val_begin": whole(0),
    "train_cfg.dynamic_intervals": Kind(
        "a list of (start, interval), whole numbers",
        lambda v: (
            _is_list(v) and all(_is_list(p) and len(p) == 2 and all(_is_whole(n) and n >= 0 for n in p) for p in v)
        ),
    ),
    "val_cfg": SECTION,
    "test_cfg": SECTION,
    "val_evaluator": METRICS,
    "test_evaluator": METRICS,
    "val_evaluator.metrics": ONE_OR_MORE,
    "test_evaluator.metrics": ONE_OR_MORE,
    "default_hooks": SECTIONS_OR_NONE,
    "default_hooks.*.interval": INTERVAL,
    "custom_hooks": TYPED_LIST,
    "custom_hooks.*.interval": INTERVAL,
    "env_cfg": SECTION,
    "env_cfg.cudnn_benchmark": YES_NO,
    "env_cfg.mp_cfg": SECTION,
    "env_cfg.dist_cfg": SECTION,
    "randomness": SECTION,
    "randomness.seed": whole(0),
    "randomness.init_seed": whole(0),
    "randomness.deterministic": YES_NO,
    "visualizer": TYPED,
    "visualizer.vis_backends": TYPED_LIST,
    "log_processor": SECTION,
    "log_processor.window_size": whole(1),
    "log_level": Kind("the name of a level, such as 'INFO'", lambda v: isinstance(v, (str, int))),
    "default_scope": TEXT,
    "load_from": TEXT,
    "resume": YES_NO,
    "auto_scale_lr": SECTION,
    "auto_scale_lr.base_batch_size": whole(1),
    "custom_imports": SECTION,
    "custom_imports.imports": TEXT_OR_LIST,
    "efficient_conv_bn_eval": TEXT_OR_LIST,
    "crop_size": PIXELS,
    "distill": SECTION,
    "distill.teachers": LIST_OF_SECTIONS,
    "distill.features": SECTION,
    "distill.losses": SECTIONS_OR_NONE,
    "distill.unlabeled": SECTION,
    "distill.on_ignored": YES_NO,
    "distill.losses.*.schedule": SECTION,
}
REQUIRED = {  # keys without a default, which are required if their section exists
    **{f"{loader}.dataset": TYPED for loader in DATALOADERS},
    "train_dataloader.batch_size": _LOADER["batch_size"],
    "optim_wrapper.optimizer": TYPED,
}
# The top-level keys of the Runner and of rdistill.
TOP_LEVEL = (
    *DATALOADERS, "model", "train_cfg", "val_cfg", "test_cfg", "auto_scale_lr", "optim_wrapper", "param_scheduler",
    "val_evaluator", "test_evaluator", "default_hooks", "custom_hooks", "data_preprocessor", "load_from", "resume",
    "launcher", "env_cfg", "log_processor", "log_level", "visualizer", "default_scope", "randomness",
    "experiment_name", "work_dir", "custom_imports", "distill", "tracking", "activation_checkpointing",
    "efficient_conv_bn_eval", "find_unused_parameters", "sync_bn", "model_wrapper_cfg", "cfg", "compile",
)  # fmt: skip
# Variables in mmseg's configs, from which other keys are built: some are similar to a key, but they are no mistakes.
VARIABLES = (
    "train_pipeline", "val_pipeline", "test_pipeline", "tta_pipeline", "tta_model", "optimizer", "crop_size", "models",
    "dataset_type", "data_root", "vis_backends", "img_ratios", "norm_cfg", "checkpoint_file", "metainfo",
)  # fmt: skip
MIN_SIMILARITY = 0.8  # an unknown key that is so similar to a known one is taken for a mistyped key


def shape_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Finds values of a wrong kind in a config; one line each with the key, the expected kind and the value."""
    problems = []
    wrong: list[str] = []  # keys with a wrong value; keys below them are not checked
    for pattern, kind in _TABLE.items():
        for key, value in _at(cfg, pattern.split(".")):
            if any(key.startswith(f"{above}.") for above in wrong):
                continue
            if not kind.fits(value):
                wrong.append(key)
                problems.append(f"{key}: must be {kind.words}, got {_shown(value)}")
    non_text_keys = _key_kind_problems(cfg)
    problems += non_text_keys
    for key, kind in REQUIRED.items():
        section, _, name = key.rpartition(".")
        holder = cfg.get(section)
        if isinstance(holder, Mapping) and holder.get(name) is None:
            problems.append(f"{key}: is required; it must be {kind.words}")
    problems += [
        f"{key}.metrics: must be {ONE_OR_MORE.words}, got None"
        for key in ("val_evaluator", "test_evaluator")
        if isinstance(cfg.get(key), Mapping) and cfg[key].get("metrics", "") is None
    ]
    if not wrong and not non_text_keys:
        problems += _loader_problems(cfg) + _dataset_problems(cfg) + _length_problems(cfg)
    return problems


def key_problems(cfg: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The top-level keys that nothing reads: (messages for those that are probably mistyped, names of the others)."""
    mistyped, others = [], []
    for key in cfg:
        if key in TOP_LEVEL or key in VARIABLES or key.startswith("_"):
            continue
        similar = difflib.get_close_matches(key, TOP_LEVEL, n=1, cutoff=MIN_SIMILARITY)
        if similar and isinstance(cfg[key], (Mapping, list, tuple)):
            hint = did_you_mean(key, TOP_LEVEL)
            mistyped.append(f"unknown key {key}{hint} (a variable of your own needs another name)")
        else:
            others.append(key)
    return mistyped, others


def _key_kind_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Finds keys that are not text, in all sections whose keys are read by name or become arguments.

    These are the sections of the table, the sections with a `type`, and `metainfo` and `data_prefix` of a dataset.
    Other mappings are values and may have other keys, such as the `label_map` of a `metainfo`.
    """
    named = {key: kind for pattern, kind in _TABLE.items() for key, _ in _at(cfg, pattern.split("."))}
    return [
        f"{where}.{key}: a key must be text, got {short(key)}; put it in quotes"
        for top in TOP_LEVEL
        for where, section in _mappings(cfg.get(top), top)
        if where == top
        or where in named
        or named.get(where.rpartition(".")[0]) in (SECTIONS_OR_NONE, LIST_OF_SECTIONS)
        or "type" in section
        or where.rpartition(".")[2] in ("metainfo", "data_prefix")
        for key in section
        if not isinstance(key, str)
    ]


def _mappings(node: Any, where: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The dotted key and content of each mapping in a section, the section itself included."""
    if isinstance(node, Mapping):
        yield where, node
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if _is_list(node) else ()
    for name, item in entries:
        yield from _mappings(item, f"{where}.{name}")


def _at(node: Any, parts: Sequence[str], key: str = "") -> Iterator[tuple[str, Any]]:
    """The key and value of each entry in a config that matches a pattern of the table."""
    if not parts:
        if node is not None:
            yield key, node
        return
    part, rest = parts[0], parts[1:]
    if part == "*" or (part.startswith("?") and isinstance(node, (list, tuple))):
        inner = rest if part == "*" else [part[1:], *rest]
        entries = node.items() if isinstance(node, Mapping) else enumerate(node) if _is_list(node) else ()
        for name, item in entries:
            yield from _at(item, inner, f"{key}.{name}" if key else str(name))
        return
    name = part.removeprefix("?")
    if isinstance(node, Mapping) and name in node:
        yield from _at(node[name], rest, f"{key}.{name}" if key else name)


def _loader_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Finds settings that torch's DataLoader would refuse after the start of the run."""
    problems = []
    for name in DATALOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if not loader.get("num_workers"):
            problems += [
                f"{name}.{key}: needs num_workers of at least 1, got {loader.get('num_workers') or 0}; "
                f"remove the one or raise the other"
                for key in ("persistent_workers", "prefetch_factor")
                if loader.get(key)
            ]
        if name != "train_dataloader" and loader.get("sampler") is None and loader.get("batch_sampler") is None:
            problems.append(f"{name}.sampler: is required, such as dict(type='DefaultSampler', shuffle=False)")
    return problems


def _dataset_problems(cfg: Mapping[str, Any]) -> list[str]:
    problems = []
    for loader in DATALOADERS:
        if cfg.get(loader) is None or cfg[loader].get("dataset") is None:  # the check of REQUIRED reports this
            continue
        nodes = list(dataset_nodes(cfg[loader]["dataset"]))
        has_pipeline_key = any(isinstance(node, Mapping) and "pipeline" in node for _, node in nodes)
        if has_pipeline_key and not any(pipelines(cfg[loader]["dataset"])):
            problems.append(f"{loader}.dataset.pipeline: is required, to read images and masks and pack them")
        for where, node in dataset_nodes(cfg[loader]["dataset"], f"{loader}.dataset"):
            for pattern, kind in _DATASET.items():
                places = _at(node, pattern.split(".")) if pattern else [("", node)]
                problems += [
                    f"{where}{'.' if key else ''}{key}: must be {kind.words}, got {_shown(value)}"
                    for key, value in places
                    if not kind.fits(value)
                ]
            if not isinstance(node, Mapping):
                continue
            problems += _colour_problems(where, node)
            problems += [
                f"{key}: must be {TYPED.words}, got {_shown(step)}"
                for key, step in steps(node.get("pipeline"), f"{where}.pipeline")
                if not _is_typed(step)
            ]
            if is_wrapper(node) and node.get("dataset", node.get("datasets")) is None:
                problems.append(f"{where}: wraps no data set; it needs `dataset` or `datasets`")
    return list(dict.fromkeys(problems))


def _colour_problems(where: str, dataset: Mapping[str, Any]) -> list[str]:
    metainfo = dataset.get("metainfo")
    if not isinstance(metainfo, Mapping):
        return []
    classes, palette = metainfo.get("classes"), metainfo.get("palette")
    if not _is_list(classes) or not _is_list(palette) or len(classes) == len(palette):
        return []
    return [f"{where}.metainfo.palette: has {len(palette)} colours for {len(classes)} classes; give each class one"]


def _length_problems(cfg: Mapping[str, Any]) -> list[str]:
    problems = []
    length = cfg.get("train_cfg")
    if isinstance(length, Mapping):
        if length.get("max_iters") is None and length.get("max_epochs") is None:
            hint = next((did_you_mean(key, ("max_iters", "max_epochs")) for key in length if key.startswith("max")), "")
            problems.append(f"train_cfg: needs max_iters, or max_epochs{hint}")
        if "val_interval" in length and length["val_interval"] is None:
            problems.append("train_cfg.val_interval: must be a whole number, at least 1, got None; or leave it out")
        if length.get("type") is None and "by_epoch" not in length:
            problems.append("train_cfg.type: is required: 'IterBasedTrainLoop' or 'EpochBasedTrainLoop'")
        if "type" in length and "by_epoch" in length:
            problems.append("train_cfg: has both `type` and `by_epoch`, which mmengine refuses; remove `by_epoch`")
    schedulers = cfg.get("param_scheduler")
    for index, scheduler in enumerate(schedulers if _is_list(schedulers) else [schedulers]):
        if isinstance(scheduler, Mapping):
            begin, end = scheduler.get("begin") or 0, scheduler.get("end")
            if end is not None and end <= begin:
                where = f"param_scheduler.{index}" if _is_list(schedulers) else "param_scheduler"
                problems.append(f"{where}.end: must be greater than begin, {begin}, got {end}")
    return problems


def _shown(value: Any) -> str:
    text = one_line(repr(value))
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
