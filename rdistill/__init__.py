"""rdistill: which way of distilling this teacher into this student works best, and by how much?

The Python API: :func:`train`, :func:`evaluate`, :func:`sweep`, :func:`headroom`, :func:`load_config`,
:func:`load_results`; see docs/api.md.
"""

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
