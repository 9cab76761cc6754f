"""A cohort of several workers: one Ray Train worker group in which every rank steps the same students in lockstep.

Each rank draws its share of a batch and runs the teacher on it, once for all students; each student is a DDP model of
its own. Who joins and who stops is decided between two batches on rank 0 and sent to all, so that no rank ever waits
in an all-reduce that another does not enter. What a rank runs is in :mod:`.rank`; as in :mod:`.worker`, this
module imports neither torch nor mmengine by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.assignment import sharing_key
from rdistill.sweeps.cohort.news import JOIN, STOP, News
from rdistill.sweeps.cohort.proxy import ATTEMPTS, FAILED, FINISHED, REPORTED, TAKEN_OVER, Events, until_over

if TYPE_CHECKING:
    from rdistill.sweeps.trial.trial import Study
    from rdistill.training.ray_train import Resources


class CohortGroup:
    """Starts the group and stands between it and the trials' processes. A Ray actor, called as a ``Cohort`` is.

    The group lives as long as this does. A worker that dies makes Ray Train start the group again, and each student
    goes on from its own checkpoint. A student that fails on one rank only takes the group down too, and is then left
    out.
    """

    def __init__(self, study: Study, resources: Resources) -> None:
        self._students: dict[str, tuple[TrialConfig, Events]] = {}  # those that train
        self._news: News = []
        self._lock = threading.Lock()
        self._deaths_left = ATTEMPTS + 1  # starts of the group that no student is to blame for
        self._over = ""  # why no group will be started any more
        self._ending, self._gone = False, threading.Event()
        mailbox = ray.get_runtime_context().current_actor
        threading.Thread(target=self._live, args=(study, resources, mailbox), name="group", daemon=True).start()

    # Called by the trials' processes ------------------------------------------------------------------------------

    def run(self, trial: TrialConfig) -> Iterator[tuple[str, Any]]:
        """Trains one student among the others, or follows one that trains; yields as :meth:`.cohort.Cohort.run`."""
        events = Events()
        with self._lock:
            before = self._students.get(trial["id"])
            if before is None:
                self._news.append((JOIN, trial))
            else:
                before[1].put(TAKEN_OVER)
            self._students[trial["id"]] = trial, events
            if self._over:
                events.put((FAILED, self._over))
        yield from until_over(events)

    def ready(self) -> None:
        """Returns once this is there."""

    def students(self) -> dict[str, str]:
        """Those that train: trial id -> sharing key."""
        with self._lock:
            return {trial_id: sharing_key(trial) for trial_id, (trial, _) in self._students.items()}

    def stop(self, trial_id: str) -> None:
        """Takes a student out before a next batch; what it saved stays."""
        with self._lock:
            if (student := self._students.pop(trial_id, None)) is not None:
                self._news.append((STOP, trial_id))
                student[1].put((FINISHED, "stopped"))

    def end(self) -> None:
        """Ends the group before its next batch, and returns when Ray Train has given back what it had reserved.

        A killed group leaves that to an actor of Ray Train's, which dies where several Rays run on a machine.
        """
        with self._lock:
            self._ending = True
        self._gone.wait()

    # Called by the group's first rank -----------------------------------------------------------------------------

    def news(self, beginning: bool) -> News | None:
        """What to do before the next batch; of a group that begins, every student. None: end."""
        with self._lock:
            if self._ending:
                return None
            if beginning:
                self._deaths_left -= 1
                if self._deaths_left < 0:
                    self._give_up("the cohort's workers died again and again")
                    return None
                self._news = [(JOIN, trial) for trial, _ in self._students.values()]
            news, self._news = self._news, []
            return news

    def pass_on(self, trial_id: str, event: tuple[str, Any], takes_the_group_down: bool = False) -> None:
        """Passes on what a student reports, or how it ended."""
        with self._lock:
            student = self._students.get(trial_id)
            self._deaths_left += takes_the_group_down and student is not None  # each rank may say it
            if event[0] != REPORTED:
                self._students.pop(trial_id, None)
        if student is not None:
            student[1].put(event)

    def _live(self, study: Study, resources: Resources, mailbox: Any) -> None:
        try:
            self._fit(study, resources, mailbox)
        finally:
            self._gone.set()

    def _fit(self, study: Study, resources: Resources, mailbox: Any) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from rdistill.sweeps.cohort.rank import work
        from rdistill.sweeps.trial.trial import reason_of
        from rdistill.training.ray_train import PLACEMENT_ATTEMPTS, controller_lost

        per_worker, reason = resources.per_worker(), ""
        while not reason:
            trainer = TorchTrainer(
                work,
                train_loop_config={"study": study, "mailbox": mailbox},
                scaling_config=ScalingConfig(
                    num_workers=resources.workers, use_gpu="GPU" in per_worker, resources_per_worker=per_worker
                ),
                run_config=RunConfig(
                    name=f"cohort-{time.time_ns()}",
                    storage_path=str(Path(study.work_dir, "ray_train")),
                    failure_config=FailureConfig(max_failures=-1, controller_failure_limit=PLACEMENT_ATTEMPTS),
                ),
            )
            try:
                trainer.fit()
                reason = "the cohort's workers ended"
            except Exception as error:
                if not controller_lost(error) or self._over:  # each start is one of the deaths that are left
                    reason = reason_of(error)
        with self._lock:
            self._give_up(self._over or reason)

    def _give_up(self, reason: str) -> None:
        self._over = reason
        for _, events in self._students.values():
            events.put((FAILED, reason))
        self._students.clear()
