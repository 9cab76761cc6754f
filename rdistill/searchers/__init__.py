"""The searchers, which choose the configurations of a sweep.

A searcher is a function that builds an Optuna sampler for a search space; the decorator :func:`register` declares it.
:data:`SEARCHERS` holds rdistill's own searchers (:mod:`.own`) and those of users, for the ``search`` section of the
sweep file, its checks and the search. This folder imports :mod:`rdistill.registration` and :mod:`rdistill.core` alone;
Optuna is imported when a sampler is built. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.registration.parameters import Choice, Number, Switch, Text, Whole
from rdistill.searchers.registry import SEARCHERS, SearcherInfo, register

from . import own  # isort: skip  # noqa: F401

__all__ = ["SEARCHERS", "Choice", "Number", "SearcherInfo", "Switch", "Text", "Whole", "register"]
