"""The distillation losses as pure functions in one module, such as ``functional.kl``: tensors in, one scalar out.

All of them follow these rules:

- ``student`` and ``teacher`` are N x C x H x W of equal sizes (:mod:`rdistill.losses.modules` adapts them). No
  gradient reaches the teacher.
- They compute in float32 (float64 stays float64), with autocast switched off.
- The value does not depend on the batch size or the resolution: every reduction is a mean over images and
  positions, or a sum over a distribution. If the authors use another reduction, the docstring says so, and gives the
  weight that corresponds to the authors' weight.
- ``mask`` is N x H x W bool, True = valid, at the resolution of the tensors. Masked pixels are replaced before
  anything is computed, so that neither their values (inf, NaN) nor their gradients matter. If every pixel is masked,
  the loss is 0 and still connected to the graph.
- The absolute scale does not matter: a comparison of directions or correlations gives the same value at any scale of
  its input, and "nearly zero" is relative to the rest of that input.
- Nothing waits for the device: no Python branch reads the value of a tensor.
- With several workers, the mean of their values and the gradient that DDP averages are those of a single worker with
  the whole batch, see :mod:`rdistill.distributed.collectives`.
- Shapes that do not fit raise ``ValueError``.
"""

from rdistill.losses.attention import *  # noqa: F403
from rdistill.losses.boundaries import *  # noqa: F403
from rdistill.losses.common import *  # noqa: F403
from rdistill.losses.contrast import *  # noqa: F403
from rdistill.losses.distributions import *  # noqa: F403
from rdistill.losses.elements import *  # noqa: F403
from rdistill.losses.moments import *  # noqa: F403
from rdistill.losses.relations import *  # noqa: F403
