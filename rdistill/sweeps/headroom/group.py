"""The short trainings in a Ray Train worker group: each arm is a student on all of its workers, as in a cohort."""

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


class Saying(Silent):
    """A listener for which notes are lines for the user."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.noted = say  # type: ignore[method-assign, assignment]


def measure_in_group(
    where: str | Path,
    base: Config,
    request: Request,
    teachers: Sequence[Scores],
    resources: Resources,
    *,
    trust_checkpoint: bool = False,
    stop: StopRequest | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Headroom:
    """As :func:`.measure.measure`, by a group of workers among which each batch is divided.

    Args:
        where: the work dir, absolute, or a URI. What is written there is there for all workers.
        resources: of the group.
        base, request, teachers, trust_checkpoint, stop, say: as there.

    Raises:
        Stopped: ``stop`` was set.
        UserError, RunError: as :func:`rdistill.training.ray_train.work_in_group`.
    """
    work = partial(_measure, str(where), base, request, teachers, trust_checkpoint)
    return work_in_group(  # type: ignore[no-any-return]
        work, base, where, resources, stop=stop, listener=Saying(say)
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
    """What each worker does."""
    with open_work_dir(where, *INNER) as here:
        return measure(here, base, request, teachers, trust_checkpoint=trust_checkpoint, stop=stop, listener=listener)
