"""Common settings as single options, which are put into all nested keys of an mmseg config that need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from rdistill.config.label_map import parse_label_map, set_label_map
from rdistill.config.schedules import stretch_schedules
from rdistill.config.walk import dataloaders, dataset_steps, kind_of, leaves, steps
from rdistill.core.errors import UserError

# Transform -> the key of its size. mmcv's order is (width, height), mmseg's is (height, width).
WIDTH_FIRST = {"Resize": "scale", "RandomResize": "scale", "Pad": "size"}
HEIGHT_FIRST = {"RandomCrop": "crop_size", "CenterCrop": "crop_size", "RandomMosaic": "img_scale"}
SCALED = ("RandomChoiceResize", "ResizeShortestEdge")  # their several sizes, or edge, are multiplied by one factor


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Common settings, each of which sets several nested keys of a config. None keeps the config's values."""

    size: str | None = None  # pixels: '128', or 'HEIGHTxWIDTH'
    data_root: str | None = None
    num_data_workers: int | None = None  # loader processes for each training worker
    label_map: str | Mapping[int, int] | None = None  # value in a mask's file -> label: '255=1', or {255: 1}
    batch_size: int | None = None  # images a step, over all workers together
    teacher_checkpoint: str | None = None
    iters: int | None = None
    val_interval: int | None = None  # iterations


