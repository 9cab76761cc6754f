"""Open mappings: their keys are another package's or the user's, so that no type of ours can list them.

What rdistill itself reads of one by key, its readers check: a section of a config is validated by
:mod:`rdistill.config`, a file of weights by :mod:`rdistill.models.checkpoint`.
"""

from __future__ import annotations

from typing import Any

ConfigValues = dict[str, Any]  # config key -> value of any kind, as `--set` and a sweep's space write them
PlainConfig = dict[str, Any]  # a part of an mmengine config as a plain dict, such as its `model`; or the whole of it
FileOfWeights = dict[str, Any]  # what torch.load gives: mmengine's checkpoint, a model zoo's, or weights alone
Weights = dict[str, Any]  # name -> tensor, as in a state dict; in files of others also what is no tensor
LossParams = dict[str, Any]  # a distillation loss's own parameters, by the names of its declaration
Losses = dict[str, Any]  # what a segmentor's `loss` returns: name -> tensor, or a list of them
DataInfo = dict[str, Any]  # one image's, as mmcv's transforms pass it on: `img_path`, `img`, `gt_seg_map`, ...
SweepFile = dict[str, Any]  # a sweep file's content, with the keys of rdistill.sweeps.study.spec.SweepSpec
LogLine = dict[str, Any]  # one line of mmengine's scalars.json: `step`, and a number for each name that was logged
TuneResult = dict[str, Any]  # what Ray Tune passes on of a trial: what it reported, and Tune's own keys
Arguments = dict[str, Any]  # keyword arguments of a function that takes many, of this package or another
Params = dict[str, Any]  # key of a search space -> value as Optuna has it: lists and the like are JSON texts
