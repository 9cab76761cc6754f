"""Restores what a call of the library changes in its caller's process, such as a notebook."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from rdistill.core.environment import keep_to_the_work_dir

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def leaves_process_as_it_was(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorates a function of the public API so that its changes to the process end with the call."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with process_state_kept():
            keep_to_the_work_dir()
            return function(*args, **kwargs)

    return call


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Sets mmengine's default scope to mmseg within the context, and restores the process's state afterwards.

    It restores the environment variables, the global random generators of Python, numpy and torch, the numbers of
    threads, the start method of processes, cuDNN's mode and the default scope: a run sets variables for wandb, MLflow
    and Ray and seeds the generators, and mmengine's runner changes the rest. Without the scope, mmseg's modules would
    not be found where the caller uses another OpenMMLab package.

    Imported modules, and what they have registered, stay.
    """
    # These imports are heavy, and the command line imports this module before it knows whether it needs torch.
    import cv2
    import torch
    from mmengine.registry import DefaultScope

    from rdistill._compat.torch import cudnn_mode, set_cudnn_mode
    from rdistill.data.random_state import random_state, set_random_state

    environment, generators = dict(os.environ), random_state()
    threads, image_threads = torch.get_num_threads(), cv2.getNumThreads()
    start_method = multiprocessing.get_start_method(allow_none=True)
    cudnn = cudnn_mode()
    try:
        with DefaultScope.overwrite_default_scope("mmseg"):
            yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        set_random_state(generators)
        torch.set_num_threads(threads)
        cv2.setNumThreads(image_threads)
        multiprocessing.set_start_method(start_method, force=True)
        set_cudnn_mode(*cudnn)
