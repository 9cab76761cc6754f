"""The Python API: what the commands do, for scripts and notebooks. ``import rdistill`` is all it takes.

Nothing here exits, reads from a terminal or writes outside the work dir; a user's mistake raises
:class:`rdistill.UserError`. Heavy packages are imported inside the functions, so that ``import rdistill`` is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from rdistill.core.errors import UserError
from rdistill.core.storage import is_uri, open_work_dir
from rdistill.core.work_dir import require_work_dir
from rdistill.process_state import leaves_process_as_it_was

if TYPE_CHECKING:
    import pandas
    from mmengine.config import Config
    from rich.console import Console
    from typing_extensions import Unpack

    from rdistill.config.load import Shortcuts
    from rdistill.core.stopping import StopRequest
    from rdistill.schemas.headroom import Headroom
    from rdistill.schemas.run import RunMetrics, Scores
    from rdistill.schemas.summary import Summary, SweepOutcome
    from rdistill.sweeps.study.records import TrialRecord

Function = TypeVar("Function", bound=Callable[..., Any])
AMP = {"optim_wrapper.type": "AmpOptimWrapper", "+optim_wrapper.dtype": "bfloat16"}


class DataArguments(TypedDict, total=False):
    """Further arguments of :func:`evaluate`, equal to those of :class:`rdistill.flags.DataFlags`."""

    size: int | str | None
    data_root: str | Path | None
    num_data_workers: int | None
    label_map: str | Mapping[int, int] | None


class BatchArguments(DataArguments, total=False):
    """Further arguments of :func:`headroom`, equal to those of :class:`rdistill.flags.BatchFlags`."""

    batch_size: int | None
    teacher_checkpoint: str | Path | None


class ShortcutArguments(BatchArguments, total=False):
    """Further arguments of :func:`load_config`, :func:`train` and :func:`sweep`."""

    iters: int | None
    val_interval: int | None


def _takes(arguments: type) -> Callable[[Function], Function]:
    """Puts each argument of a group into a function's signature, for ``help``, and refuses arguments outside it."""

    def decorated(function: Function) -> Function:
        own = signature(function)
        kept = [parameter for parameter in own.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
        shown = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
            for name, kind in arguments.__annotations__.items()
        ]
        full_signature = own.replace(parameters=[*kept, *shown])

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            full_signature.bind(*args, **kwargs)  # raises TypeError
            return function(*args, **kwargs)

        call.__signature__ = full_signature  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorated


@_takes(ShortcutArguments)
@leaves_process_as_it_was
def load_config(
    config: str | Path | Config,
    overrides: Mapping[str, Any] | None = None,
    **shortcuts: Unpack[ShortcutArguments],
) -> Config:
    """Reads a config, applies overrides, checks it and makes it self-contained.

    Args:
        config: a config file or an mmengine ``Config``, which is not changed: a plain mmseg config of a teacher or
            a student, or a config with a ``distill`` section.
        overrides: dotted key -> value, such as ``{"optim_wrapper.optimizer.lr": 0.02}``; ``+key`` adds a key.
        size: image size in pixels: ``128``, or ``"HEIGHTxWIDTH"``.
        data_root: folder with ``img_dir/`` and ``ann_dir/``, or with PaddleSeg's ``train_list.txt``.
        num_data_workers: data loading processes for each training worker; 0 loads in the worker itself.
        label_map: value in the mask files -> label, such as ``{255: 1}`` or ``"255=1"``.
        batch_size: images in a training step, in all workers together.
        teacher_checkpoint: file of the teacher's weights, written by rdistill or by plain mmseg.
        iters: training iterations; the learning rate schedule is stretched to this length.
        val_interval: iterations between validations.

    Raises:
        UserError: every mistake found, one line each.
    """
    from rdistill.config.load import load_run

    return load_run(config, overrides, _shortcuts(shortcuts)).cfg


