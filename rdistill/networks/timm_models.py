"""Models of timm: encoders that return a map for each of their stages or blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rdistill._compat.torchvision import import_torchvision
from rdistill.core.errors import UserError, error_line
from rdistill.models.checkpoint import load_file
from rdistill.models.quiet_mmseg import MODELS
from rdistill.networks.patches import fitted, folded, without_padding
from rdistill.schemas.mappings import PlainConfig
from rdistill.teachers.folders import read_settings

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # names of weight files, in the order of preference
# Options with which transformers of timm accept images of any size. They are tried in turn, because other models do not
# accept these options.
ANY_SIZE: tuple[PlainConfig, ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
MAX_LISTED = 5  # weights in a message


@MODELS.register_module()
class TimmNetwork(nn.Module):
    """Wraps the network as a backbone that returns a list of maps; its layers are named ``backbone.network.LAYER``.

    ``backbone[0]`` and so on are the maps of its stages or blocks. ``backbone[-1]`` is the final output, which a
    transformer has normalised. Class tokens and registers are dropped.

    Args:
        folder: a folder with ``config.json`` and weights, as written by ``timm.models.save_for_hf`` or from the hub.
        fit: how images get sides that are multiples of the patch size, see
            :func:`rdistill.networks.patches.fitted`.

    Raises:
        UserError: timm is not installed or does not load, does not know the model, or the weights do not fit it.
    """

    def __init__(self, folder: str, fit: str = "resize") -> None:
        super().__init__()
        self.fit = fit
        if not Path(folder).is_dir():
            raise UserError(f"no such folder {folder}: the model of timm must lie there on every node")
        settings = read_settings(Path(folder))
        self.network = _built(folder, settings)
        _load(self.network, Path(folder))
        if not hasattr(self.network, "forward_intermediates"):
            raise UserError(
                f"{folder}: timm's {settings.get('architecture')} gives no maps of its stages (forward_intermediates); "
                f"take it by type='module'"
            )
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", 1)
        self.patch = int(patch if isinstance(patch, int) else max(patch))

    def forward(self, images_nchw: Tensor) -> list[Tensor]:
        """The maps, N x C x h x w each."""
        inputs = fitted(images_nchw, self.patch, self.fit)
        last, maps = self.network.forward_intermediates(inputs)  # type: ignore[operator]
        if last.ndim == 3:
            last = folded(last, (inputs.shape[-2] // self.patch, inputs.shape[-1] // self.patch))
        elif last.shape[1] != maps[-1].shape[1] and last.shape[-1] == maps[-1].shape[1]:
            last = last.permute(0, 3, 1, 2)
        before = images_nchw.shape[-2:]
        padded = inputs.shape[-2:] if self.fit == "pad" else before
        return [without_padding(each, before, padded) for each in (*maps, last)]


def _built(folder: str, settings: Any) -> nn.Module:
    try:
        import_torchvision()
        import timm
    except ImportError:
        raise UserError("a teacher of timm needs it: pip install 'rdistill[teachers]'") from None
    except Exception as error:  # a torchvision that was built for another torch may raise any error
        raise UserError(
            f"timm does not load here ({error_line(error)}): its torchvision must be built for this torch; install "
            f"both from the same index"
        ) from None
    name, options = str(settings.get("architecture")), dict(settings.get("model_args") or {})
    if not timm.is_model(name):
        raise UserError(f"{folder}: this timm ({timm.__version__}) has no model {name}")
    if settings.get("num_classes") is not None:
        options.setdefault("num_classes", settings["num_classes"])
    for any_size in ANY_SIZE:
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **{**options, **any_size})
            return model
        except TypeError as error:
            if not any_size:
                raise UserError(f"{folder}: timm cannot build {name}: {error_line(error)}") from error
    raise AssertionError("the last attempt has no options, and returns or raises")


def _load(model: nn.Module, folder: Path) -> None:
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: has no weights, {' or '.join(WEIGHTS)}")
    if file.suffix == ".safetensors":
        from timm.models import load_state_dict

        weights = load_state_dict(str(file))
    else:
        weights = load_file(file)
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "misshapen": [name for name in own if name in weights and weights[name].shape != own[name].shape],
    }
    if any(problems.values()):
        parts = [f"{len(names)} {what}: {', '.join(names[:MAX_LISTED])}" for what, names in problems.items() if names]
        raise UserError(f"{file}: does not fit timm's {type(model).__name__}: {'; '.join(parts)}")
    model.load_state_dict(weights)
