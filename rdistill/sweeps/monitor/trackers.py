"""Tracks a sweep: the sweep's own process writes a run of wandb, TensorBoard or MLflow for each trial.

TensorBoard and MLflow are written by Ray Tune's logger callbacks. For wandb, one process keeps several wandb runs open,
since Ray's callback would start two processes for each trial, which take more memory than the cohort that trains them.
"""

from __future__ import annotations

import queue
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rdistill._compat.ray import run_of_trial
from rdistill.config.tracking import (
    MLFLOW_URI,
    Mlflow,
    Tracking,
    Wandb,
    environment_kept,
    import_wandb,
    is_disabled,
    mlflow_uri,
    prepare_libraries,
    wandb_mode,
)
from rdistill.core.errors import error_line
from rdistill.core.files import read_text, write_whole
from rdistill.core.redaction import redacted
from rdistill.schemas.mappings import ConfigValues
from rdistill.schemas.trial import TrialReport
from rdistill.sweeps.monitor.events import TrialInfo
from rdistill.sweeps.study.records import TRIALS, TrialRecord, load_record
from rdistill.training.tracked_run import MAX_FAILURES, QUIET_WANDB

CLOSE_TIMEOUT_S = 120.0  # how long a tracker may write after the end of a sweep


class TrialTracker(Protocol):
    """Keeps a run for each trial in one tracker. All calls come from one thread, and any of them may raise.

    :class:`BackgroundTracker` makes the calls when it is notified as a
    :class:`rdistill.sweeps.monitor.events.SweepListener`.
    """

    def open_run(self, trial: TrialInfo) -> None:
        """Opens or continues the trial's run; does nothing if it is open."""

    def log_validation(
        self, trial: TrialInfo, metrics: Mapping[str, float], record: TrialRecord, images: list[Path]
    ) -> None:
        """Logs a validation: ``metrics`` is a flat dict with ``iter``, ``images`` are the image files it has drawn."""

    def close_run(self, trial: TrialInfo, status: str, record: TrialRecord | None) -> None:
        """Closes the run of a trial that has ended; ``status`` is ``finished``, ``stopped`` or ``failed``."""

    def close(self) -> None:
        """Closes the runs that are still open at the end of the sweep, whose trials were interrupted."""


