"""Checks a sweep before its first trial, and collects all problems in one list."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.model import revert_sync_batchnorm

from rdistill.checks.dry_run import Captured, capture_batch, check_batch, check_loss, tiny_batch, untouched
from rdistill.checks.layers import listed_shapes
from rdistill.checks.run import (
    Report,
    build_or_report,
    check_config,
    check_optimizer,
    check_resources,
    check_run,
    local_resources,
)
from rdistill.config.load import LoadedConfig, Shortcuts, find_beside, load_run
from rdistill.core.errors import UserError, error_line
from rdistill.core.words import counted
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distributed.cluster import connected
from rdistill.models.pretrained import pretrained_fit, pretrained_problems
from rdistill.models.segmentor import training_size
from rdistill.schemas.run import CheckpointMeta
from rdistill.sweeps.findings.confirm import FILES, PRECISIONS, PYTORCH
from rdistill.sweeps.search.searchers import require_buildable
from rdistill.sweeps.study.space import (
    check_space,
    extremes,
    feature_counts,
    fix_pairs,
    prerequisites,
    search_space,
)
from rdistill.sweeps.study.spec import SweepSpec, read_sweep

IMAGES = 2  # images in the batch that is tried
NO_STRUCTURE = ("weight", "schedule")  # keys of a loss whose values cannot make it fail
# Models are built anew after a change of these keys, and one step of training is tried.
REBUILDS = (
    "model.",
    "distill.teachers",
    "distill.features",
    "distill.labels",
    "distill.on_ignored",
    "distill.unlabeled",
)


def choose_pairs(base: LoadedConfig, spec: SweepSpec, distiller: Distiller) -> tuple[SweepSpec, list[str]]:
    """Calls :func:`rdistill.sweeps.study.space.fix_pairs` with the feature shapes of the base config's models."""
    distill, size = base.distillation, training_size(base.cfg)
    models = {index: teacher.model for index, teacher in enumerate(distiller.teachers)}
    student_shapes, teacher_shapes = listed_shapes(distill, distiller.student, models, size)
    return fix_pairs(spec, distill, student_shapes, teacher_shapes, size)


def check_sweep(
    base: LoadedConfig,
    spec: SweepSpec,
    distiller: Distiller,
    *,
    work_dir: str | Path | None = None,
    trust_checkpoint: bool = False,
    full_data: bool = False,
) -> Report:
    """Checks a sweep on a node where its trials will run: the base config, then every structure in the search space.

    Args:
        base: the sweep's loaded config.
        spec: the sweep, with its pairs chosen by :func:`choose_pairs`.
        distiller: the models of the base config; they are not changed.
        work_dir: the folder that all trials write to; None skips the check of free disk space.
        trust_checkpoint: the same as for a run.
        full_data: the same as for :func:`rdistill.checks.run.check_run`.
    """
    distill = base.distillation
    report = check_run(
        base,
        distiller=distiller,
        work_dir=work_dir,
        workers=spec.trial.workers,
        trials=spec.num_students(feature_counts(distill)),
        seed=spec.seed,
        trust_checkpoint=trust_checkpoint,
        full_data=full_data,
    )
    if report.problems:
        return report
    report.notes += _scheduler_notes(base, spec)
    if keys := spec.keys_of_baselines_alone:
        report.notes.append(
            f"baseline.search: {', '.join(keys)}: searched for the student alone, but not in space for the students "
            f"under a teacher: that is strict where a gain is shown, and unfair where none is"
        )
    if shares := _searched_shares(base, spec):
        report.add("weights", [], shares)
    problems, tried, pairs = _structures(base, spec, distiller, trust_checkpoint)
    if spec.baseline.search:
        alone = spec.model_copy(update={"space": spec.baseline.search})
        more, also, _ = _structures(base, alone, distiller, trust_checkpoint)
        problems, tried = [*problems, *(f"baseline.search: {problem}" for problem in more)], tried + also
    if spec.confirm is not None and spec.confirm.of != PYTORCH:
        report.add("export", *_exportable(base, spec.confirm.of, distiller))
    among = f", among them {counted(pairs, 'feature pair')}" if pairs else ""
    report.add("space", problems, f"{counted(tried, 'structure')} tried{among}: finite losses and gradients")
    return report


