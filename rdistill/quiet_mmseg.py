"""What rdistill takes from mmseg, imported without its chatter.

OneDL's mmseg prints to standard output when it is imported, which would end up in ``eval --json``.
"""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmseg.models  # registers the models
    from mmseg.datasets import BaseSegDataset
    from mmseg.evaluation.metrics import IoUMetric
    from mmseg.models.losses import CrossEntropyLoss
    from mmseg.registry import DATASETS, METRICS, MODELS

__all__ = ["DATASETS", "METRICS", "MODELS", "BaseSegDataset", "CrossEntropyLoss", "IoUMetric", "mmseg"]
