"""rdistill: which way of distilling this teacher into this student works best, and by how much?

The Python API: :func:`train`, :func:`evaluate`, :func:`sweep`, :func:`headroom`, :func:`load_config`,
:func:`load_results`; see docs/api.md. What lives in which folder is in docs/architecture.md. Begin with
:mod:`rdistill.cli` (what each command calls), then :mod:`rdistill.training.run` (``train``).
"""

from importlib import import_module
from typing import Any

from rdistill._compat import transformers
from rdistill.api import SweepResult, evaluate, headroom, load_config, load_results, sweep, train
from rdistill.core.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "SweepResult",
    "UserError",
    "__version__",
    "evaluate",
    "headroom",
    "load_config",
    "load_results",
    "sweep",
    "train",
]

EXTENSIONS = (
    "layouts",
    "losses",
    "schedulers",
    "searchers",
    "teachers",
)  # each of these folders has a `register` of its own


transformers.import_at_its_use()


def __getattr__(name: str) -> Any:
    """Imports ``rdistill.losses`` and the other extension folders when they are first used."""
    if name in EXTENSIONS:
        return import_module(f"rdistill.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
