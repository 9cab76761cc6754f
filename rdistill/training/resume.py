"""What a work dir holds of an earlier start: to be continued, finished already, or another run's."""

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
# What may be another in a resumed run: what a student sees and learns does not depend on it.
HARMLESS = (
    "*_dataloader.num_workers", "*_dataloader.persistent_workers", "*_dataloader.pin_memory",
    "*_dataloader.prefetch_factor", "val_dataloader.batch_size", "test_*", "train_cfg.val_interval",
    "default_hooks.logger*", "default_hooks.checkpoint*", "default_hooks.timer*", "default_hooks.visualization*",
    "visualizer*", "vis_backends*", "log_level", "log_processor*", "env_cfg*", "tracking*",
    "distill.diagnose*",
)  # fmt: skip
MAX_ITERS = "train_cfg.max_iters"  # may grow, if nothing else changes: the learning rate's schedule is another key
MADE_AGAIN = {
    "metrics.json": "the run is ended once more",
    "teacher.json": "what suits the teacher is decided again",
    "tracking.json": "the trackers begin new runs",
}


@dataclass(frozen=True)
class Earlier:
    """What an earlier start left that can be used."""

    last: Path | None  # the checkpoint to go on from; None: from the beginning
    best_is_sound: bool
    notes: tuple[str, ...] = ()  # what is damaged


def refuse_overwriting(work_dir: Path, resume: bool) -> None:
    """Raises UserError where a run's files would be written over."""
    if not resume and any((work_dir / name).exists() for name in (LAST, PREVIOUS, "metrics.json")):
        raise UserError(f"{work_dir}: holds a run already; pass --resume to continue it, or another --work-dir")


def repair(work_dir: Path, say: Callable[[str], None]) -> None:
    """Takes away what is damaged and is made again by a resumed run; ``say`` is given a line about each."""
    for name, again in MADE_AGAIN.items():
        set_aside_if_damaged(work_dir / name, again, say)


def refuse_another(work_dir: Path, cfg: Config, seed: int) -> None:
    """Makes sure that a resumed run is the one that was begun.

    Raises:
        UserError: naming what has changed, but for what is harmless.
    """
    file = work_dir / "config.py"
    if not file.is_file():
        return
    fix = "whether this is the same run cannot be seen; remove it to go on with the config as it is now"
    try:
        begun = read_config_file(file)
    except UserError as error:
        raise DamagedFileError(f"{error}: is damaged; {fix}") from None
    if "model" not in begun or "train_cfg" not in begun:
        raise DamagedFileError(f"{file}: is damaged (cut off after {file.stat().st_size} bytes); {fix}")
    wanted = {**config_dict(cfg).to_dict(), "randomness": {**(cfg.get("randomness") or {}), "seed": seed}}
    changes = differences(*_without_what_is_open(plain(config_dict(begun).to_dict()), plain(wanted)))
    changed = {key: line for key, line in changes.items() if not any(fnmatch.fnmatch(key, name) for name in HARMLESS)}
    if set(changed) == {MAX_ITERS} and cfg.train_cfg.max_iters > begun.train_cfg.max_iters:
        return
    if changed:
        fix = (
            f"use another --work-dir for this other run, or continue with "
            f"`rdistill train {file} --work-dir {work_dir} --resume`"
        )
        raise UserError(*refusals(f"{work_dir}: --resume", changed.values(), fix))


def _without_what_is_open(begun: PlainConfig, wanted: PlainConfig) -> tuple[PlainConfig, PlainConfig]:
    """Two plain configs without what the second leaves to be decided of teachers: the first has what was decided."""
    sections = [cfg.get("distill") or {} for cfg in (begun, wanted)]
    teachers = zip(*(section.get("teachers") or () for section in sections), strict=False)
    for pair in teachers:
        if pair[1].get("forward") in (None, "auto"):
            for entry in pair:
                entry.pop("forward", None)
    cache = sections[1].get("cache")
    if (cache.get("mode", "auto") if isinstance(cache, dict) else cache) in (None, "auto"):
        for section in sections:
            section.pop("cache", None)
    return begun, wanted


def finished(work_dir: Path, cfg: Config) -> RunMetrics | None:
    """The metrics of a run that has come to its end; None: there is something left to do."""
    file = work_dir / "metrics.json"
    if not file.is_file():
        return None
    metrics: RunMetrics = read_json(file)
    wanted = cfg.train_cfg.get("max_iters")
    return metrics if wanted is None or metrics["iter"] >= wanted else None


def find_earlier(work_dir: Path) -> Earlier:
    """Looks for the newest checkpoint that is whole.

    Raises:
        UserError: there are checkpoints, and none is.
    """
    damage = {name: damaged(work_dir / name) for name in (LAST, PREVIOUS, BEST) if (work_dir / name).is_file()}
    notes = [f"{work_dir / name} is damaged ({what})" for name, what in damage.items() if what and name != PREVIOUS]
    candidates = [name for name in (LAST, PREVIOUS) if name in damage]
    sound = next((name for name in candidates if not damage[name]), None)
    if candidates and sound is None:
        what = "; ".join(f"{name}: {damage[name]}" for name in candidates)
        raise UserError(f"{work_dir}: no checkpoint is whole ({what}); start again in another --work-dir")
    if sound == PREVIOUS:
        notes.append(f"going on from the checkpoint before it, {work_dir / PREVIOUS}")
    return Earlier(work_dir / sound if sound else None, not damage.get(BEST, "there is none"), tuple(notes))


def best_so_far(work_dir: Path) -> Validation:
    """The validation that ``best.pth`` holds."""
    best: Validation | None = checkpoint.load_file(work_dir / BEST).get("meta", {}).get("best")
    return best or Validation()