def _exportable(base: LoadedConfig, form: str, distiller: Distiller) -> tuple[list[str], str]:
    """Tries the export of the student that the confirmation will need.

    Returns:
        The problems, and a line for the report if there are none.
    """
    from rdistill.handover.export import require_exportable
    from rdistill.handover.inference import predictor_of, validation_images
    from rdistill.handover.onnx_file import require_packages
    from rdistill.handover.quantize import require_examples

    where = f"confirm.of: {form}"
    try:
        require_packages(what=where)
        if PRECISIONS[form] == "int8":
            require_examples(base.cfg, where)
        student = revert_sync_batchnorm(copy.deepcopy(distiller.student)).cpu().eval()
        require_exportable(predictor_of(base.cfg, student, CheckpointMeta()), validation_images(base.cfg))
    except UserError as error:
        return [problem if problem.startswith(where) else f"{where}: {problem}" for problem in error.problems], ""
    return [], f"the student becomes an ONNX file; the verdict will be about {FILES[form]}"


def _searched_shares(base: LoadedConfig, spec: SweepSpec) -> str:
    """A line about loss weights that are measured as shares in some trial but not in the base; empty without any."""
    searched: dict[tuple[int, int | None], dict[str, None]] = {}
    already = {(name, share.batches, share.every) for name, share in base.distillation.shares.items()}
    for key, dimension in spec.space.items():
        for value in extremes(dimension, base.distillation) if _sets_weight(key) else ():
            shares = base.with_overrides({key: value}).distillation.shares
            for name, share in shares.items():
                if (name, share.batches, share.every) not in already:
                    searched.setdefault((share.batches, share.every), {})[name] = None
    return "; ".join(
        f"{', '.join(names)}: measured in a trial's first {counted(batches, 'batch')}, where it is a share"
        + (f", and again every {every} iterations" if every else "")
        for (batches, every), names in searched.items()
    )


def _sets_weight(key: str) -> bool:
    """Whether a key sets a loss's weight: a key of all losses, of a whole loss, or of its weight."""
    parts = key.lstrip("+").split(".")
    return parts[:2] == ["distill", "losses"] and (len(parts) <= 3 or parts[3] == "weight")


def _scheduler_notes(base: LoadedConfig, spec: SweepSpec) -> list[str]:
    grace = spec.scheduler.params.get("grace_period")
    length = base.cfg.train_cfg.get("max_iters") or base.cfg.train_cfg.get("max_epochs")
    if grace is None or grace < length:
        return []
    return [f"scheduler.grace_period: is {grace}, and a trial ends at {length}: no trial is stopped early"]


def check_sweep_file(
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    *,
    work_dir: str | Path | None = None,
    address: str | None = None,
    trust_checkpoint: bool = False,
) -> Report:
    """Checks a sweep file on this machine; joins a cluster only if ``address`` or ``RAY_ADDRESS`` names one.

    Raises:
        UserError: the file itself is wrong, so that nothing else can be checked.
    """
    spec = read_sweep(path)
    config_file = find_beside(spec.config, path)
    if config_file is None:
        raise UserError(f"{path}: config: no such file {spec.config}")
    overrides = {**spec.set, **(overrides or {})}
    try:
        base = load_run(config_file, overrides, shortcuts)
    except UserError:
        report = check_config(config_file, overrides, shortcuts, trust_checkpoint=trust_checkpoint)
    else:
        report = _check_loaded(base, spec, path, work_dir, trust_checkpoint)
    trial = spec.trial
    have = resources_at(address, Path(work_dir or "."))
    report.add(
        "resources",
        *check_resources("one trial", trial.workers, trial.cpus_per_worker, trial.gpus_per_worker, have),
    )
    return report


def resources_at(address: str | None, scratch: Path) -> Mapping[str, float]:
    """The resources of the cluster that ``address`` or ``RAY_ADDRESS`` names, or else of this machine."""
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        return local_resources()
    import ray

    with connected(address, scratch):
        return dict(ray.cluster_resources())


