"""Reads what an earlier start left in a work dir: a run to continue, a finished run, or a different run."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.load import read_config_file
from rdistill.core.differences import differences, plain, refusals
from rdistill.core.errors import UserError
from rdistill.core.files import DamagedFileError, read_json, set_aside_if_damaged
from rdistill.models import checkpoint
from rdistill.models.checkpoint import damaged
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.run import RunMetrics, Validation

LAST, PREVIOUS, BEST = "last.pth", "last.pth.previous", "best.pth"
# Keys that may differ in a resumed run, because what the student sees and learns does not depend on them.
MAY_DIFFER = (
    "*_dataloader.num_workers", "*_dataloader.persistent_workers", "*_dataloader.pin_memory",
    "*_dataloader.prefetch_factor", "val_dataloader.batch_size", "test_*", "train_cfg.val_interval",
    "default_hooks.logger*", "default_hooks.checkpoint*", "default_hooks.timer*", "default_hooks.visualization*",
    "visualizer*", "vis_backends*", "log_level", "log_processor*", "env_cfg*", "tracking*",
    "distill.diagnose*",
)  # fmt: skip
MAX_ITERS = "train_cfg.max_iters"  # may grow if nothing else changes (the learning rate's schedule is another key)
# Files that a resumed run can write again if they are damaged -> the message about it.
REWRITTEN_FILES = {
    "metrics.json": "the run is ended once more",
    "teacher.json": "what suits the teacher is decided again",
    "tracking.json": "the trackers begin new runs",
}


@dataclass(frozen=True)
class EarlierRun:
    """The checkpoints of an earlier start that can be used."""

    last: Path | None  # the checkpoint to resume from; None: start from the beginning
    best_is_sound: bool  # whether `best.pth` exists and can be read
    notes: tuple[str, ...] = ()  # messages about damaged files


def refuse_overwriting(work_dir: Path, resume: bool) -> None:
    """Raises UserError if the files of a run would be overwritten."""
    if not resume and any((work_dir / name).exists() for name in (LAST, PREVIOUS, "metrics.json")):
        raise UserError(f"{work_dir}: holds a run already; pass --resume to continue it, or another --work-dir")


def repair(work_dir: Path, notify: Callable[[str], None]) -> None:
    """Renames damaged files that a resumed run writes again; ``notify`` gets a line about each of them."""
    for name, consequence in REWRITTEN_FILES.items():
        set_aside_if_damaged(work_dir / name, consequence, notify)


def refuse_different_run(work_dir: Path, cfg: Config, seed: int) -> None:
    """Makes sure that a resumed run has the config of the run that was started in this work dir.

    Raises:
        UserError: what has changed, one line each; keys of :data:`MAY_DIFFER` are not compared.
    """
    file = work_dir / "config.py"
    if not file.is_file():
        return
    fix = "whether this is the same run cannot be seen; remove it to go on with the config as it is now"
    try:
        started = read_config_file(file)
    except UserError as error:
        raise DamagedFileError(f"{error}: is damaged; {fix}") from None
    if "model" not in started or "train_cfg" not in started:
        raise DamagedFileError(f"{file}: is damaged (cut off after {file.stat().st_size} bytes); {fix}")
    current = {**config_dict(cfg).to_dict(), "randomness": {**(cfg.get("randomness") or {}), "seed": seed}}
    changes = differences(*_without_auto_choices(plain(config_dict(started).to_dict()), plain(current)))
    changed = {key: line for key, line in changes.items() if not any(fnmatch.fnmatch(key, name) for name in MAY_DIFFER)}
    if set(changed) == {MAX_ITERS} and cfg.train_cfg.max_iters > started.train_cfg.max_iters:
        return
    if changed:
        fix = (
            f"use another --work-dir for this other run, or continue with "
            f"`rdistill train {file} --work-dir {work_dir} --resume`"
        )
        raise UserError(*refusals(f"{work_dir}: --resume", changed.values(), fix))


def _without_auto_choices(started: PlainConfig, current: PlainConfig) -> tuple[PlainConfig, PlainConfig]:
    """Both configs without the teacher settings that ``current`` leaves at "auto".

    ``started`` has the values that were chosen for them, which are no difference between the two.
    """
    sections = [cfg.get("distill") or {} for cfg in (started, current)]
    teachers = zip(*(section.get("teachers") or () for section in sections), strict=False)
    for pair in teachers:
        if pair[1].get("forward") in (None, "auto"):
            for entry in pair:
                entry.pop("forward", None)
    cache = sections[1].get("cache")
    if (cache.get("mode", "auto") if isinstance(cache, dict) else cache) in (None, "auto"):
        for section in sections:
            section.pop("cache", None)
    return started, current


def finished_metrics(work_dir: Path, cfg: Config) -> RunMetrics | None:
    """The metrics of a finished run; None if the run has not reached its last iteration."""
    file = work_dir / "metrics.json"
    if not file.is_file():
        return None
    metrics: RunMetrics = read_json(file)
    max_iters = cfg.train_cfg.get("max_iters")
    return metrics if max_iters is None or metrics["iter"] >= max_iters else None


def find_earlier_run(work_dir: Path) -> EarlierRun:
    """Looks for the newest checkpoint that is not damaged.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    damage = {name: damaged(work_dir / name) for name in (LAST, PREVIOUS, BEST) if (work_dir / name).is_file()}
    notes = [
        f"{work_dir / name} is damaged ({reason})" for name, reason in damage.items() if reason and name != PREVIOUS
    ]
    candidates = [name for name in (LAST, PREVIOUS) if name in damage]
    sound = next((name for name in candidates if not damage[name]), None)
    if candidates and sound is None:
        reasons = "; ".join(f"{name}: {damage[name]}" for name in candidates)
        raise UserError(f"{work_dir}: no checkpoint is whole ({reasons}); start again in another --work-dir")
    if sound == PREVIOUS:
        notes.append(f"going on from the checkpoint before it, {work_dir / PREVIOUS}")
    return EarlierRun(work_dir / sound if sound else None, not damage.get(BEST, "there is none"), tuple(notes))


def best_so_far(work_dir: Path) -> Validation:
    """The validation that ``best.pth`` holds."""
    best: Validation | None = checkpoint.load_file(work_dir / BEST).get("meta", {}).get("best")
    return best or Validation()
