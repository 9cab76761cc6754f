"""Runs the short trainings in a Ray Train worker group: each arm is a student on all of its workers, as in a cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mmengine.config import Config

from rdistill.core.stopping import StopRequest
from rdistill.core.storage import open_work_dir
from rdistill.schemas.headroom import Headroom
from rdistill.schemas.run import Scores
from rdistill.sweeps.headroom.measure import INNER, Request, measure
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.ray_train import Resources, work_in_group


class NotePrinter(Silent):
    """A run listener that prints notes as lines for the user."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.noted = notify  # type: ignore[method-assign, assignment]


def measure_in_group(
    where: str | Path,
    base: Config,
    request: Request,
    teachers: Sequence[Scores],
    resources: Resources,
    *,
    trust_checkpoint: bool = False,
    stop: StopRequest | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Headroom:
    """Like :func:`.measure.measure`, but in a worker group that divides each batch among its workers.

    Args:
        where: the work dir, an absolute path or a URI; all workers must be able to read it.
        resources: resources of the group.
        notify: prints a line for the user.
        base, request, teachers, trust_checkpoint, stop: the same as for :func:`.measure.measure`.

    Raises:
        Stopped: ``stop`` was set.
        UserError, RunError: see :func:`rdistill.training.ray_train.work_in_group`.
    """
    work = partial(_measure, str(where), base, request, teachers, trust_checkpoint)
    return work_in_group(  # type: ignore[no-any-return]
        work, base, where, resources, stop=stop, listener=NotePrinter(notify)
    )


def _measure(
    where: str,
    base: Config,
    request: Request,
    teachers: Sequence[Scores],
    trust_checkpoint: bool,
    listener: RunListener,
    stop: StopRequest,
) -> Headroom:
    """The function that each worker of the group calls."""
    with open_work_dir(where, *INNER) as here:
        return measure(here, base, request, teachers, trust_checkpoint=trust_checkpoint, stop=stop, listener=listener)
