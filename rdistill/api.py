"""The Python API: what the commands do, for scripts and notebooks. ``import rdistill`` is all it takes.

Nothing here exits, reads a terminal or leaves the work dir; a mistake is a :class:`rdistill.UserError`. What is heavy
is imported when it is called, so that ``import rdistill`` takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """What :func:`evaluate` takes besides its own arguments: those of :class:`rdistill.flags.DataFlags`."""

    size: int | str | None
    data_root: str | Path | None
    num_data_workers: int | None
    label_map: str | Mapping[int, int] | None


class BatchArguments(DataArguments, total=False):
    """What :func:`headroom` takes besides its own arguments: those of :class:`rdistill.flags.BatchFlags`."""

    batch_size: int | None
    teacher_checkpoint: str | Path | None


class ShortcutArguments(BatchArguments, total=False):
    """What :func:`load_config`, :func:`train` and :func:`sweep` take besides their own arguments."""

    iters: int | None
    val_interval: int | None


def _takes(arguments: type) -> Callable[[Function], Function]:
    """Lets ``help`` and notebooks show every single argument of a group, and refuses any that is not of the group."""

    def decorated(function: Function) -> Function:
        own = signature(function)
        kept = [parameter for parameter in own.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
        shown = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
            for name, kind in arguments.__annotations__.items()
        ]
        whole = own.replace(parameters=[*kept, *shown])

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            whole.bind(*args, **kwargs)  # raises TypeError
            return function(*args, **kwargs)

        call.__signature__ = whole  # type: ignore[attr-defined]
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
        config: a config file, or an mmengine ``Config``, which is left as it is: a plain mmseg config of a teacher or
            a student, or one with a ``distill`` section.
        overrides: dotted key -> value, such as ``{"optim_wrapper.optimizer.lr": 0.02}``; ``+key`` adds a key.
        size: of an image, in pixels: ``128``, or ``"HEIGHTxWIDTH"``.
        data_root: folder with ``img_dir/`` and ``ann_dir/``, or with PaddleSeg's ``train_list.txt``.
        num_data_workers: loader processes for each training worker; 0 loads in the worker itself.
        label_map: value in the masks' files -> label, such as ``{255: 1}`` or ``"255=1"``.
        batch_size: images a step, over all workers together.
        teacher_checkpoint: the teacher's weights, rdistill's or plain mmseg's.
        iters: of training; the learning rate's schedule is stretched to them.
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
        work_dir: written to: ``metrics.json``, ``student.pth`` with ``student.py`` (the best iteration, for plain
            mmseg), ``best.pth``, ``last.pth``, ``config.py``. By default ``work_dirs/`` and the config's name.
        overrides: config key -> value.
        seed: of weights, data order, augmentation and dropout; by default the config's own, or else 0.
        resume: continue the run in ``work_dir`` from its last checkpoint.
        workers: training processes; from two up through Ray Train.
        cpus_per_worker: CPU cores of each.
        gpus_per_worker: GPUs of each; by default 1 where there are GPUs.
        min_workers: go on with as few when workers are lost, and with more when there is room again; the images a
            step stay as many. By default the run waits for all ``workers``.
        max_failures: how often the workers are started again when one is lost.
        address: of a Ray cluster; by default the one it runs in, or, for several workers, a new one on this machine.
        amp: forward passes in bfloat16.
        stop: a request that a signal handler may set; see :mod:`rdistill.core.stopping`.
        track: where metrics go besides: ``"wandb"``, ``"tensorboard"``, ``"mlflow"``, several of them, or a mapping
            with their options; see docs/tracking.md.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        quiet: show nothing.
        console: where progress is shown, if not on standard output or in the notebook.
        size, data_root, num_data_workers, label_map, batch_size, teacher_checkpoint, iters, val_interval:
            as for :func:`load_config`.

    Returns:
        What ``metrics.json`` holds. In percent: ``mIoU``, ``aAcc``, ``mAcc``, ``IoU`` (by class; None for a class
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
        raise UserError(*problems)  # also where one worker, in this process, takes what there is

    console = _console(console, quiet)
    loaded = load_run(config, {**(overrides or {}), **(AMP if amp else {})}, _shortcuts(shortcuts))
    if track is not None:
        loaded = loaded.with_section("tracking", parse_tracking(track, "track").model_dump(exclude_none=True))
    tracking = parse_tracking(loaded.cfg.get("tracking"))
    require_trackers(tracking)
    if seed is None:  # the config.py of a finished run has that run's
        seed = (loaded.cfg.get("randomness") or {}).get("seed") or 0
    name = _name(config, work_dir)
    work_dir = _where(work_dir or Path("work_dirs") / Path(name).stem)
    require_work_dir(work_dir)
    _say(console, f"{name} -> {work_dir}")
    alone = nullcontext() if is_uri(work_dir) else lock_folder(Path(work_dir), "run or sweep")
    with alone, RunConsole(console) as listener:
        options = RunOptions(seed=seed, resume=resume, trust_checkpoint=trust_checkpoint, stop=stop)
        if workers == 1 and not joins_a_cluster(address):
            metrics = train_run(loaded, work_dir, options, listener)
        else:
            from rdistill.training.ray_train import Resources, train_in_group

            resources = Resources(workers, cpus_per_worker, gpus_per_worker, min_workers, max_failures)
            metrics = train_in_group(loaded, work_dir, resources, options=options, address=address, listener=listener)
    if cache := metrics.get("teacher_cache"):
        gave_up = "; given up" if cache.get("gave_up") else ""
        _say(
            console, f"cache     {cache['hit_rate']:.0%} of the teacher's {cache['images']} images were known{gave_up}"
        )
    if store := metrics.get("teacher_store"):
        kept = store["images"] - store["computed"]
        _say(console, f"store     {kept} of the teacher's {store['images']} images were kept already")
    _say(console, f"done      {scores(metrics)} at iteration {metrics['best_iter']}, {metrics['seconds']:.0f} s")
    _say(console, f"student   {work_dir}/student.pth with {work_dir}/student.py; figures in {work_dir}/metrics.json")
    for line in viewing_hints(tracking, Path(work_dir)):
        _say(console, line)
    return metrics


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
    """Scores a checkpoint of the config's model, once its data has been looked at.

    Args:
        config: a config file or an mmengine ``Config``; of a ``distill`` config the student counts.
        checkpoint: ``student.pth``, ``best.pth``, or any mmseg checkpoint of that model.
        split: ``"val"`` or ``"test"``.
        overrides, size, data_root, num_data_workers, label_map: as for :func:`load_config`.
        trust_checkpoint: let the checkpoint run the Python code that it carries.
        noted: is called with each line that is worth knowing of the data, such as a class that no mask holds.

    Returns:
        Percent: ``mIoU``, ``aAcc``, ``mAcc``, and ``IoU`` by class (None for a class that does not occur).

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
        """What ``summary.json`` holds: the verdict, what was searched and what confirmed; see docs/proof-details.md."""
        from rdistill.sweeps.findings.summary import SUMMARY, read_summary

        with open_work_dir(self.work_dir, SUMMARY) as here:
            return read_summary(here.folder)

    @property
    def best(self) -> TrialRecord:
        """The trial that is handed over as ``best.pth``.

        The one with the highest mIoU; after a confirmation, the best run of the configuration with the highest mean.
        """
        from rdistill.sweeps.findings.conclude import winner

        return winner(self.trials, self.summary.get("confirmed"))

    @property
    def baseline(self) -> TrialRecord | None:
        """The student trained alone; the best of them, where several were."""
        return next((trial for trial in self.trials if trial.is_baseline), None)

    @property
    def gain(self) -> float | None:
        """mIoU of the best trial minus that of the baseline; None where the baseline is the best or has no score."""
        from rdistill.sweeps.study.records import gain

        return gain(self.best, self.trials)

    def frame(self) -> pandas.DataFrame:
        """The table of all trials; see :func:`load_results`."""
        return load_results(self.work_dir)

    def as_dict(self) -> SweepOutcome:
        """What `rdistill sweep --json` prints: plain data."""
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
    """Trains many students, a baseline without distillation always among them, and ranks them.

    Args:
        sweep: a sweep file, or what it would hold as a dict; files that it names are then looked for from the working
            directory.
        work_dir: written to: ``results.csv``, ``best.py`` with ``best.pth`` (the winner, for plain mmseg), and a folder
            a trial. By default ``work_dirs/sweeps/`` and the file's name.
        overrides: config key -> value for all trials, over the sweep's own ``set``.
        resume: continue the sweep in ``work_dir``.
        address: of a Ray cluster; by default the one it runs in, or a new one on this machine.
        track: as for :func:`train`, a run of the tracker for each trial; over the sweep's own ``tracking``.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        quiet: show nothing.
        console: where progress is shown, if not on standard output or in the notebook.
        size, data_root, num_data_workers, label_map, batch_size, teacher_checkpoint, iters, val_interval:
            as for :func:`load_config`.

    Raises:
        UserError: a mistake in the sweep, the config or the resources, found before the first trial.
        rdistill.sweeps.run.SweepFailedError: no trial has a score.
        KeyboardInterrupt: it was interrupted; ``resume`` continues it.
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
    return SweepResult(_where(work_dir), tuple(trials))


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
    """Says how much a config with a ``distill`` section has to gain, by a few short trainings in one cohort.

    Args:
        config: a config file or an mmengine ``Config``; see :func:`load_config`.
        work_dir: written to: ``headroom.json``, and a folder a training. By default ``work_dirs/headroom/`` and the
            config's name.
        iters: of the short trainings, and twice that of the longer ones; by default a quarter of the config's.
        seeds: of the trainings, at least two; by default 0 and 1.
        resume: continue what is in ``work_dir``.
        workers, cpus_per_worker, gpus_per_worker, address: as for :func:`train`; each batch is divided among them.
        overrides, stop, trust_checkpoint, quiet, console: as for :func:`train`.
        size, data_root, num_data_workers, label_map, batch_size, teacher_checkpoint: as for :func:`load_config`.

    Returns:
        What ``headroom.json`` holds: ``recommendation``, ``binds``, ``gap`` to the teacher at both lengths,
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
    work_dir = _where(work_dir or Path("work_dirs") / "headroom" / Path(name).stem)
    require_work_dir(work_dir)
    _say(console, f"{name} -> {work_dir}")
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
        say=lambda line: _say(console, line),
    )
    show_headroom(console, result)
    return result


