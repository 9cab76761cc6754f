"""A cohort without Ray: who follows its students."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.sweeps.cohort.proxy import FINISHED, REPORTED, TAKEN_OVER
from rdistill.sweeps.cohort.worker import Cohort
from rdistill.sweeps.study.records import TRIALS, load_record
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.sweeps.trial.trial import Study

TRIAL: dict[str, Any] = {"id": "t0001", "values": {}, "seed": 0}


class Held(Cohort):
    """Students wait after each report until they are released."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        space = {"optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.1]}}
        spec = parse_sweep({"config": "distill.py", "space": space, "search": {"type": "grid"}}, "test")
        self.released = threading.Event()
        super().__init__(
            Study(LoadedConfig.of(tiny.load("distill", iters=4, val_interval=1)), spec, str(folder), [{}], False)
        )

    def _pass_on(self, name: str, event: tuple[str, Any]) -> None:
        super()._pass_on(name, event)
        self.released.wait()


def iterations(events: list[tuple[str, Any]]) -> list[int]:
    return [report["iter"] for what, report in events if what == REPORTED]


def test_a_trial_whose_process_died_is_followed_on(tiny: Tiny, tmp_path: Path) -> None:
    """The student trains once, from its first iteration to its last, whoever listens."""
    cohort = Held(tiny, tmp_path)
    died = cohort.run(TRIAL)
    first = next(died)
    with ThreadPoolExecutor() as pool:
        following = pool.submit(lambda: list(cohort.run(TRIAL)))
        assert list(died) == [TAKEN_OVER]
        cohort.released.set()
        followed = following.result()
    assert iterations([first]) == [1] and iterations(followed) == [2, 3, 4] and followed[-1] == (FINISHED, None)
    record = load_record(tmp_path / TRIALS / TRIAL["id"])
    assert record is not None and (record.status, record.attempts) == ("finished", 1)


def test_a_stopped_trial_can_be_run_again(tiny: Tiny, tmp_path: Path) -> None:
    cohort = Held(tiny, tmp_path)
    stopped = cohort.run(TRIAL)
    next(stopped)
    cohort.stop(TRIAL["id"])
    assert list(stopped) == [(FINISHED, "stopped")]
    cohort.released.set()
    assert iterations(list(cohort.run(TRIAL))) == [2, 3, 4]
