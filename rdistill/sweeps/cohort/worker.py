"""Cohorts: several trials of a sweep as one worker, which draws a batch once and runs the teacher once.

Each student stays a trial of Ray Tune's, in a process of its own that does nothing but pass on what its student in the
cohort reports (:mod:`.proxy`), so that Tune's schedulers and searchers act on it as on any trial. Whoever gets hold of
an actor imports its class, those processes too: so this module imports neither torch nor mmengine by itself.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.assignment import sharing_key
from rdistill.sweeps.cohort.proxy import FAILED, FINISHED, REPORTED, TAKEN_OVER, Events, until_over

if TYPE_CHECKING:
    from rdistill.sweeps.trial.trial import Study
    from rdistill.training.lockstep import Lane


class Cohort:
    """The worker. A Ray actor: :meth:`run` and :meth:`stop` come from the trials' processes, each in its own thread."""

    def __init__(self, study: Study) -> None:
        from rdistill.training.lockstep import Lockstep

        self._study = study
        self._lockstep = Lockstep()
        self._lanes: dict[str, Lane] = {}
        self._events: dict[str, Events] = {}  # the students that train now
        self._keys: dict[str, str] = {}  # every student that ever trained: what it may share with others
        self._lock, self._called = threading.Lock(), threading.Lock()
        self._joined = threading.Event()
        threading.Thread(target=self._work, name="cohort", daemon=True).start()

    def run(self, trial: TrialConfig) -> Iterator[tuple[str, Any]]:
        """Trains one student among the others; yields what it reports, and last how it ended.

        ``trial`` is as :func:`rdistill.sweeps.trial.trial.run_trial` takes it. A student that trains already is
        followed by this call from here on, and no longer by the call before.
        """
        from rdistill.sweeps.trial.trial import reason_of, run_trial

        name, events = trial["id"], Events()

        def train(lane: Lane) -> None:
            try:
                run_trial(self._study, trial, lambda report: self._pass_on(name, (REPORTED, report)), lane)
                self._pass_on(name, (FINISHED, None))
            except Exception as error:
                self._pass_on(name, (FAILED, reason_of(error)))

        with self._lock:
            before, self._events[name] = self._events.get(name), events
            self._keys[name] = sharing_key(trial)
            if before is None:
                self._lanes[name] = self._lockstep.join(name, train)
                self._joined.set()
            else:
                before.put(TAKEN_OVER)
        yield from until_over(events)

    def _pass_on(self, name: str, event: tuple[str, Any]) -> None:
        with self._lock:
            events = self._events.get(name) if event[0] == REPORTED else self._events.pop(name, None)
        if events is not None:
            events.put(event)

    def end(self) -> None:
        """Nothing is left to end in order; see :meth:`.group.CohortGroup.end`."""

    def ready(self) -> None:
        """Returns once the cohort is there."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of the study in this process, which has the CPUs and the GPU; one at a time."""
        with self._called:
            return function(self._study, *arguments)

    def students(self) -> dict[str, str]:
        """Those that train: trial id -> sharing key."""
        with self._lock:
            return {name: self._keys[name] for name in self._events}

    def stop(self, trial_id: str) -> None:
        """Takes a student out before its next batch; what it saved stays."""
        with self._lock:
            if (events := self._events.pop(trial_id, None)) is not None:
                self._lanes[trial_id].stopped = True
                events.put((FINISHED, "stopped"))

    def _work(self) -> None:
        try:
            while True:
                self._joined.wait()
                self._joined.clear()
                while self._lockstep.step():
                    pass
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # Ray starts the cohort again; without this thread no student would ever go on