def _check_loaded(
    base: LoadedConfig, spec: SweepSpec, path: Path, work_dir: str | Path | None, trust_checkpoint: bool
) -> Report:
    if base.distill is None:
        text = f"{path}: config: {spec.config} has no `distill` section, so there is nothing to sweep"
        return Report(problems=[text])
    report = Report(passed=[("sweep", str(path)), ("config", spec.config)])
    try:
        check_space(spec, base, str(path))
        require_buildable(spec, base, str(path))
    except UserError as error:
        report.problems += error.problems
    distiller = build_or_report(base, report, seed=spec.seed, trust_checkpoint=trust_checkpoint)
    if report.problems or distiller is None:
        rest = check_run(base, distiller=distiller, work_dir=work_dir, full_data=True) if distiller else Report()
        return _joined(report, rest)
    try:
        spec, report.left_out = choose_pairs(base, spec, distiller)
    except UserError as error:
        report.problems += [f"{path}: {problem}" for problem in error.problems]
        return report
    rest = check_sweep(base, spec, distiller, work_dir=work_dir, trust_checkpoint=trust_checkpoint, full_data=True)
    return _joined(report, rest)


def _joined(first: Report, second: Report) -> Report:
    problems = list(dict.fromkeys([*first.problems, *second.problems]))
    return Report(
        [*first.passed, *second.passed],
        [*first.notes, *second.notes],
        [*first.left_out, *second.left_out],
        [*first.layouts, *second.layouts],
        problems,
    )


def _structures(
    base: LoadedConfig, spec: SweepSpec, distiller: Distiller, trust_checkpoint: bool
) -> tuple[list[str], int, int]:
    """Tries each value of each choice and both ends of each range, one at a time.

    Returns:
        The problems, the number of values tried, and the number of feature pairs among them: those in dimensions of
        type ``pairs`` and those in choices of pairs or of whole losses.
    """
    problems: list[str] = []
    tried, pairs = 0, set[tuple[str, int, int]]()
    distill = base.distillation
    batch = tiny_batch(base, min(IMAGES, int(base.cfg.train_dataloader.batch_size)), spec.seed)
    space = search_space(spec.space, base)
    with untouched(distiller):
        captured = capture_batch(distiller, distill, batch)
        for key, dimension in spec.space.items():
            others = prerequisites(key, spec.space, space)
            for value in extremes(dimension, distill):
                changed = base.with_overrides({**others, key: value})
                reasons = _structure(changed, key, spec, distiller, captured, trust_checkpoint)
                if reasons is not None:
                    tried += 1
                    pairs |= _pairs_of(changed, key)
                    problems += [f"space.{key} = {value}: {problem}" for problem in reasons]
    return problems, tried, len(pairs)


def _pairs_of(changed: LoadedConfig, key: str) -> set[tuple[str, int, int]]:
    """(loss name, student index, teacher index) of each feature pair in the losses that a key sets."""
    parts, distill = key.lstrip("+").split("."), changed.distill
    if parts[:2] != ["distill", "losses"] or distill is None:
        return set()
    losses = {name: loss for name, loss in distill.losses.items() if parts[2:3] in ([], [name])}
    return {(name, student, teacher) for name, loss in losses.items() for student, teacher in loss.pairs}


def _structure(
    changed: LoadedConfig, key: str, spec: SweepSpec, distiller: Distiller, captured: Captured, trust_checkpoint: bool
) -> list[str] | None:
    """The problems of one value of one key; None where the key changes no structure."""
    key = key.lstrip("+")
    cfg, parts = changed.cfg, key.split(".")
    if key == "distill.losses":
        chosen = changed.distillation
        return [problem for name in chosen.losses for problem in check_loss(distiller, chosen, name, captured)]
    if key.startswith("distill.losses.") and len(parts) > 2:
        distill = changed.distill
        if (len(parts) > 3 and parts[3] in NO_STRUCTURE) or distill is None or parts[2] not in distill.losses:
            return None
        return check_loss(distiller, distill, parts[2], captured)
    if key.startswith("optim_wrapper."):
        return check_optimizer(distiller, cfg)
    if not key.startswith((*REBUILDS, "train_dataloader.")):
        return None
    try:
        if key.startswith(REBUILDS):
            problems, _ = pretrained_problems(cfg.model, trust=trust_checkpoint)
            if problems:
                return problems
            distiller = build_distiller(changed, seed=spec.seed, trust_checkpoint=trust_checkpoint)
            problems, _ = pretrained_fit(distiller.student, cfg.model, trust=trust_checkpoint)
            if problems:
                return problems
        batch = tiny_batch(changed, min(IMAGES, int(cfg.train_dataloader.batch_size)), spec.seed)
    except UserError as error:
        return list(error.problems)
    except Exception as error:  # layers that do not fit together raise PyTorch's own errors when they first run
        return [f"the models do not run: {error_line(error)}"]
    return check_batch(distiller, cfg, batch, workers=spec.trial.workers)