@_takes(ShortcutArguments)
@leaves_process_as_it_was
def train(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    resume: bool = False,
    workers: int = 1,
    cpus_per_worker: float = 1,
    gpus_per_worker: float | None = None,
    min_workers: int | None = None,
    max_failures: int = 3,
    address: str | None = None,
    amp: bool = False,
    stop: StopRequest | None = None,
    track: str | list[str] | Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    **shortcuts: Unpack[ShortcutArguments],
) -> RunMetrics:
    """Trains one model: a teacher, a student alone, or, with a ``distill`` section, a student under its teacher.

    Args:
        config: a config file or an mmengine ``Config``; see :func:`load_config`.
        work_dir: folder or URI to write to: ``metrics.json``, ``student.pth`` with ``student.py`` (the weights of the
            best iteration, which plain mmseg can load), ``best.pth``, ``last.pth``, ``config.py``. By default a folder
            below ``work_dirs/`` with the config's name.
        overrides: config key -> value.
        seed: seed of weights, data order, augmentation and dropout; by default the config's seed, or else 0.
        resume: continue the run in ``work_dir`` from its last checkpoint.
        workers: number of training processes; two or more use Ray Train.
        cpus_per_worker: CPU cores for each worker.
        gpus_per_worker: GPUs for each worker; by default 1 if there are GPUs.
        min_workers: when workers are lost, continue with at least this many, and with more when the cluster has room
            again; the batch size stays the same. By default the run waits until it has all ``workers``.
        max_failures: how often to restart the workers after one is lost.
        address: address of a Ray cluster; by default the one the process runs in, or else, for several workers, a new
            one on this machine.
        amp: run forward passes in bfloat16.
        stop: a request that a signal handler may set; see :mod:`rdistill.core.stopping`.
        track: trackers that metrics are logged to as well: ``"wandb"``, ``"tensorboard"``, ``"mlflow"``, a list of
            them, or a mapping with their options; see docs/tracking.md.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        quiet: print nothing.
        console: console that shows the progress; by default standard output or the notebook.
        size, data_root, num_data_workers, label_map, batch_size, teacher_checkpoint, iters, val_interval:
            as for :func:`load_config`.

    Returns:
        The content of ``metrics.json``. In percent: ``mIoU``, ``aAcc``, ``mAcc``, ``IoU`` (by class; None for a class
        that does not occur) and ``teacher_mIoU``; also ``best_iter``, ``iter``, ``seed`` and ``seconds``.

    Raises:
        UserError: a mistake in the config, the data or the resources, found before the first iteration.
        rdistill.core.errors.RunError: a loss became NaN or infinite, the disk is full, workers were lost too often.
    """
    from rdistill.config.load import load_run
    from rdistill.config.tracking import parse_tracking, require_trackers, viewing_hints
    from rdistill.core.files import lock_folder
    from rdistill.distributed.cluster import joins_a_cluster
    from rdistill.distributed.shares import resource_problems
    from rdistill.training.console import RunConsole, scores
    from rdistill.training.run import RunOptions, train_run

    if problems := resource_problems(workers, cpus_per_worker, gpus_per_worker, min_workers, max_failures):
        raise UserError(*problems)

    console = _console(console, quiet)
    loaded = load_run(config, {**(overrides or {}), **(AMP if amp else {})}, _shortcuts(shortcuts))
    if track is not None:
        loaded = loaded.with_section("tracking", parse_tracking(track, "track").model_dump(exclude_none=True))
    tracking = parse_tracking(loaded.cfg.get("tracking"))
    require_trackers(tracking)
    if seed is None:  # the config.py of a finished run names that run's seed
        seed = (loaded.cfg.get("randomness") or {}).get("seed") or 0
    name = _name(config, work_dir)
    work_dir = _folder_or_uri(work_dir or Path("work_dirs") / Path(name).stem)
    require_work_dir(work_dir)
    _print(console, f"{name} -> {work_dir}")
    lock = nullcontext() if is_uri(work_dir) else lock_folder(Path(work_dir), "run or sweep")
    with lock, RunConsole(console) as listener:
        options = RunOptions(seed=seed, resume=resume, trust_checkpoint=trust_checkpoint, stop=stop)
        if workers == 1 and not joins_a_cluster(address):
            metrics = train_run(loaded, work_dir, options, listener)
        else:
            from rdistill.training.ray_train import Resources, train_in_group

            resources = Resources(workers, cpus_per_worker, gpus_per_worker, min_workers, max_failures)
            metrics = train_in_group(loaded, work_dir, resources, options=options, address=address, listener=listener)
    for line in _teacher_lines(metrics):
        _print(console, line)
    _print(console, f"done      {scores(metrics)} at iteration {metrics['best_iter']}, {metrics['seconds']:.0f} s")
    _print(console, f"student   {work_dir}/student.pth with {work_dir}/student.py; figures in {work_dir}/metrics.json")
    for line in viewing_hints(tracking, Path(work_dir)):
        _print(console, line)
    return metrics


