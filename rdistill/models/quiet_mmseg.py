"""Imports what rdistill uses of mmseg, without its output.

OneDL's mmseg prints to standard output when it is imported, which would spoil the output of ``eval --json``. mmengine's
default logger, which is used outside of runs, would print the optimizer's options of each parameter; only its warnings
are kept.
"""

import contextlib
import io
import logging
import warnings

from mmengine.logging import MMLogger

from rdistill._compat.torchvision import import_for_timm

import_for_timm()
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmseg.models  # registers the models
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations
    from mmseg.evaluation.metrics import IoUMetric
    from mmseg.models import decode_heads, losses
    from mmseg.models.backbones import MSCAN, MixVisionTransformer
    from mmseg.models.decode_heads import DAHead, DDRHead, EncHead, IterativeDecodeHead, PIDHead, PointHead
    from mmseg.models.losses import CrossEntropyLoss
    from mmseg.models.utils import Upsample
    from mmseg.registry import DATASETS, METRICS, MODELS, TRANSFORMS

# Set the level of the logger, too: otherwise each module of a model makes a record that the handlers then drop.
MMLogger.get_instance("mmengine", log_level=logging.WARNING).setLevel(logging.WARNING)

__all__ = [
    "DATASETS", "METRICS", "MODELS", "MSCAN", "TRANSFORMS", "BaseSegDataset", "CrossEntropyLoss", "DAHead", "DDRHead",
    "EncHead", "IoUMetric", "IterativeDecodeHead", "LoadAnnotations", "MixVisionTransformer", "PIDHead", "PointHead",
    "Upsample", "decode_heads", "losses", "mmseg",
]  # fmt: skip