def parse_size(text: str, flag: str) -> tuple[int, int]:
    """``'128'`` or ``'HEIGHTxWIDTH'`` -> height and width in pixels. Raises UserError for other texts."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(re.fullmatch(r"[0-9]{1,6}", n) and int(n) > 0 for n in numbers):
        raise UserError(f"{flag}: must be pixels such as 128, or HEIGHTxWIDTH such as 180x240, got {text[:80]!r}")
    return int(numbers[0]), int(numbers[-1])


def apply_shortcuts(cfg: Config, shortcuts: Shortcuts) -> list[str]:
    """Applies shortcuts in place to a config whose values have the right kinds; returns the problems."""
    problems = []
    if shortcuts.data_root is not None:
        problems += _set_data_root(cfg, shortcuts.data_root)
    if shortcuts.size is not None:
        problems += _set_size(cfg, shortcuts.size)
    if shortcuts.iters is not None:
        problems += stretch_schedules(cfg, shortcuts.iters)
    for flag, minimum in (("batch_size", 1), ("val_interval", 1), ("num_data_workers", 0)):
        value = getattr(shortcuts, flag)
        if value is not None and value < minimum:
            problems.append(f"--{flag.replace('_', '-')}: must be at least {minimum}, got {value}")
    if shortcuts.label_map is not None:
        problems += _set_label_map(cfg, shortcuts.label_map)
    if problems:
        return problems
    if shortcuts.batch_size is not None:
        cfg.train_dataloader.batch_size = shortcuts.batch_size
    if shortcuts.val_interval is not None:
        cfg.train_cfg.val_interval = shortcuts.val_interval
    if shortcuts.num_data_workers is not None:
        for _, loader in dataloaders(cfg):
            loader.num_workers = shortcuts.num_data_workers
            if not shortcuts.num_data_workers:
                for key in ("persistent_workers", "prefetch_factor"):
                    loader.pop(key, None)  # torch does not accept these keys without workers
    if shortcuts.teacher_checkpoint is not None:
        teachers = (cfg.get("distill") or {}).get("teachers") or []
        if len(teachers) != 1:
            problems.append(f"--teacher-checkpoint: the config has {len(teachers)} teachers; it sets the only one")
        else:
            teachers[0].checkpoint = shortcuts.teacher_checkpoint
    return problems


def _set_data_root(cfg: Config, root: str) -> list[str]:
    """Sets the data root of all datasets of a config, if they all have the same one now."""
    parts = [leaf for name, loader in dataloaders(cfg) for leaf in leaves(loader.dataset, f"{name}.dataset")]
    roots: dict[str, str] = {}  # folder -> the key of the first dataset with it
    for where, leaf in parts:
        if leaf.get("data_root") is not None:
            roots.setdefault(str(leaf.data_root).rstrip("/"), where)
    if len(roots) > 1:
        places = ", ".join(f"{folder} ({where})" for folder, where in roots.items())
        key = list(roots.values())[1]
        return [f"--data-root: the data are in {len(roots)} folders: {places}; set each by --set {key}.data_root=DIR"]
    for _, leaf in parts:
        leaf.data_root = root
    return []


def _set_label_map(cfg: Config, label_map: str | Mapping[int, int]) -> list[str]:
    try:
        labels = parse_label_map(label_map, "--label-map")
    except UserError as error:
        return list(error.problems)
    return [
        f"--label-map: the pipelines of {name}.dataset have no LoadAnnotations, before which it would stand"
        for name, loader in dataloaders(cfg)
        if not set_label_map(loader.dataset, labels)
    ]


def _set_size(cfg: Config, text: str) -> list[str]:
    """Sets the training and test size in all keys that contain it."""
    try:
        height, width = parse_size(text, "--size")
    except UserError as error:
        return list(error.problems)
    before = _size_before(cfg)
    factor = min(height, width) / min(before) if before else None
    problems: list[str] = []
    touched: set[int] = set()  # ids of sections that are done: one section may be in several places
    for name, loader in dataloaders(cfg):
        has_size = False
        for where, step in dataset_steps(loader.dataset, f"{name}.dataset"):
            has_size = _resize(step, (height, width), factor, where, problems, touched) or has_size
        if name == "train_dataloader" and not has_size and not problems:
            problems.append(
                "--size: no transform of train_dataloader.dataset has a size; put a Resize or a RandomCrop there"
            )
    # Test-time augmentation usually resizes by factors, which stay; only sizes in pixels are set.
    for where, step in steps(cfg.get("tta_pipeline"), "tta_pipeline"):
        if step.get("scale") is not None or kind_of(step) != "Resize":
            _resize(step, (height, width), factor, where, problems, touched)
    _resize_model(cfg, height, width)
    return problems


def _size_before(cfg: Config) -> tuple[int, int] | None:
    """The height and width of the training images before the change; None if they are not known."""
    for _, step in dataset_steps(cfg.train_dataloader.dataset):
        if kind_of(step) == "RandomCrop" and step.get("crop_size") is not None:
            return _pair(step["crop_size"])
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
    if size:
        return _pair(size)
    for _, step in dataset_steps(cfg.train_dataloader.dataset):
        if kind_of(step) == "Resize" and step.get("scale") is not None:
            return _pair(step["scale"])
    return None


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _resize(
    step: Any, size: tuple[int, int], factor: float | None, where: str, problems: list[str], touched: set[int]
) -> bool:
    """Sets the size of one transform; returns whether it has a size."""
    kind = kind_of(step)
    if kind not in (*WIDTH_FIRST, *HEIGHT_FIRST, *SCALED):
        return False
    if id(step) in touched:
        return True
    touched.add(id(step))
    height, width = size
    if kind in HEIGHT_FIRST:
        step[HEIGHT_FIRST[kind]] = (height, width)
    elif kind in SCALED:
        if factor is None:
            problems.append(
                f"--size: {where} ({kind}) has sizes to choose from, and the config no crop size to compare"
            )
        else:
            _scale(step, factor)
    elif kind == "RandomResize" and _is_range(step.get("scale")):
        # A size between two sizes is drawn: scale both so that the larger one is the new size.
        largest = [max(int(pair[axis]) for pair in step["scale"]) for axis in (0, 1)]
        step["scale"] = [
            (max(1, round(w * width / largest[0])), max(1, round(h * height / largest[1]))) for w, h in step["scale"]
        ]
    elif kind == "Pad" and step.get("size") is None:
        return False  # it pads to a multiple or to a square, and has no size
    else:
        step[WIDTH_FIRST[kind]] = (width, height)
        step.pop("scale_factor", None)
    return True


def _is_range(scale: Any) -> bool:
    return isinstance(scale, (list, tuple)) and len(scale) > 0 and all(isinstance(s, (list, tuple)) for s in scale)


def _scale(step: Any, factor: float) -> None:
    """Multiplies all sizes of a transform by one factor."""

    def times(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(times(item) for item in value)
        return max(1, round(value * factor)) if isinstance(value, (int, float)) else value

    for section in _with_sizes(step):
        for key in ("scale", "scales", "max_size"):
            if section.get(key) is not None:
                section[key] = times(section[key])


def _with_sizes(step: Any) -> Iterator[Any]:
    yield step
    if isinstance(step.get("resize_cfg"), Mapping):
        yield step["resize_cfg"]


def _resize_model(cfg: Config, height: int, width: int) -> None:
    preprocessor = cfg.model.get("data_preprocessor") or {}
    for section in (preprocessor, preprocessor.get("test_cfg") or {}, *(preprocessor.get("batch_augments") or ())):
        if section.get("size") is not None:
            section["size"] = (height, width)
    if cfg.get("crop_size") is not None and preprocessor.get("size") is None:
        cfg.crop_size = (height, width)  # the size is read from here if the preprocessor has none
    test = cfg.model.get("test_cfg") or {}
    if test.get("mode") == "slide" and test.get("crop_size") is not None:
        old = _pair(test["crop_size"])
        if test.get("stride") is not None:
            down, right = _pair(test["stride"])
            test["stride"] = (max(1, round(down * height / old[0])), max(1, round(right * width / old[1])))
        test["crop_size"] = (height, width)