def load_results(work_dir: str | Path) -> pandas.DataFrame:
    """The trials of a sweep as a table, best validation first; also of a sweep that is running or was interrupted.

    Args:
        work_dir: of the sweep.

    Returns:
        A row a trial, with the columns of ``results.csv`` (see docs/api.md). Scores are floats in percent, NaN where
        there is none; counts are ``Int64``; a swept value is of its own type, such as the list of a feature pair; text
        is never NaN, but empty.

    Raises:
        UserError: the folder holds no sweep.
    """
    from rdistill.sweeps.study.dataframe import results_frame

    with open_work_dir(work_dir, "trials/*/trial.json") as here:
        return results_frame(here.folder)


def _console(console: Console | None, quiet: bool) -> Console:
    from rich.console import Console

    from rdistill.training.console import OneLineConsole

    if quiet:
        return Console(quiet=True)
    return console or OneLineConsole(highlight=False, soft_wrap=True, markup=False)


def _say(console: Console, line: str) -> None:
    """Whole and as it is, whatever the console's own settings are: paths are there to be copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _name(config: str | Path | Config, work_dir: str | Path | None) -> str:
    """What a config is called: its file, or 'config'."""
    if isinstance(config, (str, Path)):
        return str(config)
    if not config.filename and work_dir is None:
        raise UserError("work_dir: is required for a config that is not a file")
    return str(config.filename or "config")


def _where(work_dir: str | Path) -> str | Path:
    """A work dir: a folder, or a URI as it is."""
    return work_dir if is_uri(work_dir) else Path(work_dir)


def _shortcuts(arguments: Mapping[str, Any]) -> Shortcuts:
    from rdistill.config.load import Shortcuts

    as_text = {name: _text(arguments.get(name)) for name in ("data_root", "size", "teacher_checkpoint")}
    return Shortcuts(**{**arguments, **as_text})


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
