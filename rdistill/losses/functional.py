"""Distillation losses as pure functions: tensors in, one scalar out. All of them under one name, ``functional.kl``.

What holds for all of them:

- ``student`` and ``teacher`` are N x C x H x W and of one size (:mod:`rdistill.losses.modules` adapts them);
  no gradient reaches the teacher;
- they compute in float32 (float64 stays float64), autocast switched off inside;
- the value does not depend on the batch size or the resolution: every reduction is a mean over images and
  over positions, or a sum over a distribution. Where that departs from the authors' reduction, the docstring
  says so and what the authors' weight becomes;
- ``mask`` is N x H x W bool, True = valid, at the tensors' resolution. Masked pixels are replaced before
  anything is computed, so that neither their values (inf, NaN) nor their gradients exist; with every pixel
  masked the loss is a zero that is still connected to the graph;
- no absolute size counts: what is compared by direction or correlation reads the same at any scale of its input,
  and "nearly zero" is measured against the rest of that input;
- nothing waits for the device: no python branch looks at a tensor's value;
- with several workers, value (their mean) and gradient (as DDP averages it) are those of one worker with the whole
  batch: :mod:`rdistill.distributed.collectives`;
- mismatched shapes raise ``ValueError``.
"""

from rdistill.losses.attention import *  # noqa: F403
from rdistill.losses.boundaries import *  # noqa: F403
from rdistill.losses.common import *  # noqa: F403
from rdistill.losses.contrast import *  # noqa: F403
from rdistill.losses.distributions import *  # noqa: F403
from rdistill.losses.elements import *  # noqa: F403
from rdistill.losses.moments import *  # noqa: F403
from rdistill.losses.relations import *  # noqa: F403
