"""Networks of other libraries in a backbone's place: what they give becomes what a teacher gives, maps and logits.

Each is registered with mmseg, and imports its library when it is built and no sooner. Imports :mod:`rdistill.models`,
:mod:`rdistill.teachers` and :mod:`rdistill.core`. Begin with :mod:`rdistill.networks.transformers_models`.
"""

from rdistill.models import module_network
from rdistill.networks import onnx_model, timm_models, transformers_models

__all__ = ["module_network", "onnx_model", "timm_models", "transformers_models"]