def _teacher_lines(metrics: RunMetrics) -> Iterator[str]:
    """Yields lines that say how many outputs, one for each image and teacher, did not have to be computed."""
    if cache := metrics.get("teacher_cache"):
        gave_up = "; given up" if cache.get("gave_up") else ""
        yield f"cache     {cache['hit_rate']:.0%} of {cache['images']} teacher outputs were known{gave_up}"
    if store := metrics.get("teacher_store"):
        stored = store["images"] - store["computed"]
        yield f"store     {stored} of {store['images']} teacher outputs were stored already"


@_takes(DataArguments)
@leaves_process_as_it_was
def evaluate(
    config: str | Path | Config,
    checkpoint: str | Path,
    *,
    split: str = "val",
    overrides: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    noted: Callable[[str], None] | None = None,
    **shortcuts: Unpack[DataArguments],
) -> Scores:
    """Checks the config's data, then scores a checkpoint of its model.

    Args:
        config: a config file or an mmengine ``Config``; if it has a ``distill`` section, the student is scored.
        checkpoint: ``student.pth``, ``best.pth``, or any mmseg checkpoint of that model.
        split: ``"val"`` or ``"test"``.
        overrides, size, data_root, num_data_workers, label_map: as for :func:`load_config`.
        trust_checkpoint: let the checkpoint run the Python code that it carries.
        noted: called with each note about the data, such as a class that no mask contains.

    Returns:
        In percent: ``mIoU``, ``aAcc``, ``mAcc``, and ``IoU`` by class (None for a class that does not occur).

    Raises:
        UserError: a mistake in the config or its data, or a checkpoint that does not fit it.
    """
    from rdistill.config.load import load_run

    if split not in ("val", "test"):
        raise UserError(f"split: must be val or test, got {split!r}")
    cfg = load_run(config, overrides, _shortcuts(shortcuts), with_teachers=False).cfg
    from rdistill.training.run import check_evaluation, evaluate_checkpoint

    for note in check_evaluation(cfg, split):
        if noted is not None:
            noted(note)
    return evaluate_checkpoint(cfg, checkpoint, split=split, trust_checkpoint=trust_checkpoint)


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended."""

    work_dir: str | Path  # a folder, or a URI
    trials: tuple[TrialRecord, ...]  # best validation first

    @property
    def summary(self) -> Summary:
        """The content of ``summary.json``: the verdict, the search and the confirmation; see docs/proof-details.md."""
        from rdistill.sweeps.findings.summary import SUMMARY, read_summary

        with open_work_dir(self.work_dir, SUMMARY) as opened:
            return read_summary(opened.folder)

    @property
    def best(self) -> TrialRecord:
        """The trial that is handed over as ``best.pth``.

        It is the trial with the highest mIoU; after a confirmation, it is the best run of the configuration with the
        highest mean.
        """
        from rdistill.sweeps.findings.conclude import winner

        return winner(self.trials, self.summary.get("confirmed"))

    @property
    def baseline(self) -> TrialRecord | None:
        """The student that was trained alone; the best of them if there are several."""
        return next((trial for trial in self.trials if trial.is_baseline), None)

    @property
    def gain(self) -> float | None:
        """mIoU of the best trial minus mIoU of the baseline; None if the baseline is the best or has no score."""
        from rdistill.sweeps.study.records import gain

        return gain(self.best, self.trials)

    def frame(self) -> pandas.DataFrame:
        """The table of all trials; see :func:`load_results`."""
        return load_results(self.work_dir)

    def as_dict(self) -> SweepOutcome:
        """Returns the plain data that `rdistill sweep --json` prints."""
        from rdistill.sweeps.study.records import STATUSES

        best, baseline, summary = self.best, self.baseline, self.summary
        return {
            "work_dir": str(self.work_dir),
            "verdict": summary.get("verdict"),
            "confirmed": summary.get("confirmed"),
            "best": {
                "id": best.id,
                "mIoU": best.best.get("mIoU"),
                "gain": self.gain,
                "IoU": best.best.get("IoU"),
                "values": {key: best.effective.get(key, value) for key, value in best.values.items()},
                "config": f"{self.work_dir}/best.py",
                "checkpoint": f"{self.work_dir}/best.pth",
            },
            "baseline": None if baseline is None else {"id": baseline.id, "mIoU": baseline.best.get("mIoU")},
            "teacher_mIoU": best.teacher_mIoU,
            "trials": {status: sum(trial.status == status for trial in self.trials) for status in STATUSES},
            "results": f"{self.work_dir}/results.csv",
        }


@_takes(ShortcutArguments)
@leaves_process_as_it_was
def sweep(
    sweep: str | Path | Mapping[str, Any],
    work_dir: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    address: str | None = None,
    track: str | list[str] | Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    **shortcuts: Unpack[ShortcutArguments],
) -> SweepResult:
    """Trains many students, always with a baseline that has no teacher, and ranks them.

    Args:
        sweep: a sweep file, or a dict with its content. Relative file names in a dict start from the working directory.
        work_dir: folder or URI to write to: ``results.csv``, ``best.py`` with ``best.pth`` (the winner, which plain
            mmseg can load), and a folder for each trial. By default a folder below ``work_dirs/sweeps/`` with the
            file's name.
        overrides: config key -> value for all trials; they take precedence over the sweep's ``set``.
        resume: continue the sweep in ``work_dir``.
        address: address of a Ray cluster; by default the one the process runs in, or else a new one on this machine.
        track: like in :func:`train`, with a run of the tracker for each trial; it replaces the sweep's ``tracking``.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        quiet: print nothing.
        console: console that shows the progress; by default standard output or the notebook.
        size, data_root, num_data_workers, label_map, batch_size, teacher_checkpoint, iters, val_interval:
            as for :func:`load_config`.

    Raises:
        UserError: a mistake in the sweep, the config or the resources, found before the first trial.
        rdistill.sweeps.run.SweepFailedError: no trial has a score.
        KeyboardInterrupt: the sweep was interrupted; ``resume`` continues it.
    """
    from rdistill.sweeps.run import SweepOptions, run_sweep

    if work_dir is None:
        if isinstance(sweep, Mapping):
            raise UserError("work_dir: is required for a sweep that is not a file")
        work_dir = Path("work_dirs") / "sweeps" / Path(sweep).stem
    require_work_dir(work_dir)
    trials = run_sweep(
        sweep,
        work_dir,
        SweepOptions(address=address, resume=resume, track=track, trust_checkpoint=trust_checkpoint),
        overrides=overrides,
        shortcuts=_shortcuts(shortcuts),
        console=_console(console, quiet),
    )
    return SweepResult(_folder_or_uri(work_dir), tuple(trials))


@_takes(BatchArguments)
@leaves_process_as_it_was
def headroom(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    *,
    iters: int | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    workers: int = 1,
    cpus_per_worker: float = 1,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    stop: StopRequest | None = None,
    trust_checkpoint: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    **shortcuts: Unpack[BatchArguments],
) -> Headroom:
    """Estimates how much a student can gain from its teacher, by a few short trainings in one cohort.

    Args:
        config: a config file or an mmengine ``Config`` with a ``distill`` section; see :func:`load_config`.
        work_dir: folder or URI to write to: ``headroom.json``, and a folder for each training. By default a folder
            below ``work_dirs/headroom/`` with the config's name.
        iters: iterations of the short trainings, by default a quarter of the config's; long ones take twice as many.
        seeds: seeds of the trainings, at least two; by default 0 and 1.
        resume: continue the trainings in ``work_dir``.
        workers, cpus_per_worker, gpus_per_worker, address: as for :func:`train`; each batch is divided among the
            workers.
        overrides, stop, trust_checkpoint, quiet, console: as for :func:`train`.
        size, data_root, num_data_workers, label_map, batch_size, teacher_checkpoint: as for :func:`load_config`.

    Returns:
        The content of ``headroom.json``: ``recommendation``, ``binds``, ``gap`` to the teacher at both lengths,
        ``effects``, ``spread``, ``seeds_needed``, ``plan`` (seconds and hours), ``arms``; see docs/headroom.md.

    Raises:
        UserError: a mistake in the config, the data or the options, found before the first iteration.
    """
    from rdistill.sweeps.headroom.run import run_headroom
    from rdistill.sweeps.headroom.show import show_headroom
    from rdistill.training.ray_train import Resources

    resources = Resources(workers, cpus_per_worker, gpus_per_worker)
    console = _console(console, quiet)
    cfg = load_config(config, overrides, **shortcuts)
    name = _name(config, work_dir)
    work_dir = _folder_or_uri(work_dir or Path("work_dirs") / "headroom" / Path(name).stem)
    require_work_dir(work_dir)
    _print(console, f"{name} -> {work_dir}")
    result = run_headroom(
        cfg,
        work_dir,
        iterations=iters,
        seeds=seeds,
        resources=resources,
        address=address,
        resume=resume,
        trust_checkpoint=trust_checkpoint,
        stop=stop,
        notify=lambda line: _print(console, line),
    )
    show_headroom(console, result)
    return result


def load_results(work_dir: str | Path) -> pandas.DataFrame:
    """Returns the trials of a sweep as a table, best validation first. The sweep may still run.

    Args:
        work_dir: work dir of the sweep.

    Returns:
        One row for each trial, with the columns of ``results.csv`` (see docs/api.md). Scores are floats in percent, or
        NaN if there is none; counts are ``Int64``; a swept value keeps its type, such as the list of a feature pair;
        missing text is an empty string, never NaN.

    Raises:
        UserError: the folder holds no sweep.
    """
    from rdistill.sweeps.study.dataframe import results_frame

    with open_work_dir(work_dir, "trials/*/trial.json") as opened:
        return results_frame(opened.folder)


def _console(console: Console | None, quiet: bool) -> Console:
    from rich.console import Console

    from rdistill.training.console import OneLineConsole

    if quiet:
        return Console(quiet=True)
    return console or OneLineConsole(highlight=False, soft_wrap=True, markup=False)


def _print(console: Console, line: str) -> None:
    """Prints a line without wrapping or markup, so that a path in it can be copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _name(config: str | Path | Config, work_dir: str | Path | None) -> str:
    """Returns the config's file name, or 'config'."""
    if isinstance(config, (str, Path)):
        return str(config)
    if not config.filename and work_dir is None:
        raise UserError("work_dir: is required for a config that is not a file")
    return str(config.filename or "config")


def _folder_or_uri(work_dir: str | Path) -> str | Path:
    """Returns a folder as a Path and a URI unchanged."""
    return work_dir if is_uri(work_dir) else Path(work_dir)


def _shortcuts(arguments: Mapping[str, Any]) -> Shortcuts:
    from rdistill.config.load import Shortcuts

    as_text = {name: _text(arguments.get(name)) for name in ("data_root", "size", "teacher_checkpoint")}
    return Shortcuts(**{**arguments, **as_text})


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
