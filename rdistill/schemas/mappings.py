"""Mappings whose keys another package or the user chooses, so that no type can list them.

The code that reads such a mapping checks the keys that it needs: :mod:`rdistill.config` validates sections of a config,
and :mod:`rdistill.models.checkpoint` files of weights.
"""

from __future__ import annotations

from typing import Any

ConfigValues = dict[str, Any]  # config key -> value of any kind, as `--set` and a sweep's space write them
PlainConfig = dict[str, Any]  # an mmengine config, or a part of it such as its `model`, as a plain dict
FileOfWeights = dict[str, Any]  # the result of torch.load: a checkpoint of mmengine or of a model zoo, or weights alone
Weights = dict[str, Any]  # name -> tensor, as in a state dict; files of other programs may have values of other types
LossParams = dict[str, Any]  # a distillation loss's own parameters, by the names of its declaration
Losses = dict[str, Any]  # the result of a segmentor's `loss`: name -> tensor or list of tensors
DataInfo = dict[str, Any]  # the dict about one image in mmcv's transforms: `img_path`, `img`, `gt_seg_map`, ...
SweepFile = dict[str, Any]  # a sweep file's content, with the keys of rdistill.sweeps.study.spec.SweepSpec
LogLine = dict[str, Any]  # one line of mmengine's scalars.json: `step`, and a number for each name that was logged
TuneResult = dict[str, Any]  # a trial's result in Ray Tune: the keys that the trial reported, and Tune's own keys
Arguments = dict[str, Any]  # keyword arguments of a function that takes many, of this package or another
Params = dict[str, Any]  # key of a search space -> value in Optuna's form, in which lists are JSON texts
