"""Some trials of a sweep on Ray Tune: as many at a time as the cluster holds, in cohorts where they can be."""

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
from rdistill.sweeps.search import memory_kills
from rdistill.sweeps.search.searchers import SCORE
from rdistill.sweeps.study.records import RECORD, TRIALS, load_record
from rdistill.sweeps.trial.faults import RETRIES, StopOnFullStorage, forgive
from rdistill.sweeps.trial.trial import Study, Train, reason_of, run_trial
from rdistill.training.ray_train import Resources

# A trial that only waits for its worker group. Nothing at all is an error, and a hundredth of a CPU could be the one
# that the group then lacks: so one byte of memory.
PROXY_NEEDS = {"memory": 64 * 2**20}  # bytes; of a trial whose student is in a cohort: all CPUs are the cohorts'
DRIVER_OF_A_GROUP = {"memory": 1}


@dataclass(frozen=True)
class Phase:
    """What Ray Tune runs at a time: the search with its baselines, or trials of the confirmation."""

    name: str  # Tune's folder in the work dir has it
    trials: int
    searcher: Callable[[int], Searcher]  # given how many trials run at a time
    scheduler: TrialScheduler
    listed: Collection[str] | None = None  # ids of a confirmation's trials; None for the search
    most_at_once: int | None = None  # trials, where fewer than there is room for learn more from each other


class Team:
    """Who does the work of a sweep: processes, in cohorts where trials can share one.

    Args:
        here: the work dir.
        study: what all trials share.
        resources: of one trial.
        processes: trials that the cluster holds, each by itself.
        say: is given a line for the user.
        train: what trials outside cohorts train with; see :func:`rdistill.sweeps.trial.trial.run_trial`.

    Cohorts of one worker stay from phase to phase, with their processes and the teacher that they have loaded, until
    :meth:`end`. Those of several workers end with each phase, as their processes' CPUs are taken by groups.
    """

    def __init__(
        self,
        here: WorkDir,
        study: Study,
        resources: Resources,
        processes: int,
        say: Callable[[str], None],
        train: Train | None = None,
    ) -> None:
        self.here, self.train = here, train
        self.study, self.resources, self.processes, self.say = study, resources, processes, say
        self._fleet: Fleet | None = None

    @property
    def cohorts(self) -> Sequence[Any]:
        """Actors that stay, between two phases; see :meth:`rdistill.sweeps.cohort.worker.Cohort.call`."""
        return self._fleet.cohorts if self._fleet is not None else ()

    def end(self) -> None:
        """Ends the cohorts, if there are any."""
        if self._fleet is not None:
            self._fleet.end()
            self._fleet = None

    def run(self, phase: Phase, resume: bool) -> bool:
        """Runs a phase, or what is left of it. Returns whether it came to its end; Ctrl-C cuts it off."""
        fleet, at_once = self._start(min(phase.trials, phase.most_at_once or phase.trials))
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
                    callbacks=[TuneEvents(), StopOnFullStorage(self.study.work_dir)],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    **ray_storage(self.here.where),
                ),
            )
        with _ctrl_c_caught_by_tune() as was_pressed, memory_kills.survived():
            results = tuner.fit()
            complete = not was_pressed()
        if not complete or self.resources.workers > 1:
            self.end()
        self.here.pull(f"{TRIALS}/*/{RECORD}")
        _settle(self.here.folder, results, complete)
        self.here.push()
        return complete

    def _restored(self, phase: Phase, trainable: Any) -> tune.Tuner | None:
        """The Tuner where the last driver left it; None where it left nothing that can be read.

        A new one then suggests the same trials, as its seed is the same, and each goes on from what its folder holds.
        """
        forgive(self.here.folder, confirmed=phase.listed is not None, trials=phase.listed)
        self.here.push()
        storage = ray_storage(join(self.here.where, phase.name))
        path, filesystem = storage["storage_path"], storage.get("storage_filesystem")
        try:
            if tune.Tuner.can_restore(path, filesystem):
                return tune.Tuner.restore(path, trainable, resume_errored=True, storage_filesystem=filesystem)
        except StorageError:  # it is there, but cannot be reached now
            raise
        except Exception as error:  # cut off while it was written: anything from EOFError to JSONDecodeError
            logging.getLogger(__name__).warning("%s cannot be read, and is begun again: %r", path, error)
        self.here.remove(phase.name)
        return None

    def _start(self, trials: int) -> tuple[Fleet | None, int]:
        """The cohorts of a phase, if it has any; and how many of its trials run at a time."""
        spec = self.study.spec
        most = min(trials, spec.trial.max_concurrent or trials)
        if spec.cohort.size == "off":
            return None, min(self.processes, most)
        begun = self._fleet is not None
        if self._fleet is None:
            later = spec.num_confirming * spec.confirm.first if spec.confirm is not None else 0
            largest = max(trials, later) if self.resources.workers == 1 else trials
            largest = min(largest, spec.trial.max_concurrent or largest)
            self._fleet = start_fleet(self.study, self.resources, largest, self.processes)
        plan = self._fleet.plan
        at_once = min(plan.cohorts * plan.size, most)
        if not begun:
            self.say(f"cohorts   {plan.describe(self.resources)}; {counted(at_once, 'trial')} at a time")
        return self._fleet, at_once

    def _trainable(self, fleet: Fleet | None) -> Any:
        """The function of a trial, with what it takes; with cohorts, it follows a student of theirs."""
        if fleet is not None:
            function = tune.with_parameters(follow, cohorts=fleet.cohorts, assigner=fleet.assigner)
            return tune.with_resources(function, tune.PlacementGroupFactory([PROXY_NEEDS]))
        total = {kind.lower(): amount for kind, amount in self.resources.total().items()}
        needs = total if self.resources.workers == 1 else DRIVER_OF_A_GROUP
        return tune.with_resources(tune.with_parameters(_train, study=self.study, train=self.train), needs)


def _train(config: TrialConfig, study: Study, train: Train | None) -> None:
    """What Tune calls in a trial's process."""
    run_trial(study, config, tune.report, train=train)


@contextmanager
def _ctrl_c_caught_by_tune() -> Iterator[Callable[[], bool]]:
    """Yields a function: whether Ctrl-C has ended what Tune was running.

    Tune does not say so: the trials that it cuts off count as terminated, like those that have come to their end. But
    it gives the signal back to whom it found there when it has caught one. A second Ctrl-C does not wait for Tune.
    """

    def second(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Tune catches nothing
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, second)
    try:
        yield lambda: signal.getsignal(signal.SIGINT) is second
    finally:
        signal.signal(signal.SIGINT, before)


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("id", trial.trial_id))


def _settle(work_dir: Path, results: tune.ResultGrid, complete: bool) -> None:
    """Ends the records of trials that could not do so themselves: stopped by the scheduler, or their process died.

    Of a phase that was cut off, those without an error stay as they are: the most of them will go on.
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
