"""Networks of other libraries, wrapped as backbones of mmseg that output feature maps or logits.

Each of them is registered with mmseg, and imports its library only when it is built. Imports :mod:`rdistill.models`,
:mod:`rdistill.teachers` and :mod:`rdistill.core`. Begin with :mod:`rdistill.networks.transformers_models`.
"""

from rdistill.models import module_network
from rdistill.networks import onnx_model, timm_models, transformers_models

__all__ = ["module_network", "onnx_model", "timm_models", "transformers_models"]
