"""Runs the trials of a sweep's phases with Ray Tune, in cohorts where trials can share one."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from rdistill._compat.ray import trials_of
from rdistill.core.storage import StorageError, WorkDir, join, ray_storage
from rdistill.core.words import counted
from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.fleet import Fleet, start_fleet
from rdistill.sweeps.cohort.proxy import follow
from rdistill.sweeps.monitor.events import TuneEvents
from rdistill.sweeps.search.memory_kills import memory_kills_retried
from rdistill.sweeps.search.searchers import SCORE
from rdistill.sweeps.study.records import RECORD, TRIALS, load_record
from rdistill.sweeps.trial.faults import RETRIES, StopOnLostStorage, retry_failed_trials
from rdistill.sweeps.trial.trial import Study, Train, reason_of, run_trial
from rdistill.training.ray_train import Resources

# Resources of a proxy trial: 64 MiB of memory and no CPU, since the cohorts reserve all CPUs.
PROXY_RESOURCES = {"memory": 64 * 2**20}
# Resources of a trial that only waits for its worker group. Tune requires some resource. A fraction of a CPU could be
# missing for the group afterwards, so it is one byte of memory.
GROUP_DRIVER_RESOURCES = {"memory": 1}


@dataclass(frozen=True)
class Phase:
    """One run of Ray Tune: the search with its baselines, or some trials of the confirmation."""

    name: str  # the name of Tune's folder in the work dir
    trials: int  # the number of trials
    searcher: Callable[[int], Searcher]  # builds the searcher from the number of trials that run at a time
    scheduler: TrialScheduler
    listed: Collection[str] | None = None  # ids of the trials of a confirmation; None for the search
    max_concurrent: int | None = None  # the largest number of trials at a time; None for as many as there is room for


class Team:
    """Runs the phases of a sweep, and owns the cohorts that train their trials.

    Cohorts of one worker live from phase to phase, with the teacher that they have loaded, until :meth:`end`. Cohorts
    of several workers end with each phase, because other worker groups need their CPUs between two phases.

    Args:
        here: the work dir.
        study: what all trials share.
        resources: resources of one trial.
        processes: number of trials that the cluster has room for when each trains alone.
        notify: prints a line for the user.
        train: the training function of trials outside cohorts; see :func:`rdistill.sweeps.trial.trial.run_trial`.
    """

    def __init__(
        self,
        here: WorkDir,
        study: Study,
        resources: Resources,
        processes: int,
        notify: Callable[[str], None],
        train: Train | None = None,
    ) -> None:
        self.here, self.train = here, train
        self.study, self.resources, self.processes, self.notify = study, resources, processes, notify
        self._fleet: Fleet | None = None

    @property
    def cohorts(self) -> Sequence[Any]:
        """Handles of the cohorts that live between phases; see :meth:`rdistill.sweeps.cohort.worker.Cohort.call`."""
        return self._fleet.cohorts if self._fleet is not None else ()

    def end(self) -> None:
        """Ends the cohorts, if there are any."""
        if self._fleet is not None:
            self._fleet.end()
            self._fleet = None

    def run(self, phase: Phase, resume: bool) -> bool:
        """Runs a phase, or the rest of it with ``resume``. Returns whether it is complete: Ctrl-C interrupts it."""
        fleet, at_once = self._start(min(phase.trials, phase.max_concurrent or phase.trials))
        trainable = self._trainable(fleet)
        tuner = self._restored(phase, trainable) if resume else None
        if tuner is None:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    metric=SCORE,
                    mode="max",
                    search_alg=phase.searcher(at_once),
                    scheduler=phase.scheduler,
                    num_samples=phase.trials,
                    reuse_actors=self.resources.workers == 1,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name=phase.name,
                    verbose=0,
                    callbacks=[TuneEvents(), StopOnLostStorage(str(self.here.folder))],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    **ray_storage(self.here.where),
                ),
            )
        with _ctrl_c_caught_by_tune() as interrupted, memory_kills_retried():
            results = tuner.fit()
            complete = not interrupted()
        if not complete or self.resources.workers > 1:
            self.end()
        self.here.pull(f"{TRIALS}/*/{RECORD}")
        _finish_records(self.here.folder, results, complete)
        self.here.push()
        return complete

    def _restored(self, phase: Phase, trainable: Any) -> tune.Tuner | None:
        """The Tuner in the state that the last driver saved; None if there is no state that can be read.

        A new Tuner then suggests the same trials, since its seed is the same, and each trial goes on from its own
        checkpoint.
        """
        retry_failed_trials(self.here.folder, confirmed=phase.listed is not None, trials=phase.listed)
        self.here.push()
        storage = ray_storage(join(self.here.where, phase.name))
        path, filesystem = storage["storage_path"], storage.get("storage_filesystem")
        try:
            if tune.Tuner.can_restore(path, filesystem):
                return tune.Tuner.restore(path, trainable, resume_errored=True, storage_filesystem=filesystem)
        except StorageError:  # the state may exist, but the storage does not answer now
            raise
        except Exception as error:  # a file that was only partly written raises anything, EOFError or JSONDecodeError
            logging.getLogger(__name__).warning("%s cannot be read, and is begun again: %r", path, error)
        self.here.remove(phase.name)
        return None

    def _start(self, trials: int) -> tuple[Fleet | None, int]:
        """The cohorts of a phase, if it uses any, and the number of its trials that run at a time."""
        spec = self.study.spec
        max_trials = min(trials, spec.trial.max_concurrent or trials)
        if spec.cohort.size == "off":
            return None, min(self.processes, max_trials)
        begun = self._fleet is not None
        if self._fleet is None:
            later = spec.num_confirming * spec.confirm.first if spec.confirm is not None else 0
            largest = max(trials, later) if self.resources.workers == 1 else trials
            largest = min(largest, spec.trial.max_concurrent or largest)
            self._fleet = start_fleet(self.study, self.resources, largest, self.processes)
        plan = self._fleet.plan
        at_once = min(plan.cohorts * plan.size, max_trials)
        if not begun:
            self.notify(f"cohorts   {plan.describe(self.resources)}; {counted(at_once, 'trial')} at a time")
        return self._fleet, at_once

    def _trainable(self, fleet: Fleet | None) -> Any:
        """The trial function for Tune, with its resources; with cohorts it follows a student in one of them."""
        if fleet is not None:
            function = tune.with_parameters(follow, cohorts=fleet.cohorts, assigner=fleet.assigner)
            return tune.with_resources(function, tune.PlacementGroupFactory([PROXY_RESOURCES]))
        total = {kind.lower(): amount for kind, amount in self.resources.total().items()}
        needs = total if self.resources.workers == 1 else GROUP_DRIVER_RESOURCES
        return tune.with_resources(tune.with_parameters(_train, study=self.study, train=self.train), needs)


def _train(config: TrialConfig, study: Study, train: Train | None) -> None:
    """The function that Tune calls in the process of a trial without a cohort."""
    run_trial(study, config, tune.report, train=train)


@contextmanager
def _ctrl_c_caught_by_tune() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C has interrupted Tune.

    Tune does not report it: trials that Ctrl-C ends have the same status as trials that ended by themselves. But when
    Tune catches SIGINT, it restores the signal handler that was there before, which is how this function knows. A
    second Ctrl-C then raises KeyboardInterrupt without waiting for Tune.
    """

    def second(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Tune catches signals in the main thread alone
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, second)
    try:
        yield lambda: signal.getsignal(signal.SIGINT) is second
    finally:
        signal.signal(signal.SIGINT, before)


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("id", trial.trial_id))


def _finish_records(work_dir: Path, results: tune.ResultGrid, complete: bool) -> None:
    """Sets the final status of trials that the scheduler stopped or whose process died, so that they could not do it.

    In an interrupted phase, the records of trials without an error stay as they are: most of them will be resumed.
    """
    for trial in trials_of(results):
        folder = work_dir / TRIALS / _trial_name(trial)
        record = load_record(folder)
        if record is None or record.status != "running" or not trial.is_finished():
            continue
        error = trial.get_pickled_error() or trial.get_error()
        if error is None and not complete:
            continue
        record.status, record.reason = ("stopped", "") if error is None else ("failed", reason_of(error))
        record.save(folder)