class BackgroundTracker:
    """A :class:`.events.SweepListener` that calls a tracker in its own thread; the sweep goes on if the tracker fails.

    Args:
        name: the tracker's name in warnings.
        make: starts the tracker; it is called in the thread.
        work_dir: the sweep's folder.
        warn: prints a warning when the tracker fails.
    """

    def __init__(
        self, name: str, make: Callable[[], TrialTracker], work_dir: Path, warn: Callable[[str], None]
    ) -> None:
        self.name, self.work_dir, self.warn = name, work_dir, warn
        self._make = make
        self._calls: queue.SimpleQueue[Callable[[TrialTracker], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)

    def __enter__(self) -> BackgroundTracker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(lambda tracker: tracker.close())
        self._calls.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self.warn(f"{self.name} has not taken everything within {CLOSE_TIMEOUT_S:.0f} s")

    def trial_started(self, trial: TrialInfo) -> None:
        self._calls.put(lambda tracker: tracker.open_run(trial))

    def trial_validated(self, trial: TrialInfo, result: TrialReport) -> None:
        folder = self.work_dir / TRIALS / trial.id
        record = load_record(folder)  # it is read here and not in the thread, because it changes
        if record is None or not record.history:
            return
        iteration = result.get("iter", record.history[-1]["iter"])
        metrics = {**metrics_at(record, iteration), "best_mIoU": float(result["best_mIoU"])}
        images = sorted(folder.glob(f"*/vis_data/vis_image/val_*_{iteration}.png"))
        self._calls.put(lambda tracker: tracker.log_validation(trial, metrics, record, images))

    def trial_lost(self, trial: TrialInfo, reason: str) -> None:
        """Does nothing: the trial's run stays open and goes on."""

    def trial_ended(self, trial: TrialInfo, result: TrialReport, failed: bool) -> None:
        record = load_record(self.work_dir / TRIALS / trial.id)
        finished = record is not None and record.status == "finished"
        status = "failed" if failed else "finished" if finished else "stopped"
        self._calls.put(lambda tracker: tracker.close_run(trial, status, record))

    def _work(self) -> None:
        tracker, failures = None, 0
        while (call := self._calls.get()) is not None:
            if failures == MAX_FAILURES:
                continue
            try:
                tracker = tracker or self._make()
                call(tracker)
                failures = 0
            except Exception as error:
                failures = MAX_FAILURES if tracker is None else failures + 1
                if failures in (1, MAX_FAILURES):
                    end = "; the sweep goes on without it" if failures == MAX_FAILURES else ""
                    self.warn(f"{self.name} failed: {error_line(error)}{end}")


def trackers(tracking: Tracking, name: str, work_dir: Path, warn: Callable[[str], None]) -> list[BackgroundTracker]:
    """The listeners that write to a sweep's trackers.

    Args:
        tracking: the wanted trackers.
        name: the sweep's name.
        work_dir: the sweep's folder, to which local files are written.
        warn: prints a warning when a tracker fails.
    """
    prepare_libraries()
    makes: dict[str, Callable[[], TrialTracker]] = {}
    if (wandb := tracking.wandb) is not None and not is_disabled("wandb", tracking):
        makes["wandb"] = lambda: WandbTracker(wandb, name, work_dir)
    if tracking.tensorboard is not None:
        makes["tensorboard"] = lambda: TensorboardTracker(work_dir)
    if (mlflow := tracking.mlflow) is not None:
        makes["mlflow"] = lambda: MlflowTracker(mlflow, name, work_dir)
    return [BackgroundTracker(tracker, make, work_dir, warn) for tracker, make in makes.items()]


def metrics_at(record: TrialRecord, iteration: int) -> dict[str, float]:
    """The scores of a validation and the losses before it, flat: ``mIoU``, ``IoU/disc``, ``distill.loss_logits``."""
    scores = next((entry for entry in reversed(record.history) if entry["iter"] == iteration), record.history[-1])
    losses = next((entry for entry in reversed(record.losses) if entry["iter"] <= iteration), {})
    flat = {**losses, **{key: value for key, value in scores.items() if key != "IoU"}}
    flat |= {f"IoU/{name}": value for name, value in (scores.get("IoU") or {}).items() if value is not None}
    return {key: float(value) for key, value in flat.items() if isinstance(value, (int, float))}


def run_config(trial: TrialInfo) -> ConfigValues:
    """The config of a tracker's run: the trial's values, phase and seed."""
    return {
        **redacted(trial.values),
        "phase": trial.phase,
        "seed": trial.seed,
        **({"of": trial.of} if trial.of else {}),
    }


class RunIds:
    """The id of each trial's run in a tracker, so that a resumed sweep goes on with these runs.

    They are kept in a file with a line for each trial, to which lines are appended.
    """

    def __init__(self, work_dir: Path, tracker: str) -> None:
        self.file = work_dir / f"tracking-{tracker}.csv"
        text = read_text(self.file) if self.file.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # a killed process may have written only a part of the last line
        if whole != text:
            write_whole(self.file, whole)
        lines = whole.splitlines()
        self.ids = {trial_id: run_id for trial_id, _, run_id in (line.partition(",") for line in lines)}

    def keep(self, trial_id: str, run_id: str) -> None:
        """Adds a trial's run to the file."""
        if self.ids.get(trial_id) == run_id:
            return
        self.ids[trial_id] = run_id
        with open(self.file, "a") as file:
            file.write(f"{trial_id},{run_id}\n")


class WandbTracker:
    """A wandb run for each trial, grouped by sweep."""

    def __init__(self, settings: Wandb, name: str, work_dir: Path) -> None:
        self._wandb, self.settings, self.mode = import_wandb(work_dir), settings, wandb_mode(settings)
        self.name, self.work_dir = name, work_dir
        self.ids = RunIds(work_dir, "wandb")
        self.runs: dict[str, Any] = {}
        self._configured: set[str] = set()

    def open_run(self, trial: TrialInfo) -> None:
        if trial.id in self.runs:
            return
        run_id = self.ids.ids.get(trial.id) or secrets.token_hex(4)
        run = self._wandb.init(
            id=run_id,
            resume="allow",
            reinit="create_new",
            mode=self.mode,  # type: ignore[arg-type]
            project=self.settings.project,
            entity=self.settings.entity,
            group=self.settings.group or self.name,
            job_type=trial.phase,
            name=trial.id,
            tags=list(self.settings.tags),
            notes=self.settings.notes,
            config=run_config(trial),
            dir=str(self.work_dir),
            settings=self._wandb.Settings(**QUIET_WANDB, x_disable_stats=True, init_timeout=30),
        )
        run.define_metric("*", step_metric="iter")
        self.runs[trial.id] = run
        self.ids.keep(trial.id, run_id)

    def log_validation(
        self, trial: TrialInfo, metrics: Mapping[str, float], record: TrialRecord, images: list[Path]
    ) -> None:
        self.open_run(trial)
        run = self.runs[trial.id]
        if trial.id not in self._configured:
            self._configured.add(trial.id)
            run.config.update({"effective": redacted(record.effective)}, allow_val_change=True)
        run.log({**metrics, **{image_name(path): self._wandb.Image(str(path)) for path in images}})

    def close_run(self, trial: TrialInfo, status: str, record: TrialRecord | None) -> None:
        run = self.runs.pop(trial.id, None)
        if run is None:
            return
        best = record.best if record is not None else {}
        run.summary.update({"status": status, "best_mIoU": best.get("mIoU"), "best_iter": best.get("iter")})
        run.finish(exit_code=int(status == "failed"))

    def close(self) -> None:
        for run in self.runs.values():
            run.finish(exit_code=1)
        self.runs.clear()


class _LoggedTrial:
    """A trial for Ray's logger callbacks, with rdistill's trial id and the swept values as its config."""

    def __init__(self, trial: TrialInfo, folder: Path) -> None:
        self.trial_id, self.local_path = trial.id, str(folder)
        self.config = self.evaluated_params = run_config(trial)

    def __str__(self) -> str:
        return self.trial_id

    def __hash__(self) -> int:
        return hash(self.trial_id)

    def __eq__(self, logged: object) -> bool:
        return isinstance(logged, _LoggedTrial) and logged.trial_id == self.trial_id

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


class TensorboardTracker:
    """Writes TensorBoard's event files under ``tensorboard/ID``, with Ray's callback."""

    def __init__(self, work_dir: Path) -> None:
        from ray.tune.logger import TBXLoggerCallback

        self.folder, self.logger = work_dir / "tensorboard", TBXLoggerCallback()
        self.open: dict[str, _LoggedTrial] = {}

    def open_run(self, trial: TrialInfo) -> None:
        if trial.id not in self.open:
            self.open[trial.id] = _LoggedTrial(trial, self.folder / trial.id)
            self.logger.log_trial_start(self.open[trial.id])

    def log_validation(
        self, trial: TrialInfo, metrics: Mapping[str, float], record: TrialRecord, images: list[Path]
    ) -> None:
        import mmcv

        self.open_run(trial)
        iteration = int(metrics["iter"])
        pictures = {image_name(path): mmcv.imread(str(path), channel_order="rgb").transpose(2, 0, 1) for path in images}
        result = {**metrics, **pictures, "timesteps_total": iteration, "training_iteration": iteration}
        self.logger.log_trial_result(iteration, self.open[trial.id], result)

    def close_run(self, trial: TrialInfo, status: str, record: TrialRecord | None) -> None:
        if logged := self.open.pop(trial.id, None):
            self.logger.log_trial_end(logged, status == "failed")

    def close(self) -> None:
        for logged in self.open.values():
            self.logger.log_trial_end(logged)
        self.open.clear()


class MlflowTracker:
    """Keeps an MLflow run for each trial, in an experiment with the sweep's name, with Ray's callback."""

    def __init__(self, settings: Mlflow, name: str, work_dir: Path) -> None:
        import mlflow
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri, files = mlflow_uri(settings, work_dir)
        self.client = mlflow.MlflowClient(uri)
        experiment = settings.experiment or name
        if files is not None and self.client.get_experiment_by_name(experiment) is None:
            self.client.create_experiment(experiment, artifact_location=files)
        self.logger = MLflowLoggerCallback(uri, experiment_name=experiment, tags={**settings.tags, "sweep": name})
        with environment_kept(MLFLOW_URI):
            self.logger.setup()
        self.ids = RunIds(work_dir, "mlflow")
        self.open: dict[str, _LoggedTrial] = {}
        self._configured: set[str] = set()

    def open_run(self, trial: TrialInfo) -> None:
        if trial.id in self.open:
            return
        logged = _LoggedTrial(trial, Path())
        run_id = self.ids.ids.get(trial.id)
        if run_id is not None:
            run_of_trial(self.logger)[logged] = run_id
            self.client.update_run(run_id, status="RUNNING")
        self.logger.log_trial_start(logged)
        self.open[trial.id] = logged
        self.ids.keep(trial.id, run_of_trial(self.logger)[logged])

    def log_validation(
        self, trial: TrialInfo, metrics: Mapping[str, float], record: TrialRecord, images: list[Path]
    ) -> None:
        self.open_run(trial)
        run_id, iteration = self.ids.ids[trial.id], int(metrics["iter"])
        if trial.id not in self._configured:
            self._configured.add(trial.id)
            for key, value in redacted(record.effective).items():
                self.client.log_param(run_id, f"effective/{key}", str(value)[:500])
        named = {re.sub(r"[^\w\-. :/]", "_", key): value for key, value in metrics.items()}
        result = {**named, "timesteps_total": iteration, "training_iteration": iteration}
        self.logger.log_trial_result(iteration, self.open[trial.id], result)
        for path in images:
            self.client.log_artifact(run_id, str(path), "images")

    def close_run(self, trial: TrialInfo, status: str, record: TrialRecord | None) -> None:
        if logged := self.open.pop(trial.id, None):
            self.client.set_tag(self.ids.ids[trial.id], "status", status)
            self.logger.log_trial_end(logged, status == "failed")

    def close(self) -> None:
        for name in self.open:
            self.client.set_terminated(self.ids.ids[name], "KILLED")
        self.open.clear()


def image_name(path: Path) -> str:
    """``val_0001_300.png`` -> ``images/val_0001``: the same name for all validations of an image."""
    return f"images/{path.stem.rpartition('_')[0]}"
