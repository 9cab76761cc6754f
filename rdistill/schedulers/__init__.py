"""The schedulers, which end trials of a sweep early.

A scheduler is a function that builds a trial scheduler of Ray Tune; the decorator :func:`register` declares it.
:data:`SCHEDULERS` holds rdistill's own schedulers (:mod:`.own`) and those of users. Rules for all of them, for example
that the configured baseline is never stopped, are in :mod:`rdistill.sweeps.search.searchers`.

This folder imports :mod:`rdistill.registration` and :mod:`rdistill.core` alone; Ray is imported when a scheduler is
built. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.registration.parameters import Choice, Number, Switch, Text, Whole
from rdistill.schedulers.registry import SCHEDULERS, SchedulerInfo, register

from . import own  # isort: skip  # noqa: F401

__all__ = ["SCHEDULERS", "Choice", "Number", "SchedulerInfo", "Switch", "Text", "Whole", "register"]
