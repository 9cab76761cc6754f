"""The schedulers: what ends trials of a sweep early, each one declaration beside its function.

A scheduler is a function that builds a trial scheduler of Ray Tune, under the decorator :func:`register`;
:data:`SCHEDULERS` holds rdistill's own (:mod:`.own`) and those of users. What holds for all of them, such as that no
baseline is stopped, is in :mod:`rdistill.sweeps.search.searchers`. Imports :mod:`rdistill.registration` and
:mod:`rdistill.core` alone; Ray is imported when a scheduler is built. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.registration.parameters import Choice, Number, Switch, Text, Whole
from rdistill.schedulers.registry import SCHEDULERS, SchedulerInfo, register

from . import own  # isort: skip  # noqa: F401

__all__ = ["SCHEDULERS", "Choice", "Number", "SchedulerInfo", "Switch", "Text", "Whole", "register"]
