"""Builds the optimizer of a run; training, the checks and the step profile all use this one function."""

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
    """Builds the config's optimizer for the student as mmseg would, and adds the losses' adapters as one more group.

    The optimizer constructor is given the student alone, so that constructors which tell layers apart by name, such
    as layer-wise decay, see the names they know.

    Raises:
        UserError: an unknown type, a wrong argument, or a mixed precision that this machine does not support.
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
    """Sends mmengine's log to the run's log file only: it logs the options of each parameter, hundreds of lines."""
    logger = MMLogger.get_current_instance()
    handlers = logger.handlers
    logger.handlers = [handler for handler in handlers if isinstance(handler, logging.FileHandler)]
    try:
        yield
    finally:
        logger.handlers = handlers
