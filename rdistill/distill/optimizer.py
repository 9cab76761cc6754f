"""The optimizer of a run, built in one place: for training, for the check and for the step that is measured."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIMIZERS

from rdistill.core.errors import UserError, blaming, did_you_mean
from rdistill.distill.distiller import Distiller
from rdistill.models.precision import wrapper_config


def build_optimizer(cfg: Config, distiller: Distiller) -> OptimWrapper:
    """The config's optimizer, made for the student as mmseg would; the losses' adapters join it as a group.

    A constructor that tells layers apart by name, such as layer-wise decay, so finds the names it knows.

    Raises:
        UserError: an unknown type, a wrong argument, or mixed precision that this machine has not.
    """
    kind = cfg.optim_wrapper.get("optimizer", {}).get("type")
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise UserError(
            f"optim_wrapper.optimizer.type: no optimizer {kind!r}{did_you_mean(kind, OPTIMIZERS.module_dict)}"
        )
    with blaming("optim_wrapper"), _without_console():
        wrapper = build_optim_wrapper(distiller.student, wrapper_config(copy.deepcopy(cfg.optim_wrapper)))
    adapters = list(distiller.terms.parameters())
    if adapters:
        wrapper.optimizer.add_param_group({"params": adapters})
    return wrapper


@contextmanager
def _without_console() -> Iterator[None]:
    """mmengine says what options each parameter has, in hundreds of lines: for the log file of the run alone."""
    logger = MMLogger.get_current_instance()
    handlers = logger.handlers
    logger.handlers = [handler for handler in handlers if isinstance(handler, logging.FileHandler)]
    try:
        yield
    finally:
        logger.handlers = handlers
