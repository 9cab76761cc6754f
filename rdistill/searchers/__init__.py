"""The searchers: what chooses the configurations of a sweep, each one declaration beside its function.

A searcher is a function that builds a sampler of Optuna for a space, under the decorator :func:`register`;
:data:`SEARCHERS` holds rdistill's own (:mod:`.own`) and those of users, and the sweep file's ``search`` section, its
checks and the search itself read them there. Imports :mod:`rdistill.registration` and :mod:`rdistill.core` alone;
Optuna is imported when a sampler is built. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.registration.parameters import Choice, Number, Switch, Text, Whole
from rdistill.searchers.registry import SEARCHERS, SearcherInfo, register

from . import own  # isort: skip  # noqa: F401

__all__ = ["SEARCHERS", "Choice", "Number", "SearcherInfo", "Switch", "Text", "Whole", "register"]
