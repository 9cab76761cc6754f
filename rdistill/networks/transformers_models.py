"""Models of Hugging Face transformers: segmentation models, which return logits, and encoders, which return maps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rdistill.core.errors import UserError, error_line
from rdistill.core.words import listed
from rdistill.models.pretrained import is_trusted
from rdistill.models.quiet_mmseg import MODELS
from rdistill.networks.patches import fitted, folded, in_proportion, resized, without_padding
from rdistill.schemas.mappings import PlainConfig
from rdistill.teachers.folders import class_names

MIN_PROBABILITY = 1e-6  # lower bound of the class probabilities of a mask model
TASK = "the task is semantic"  # the text input of OneFormer that selects its task
# Layers that maps and logits do not depend on; checkpoints of other tasks may not have them.
UNUSED = ("pooler", "vision_model.head.", "head.", "criterion")
SQUARE = ("dpt",)  # models whose head takes square images only
MAX_LISTED = 5  # weights in a message
NEEDS_CODE = "needs the Python code that its folder or the hub holds; if you trust it, pass --trust-checkpoint"


@MODELS.register_module()
class TransformersNetwork(nn.Module):
    """Wraps the network as a backbone; its layers are named ``backbone.network.LAYER``.

    A segmentation model returns logits. An encoder returns a list of maps, ``backbone[0]`` to ``backbone[-1]``: those
    of its embeddings and of each of its layers (or stages), and as the last one its normalised final output.

    Args:
        folder: a folder written by ``save_pretrained``; nothing is downloaded, and weights are loaded safely.
        architecture: the name of the model's class.
        gives: the kind of output: ``logits``, ``masks`` with a class each, or ``features``.
        fit: how images get sides that are multiples of the patch size, see
            :func:`rdistill.networks.patches.fitted`.

    Raises:
        UserError: transformers is not installed, does not know the model, or the weights do not fit it.
    """

    def __init__(self, folder: str, architecture: str, gives: str, fit: str = "resize") -> None:
        super().__init__()
        self.gives, self.fit, self.notes = gives, fit, list[str]()
        if not Path(folder).is_dir():
            raise UserError(f"no such folder {folder}: the model of transformers must lie there on every node")
        import transformers  # if it is missing, build_segmentor tells how to install it

        with quiet(transformers):
            network = _load(transformers, folder, architecture, gives, self.notes)
            task = _task_of(transformers, folder, network) if "OneFormer" in architecture else None
        self.class_names = class_names(network.config.to_dict()) if gives != "features" else ()
        # Only the image part of a model of images and text is kept.
        self.network: nn.Module = getattr(network, "vision_model", network) if gives == "features" else network
        self.register_buffer("task", task, persistent=False)
        config = self.network.config
        self.patch, self.fixed = _patch_of(config), _fixed_size_of(config)
        self.square = config.model_type in SQUARE
        accepted = inspect.signature(self.network.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}

    def forward(self, images_nchw: Tensor) -> Any:
        """Logits, N x classes x h x w; or for an encoder, the list of its maps, N x C x h x w each."""
        size = images_nchw.shape[-2:]
        one_size = self.fixed or ((max(size),) * 2 if self.square and size[0] != size[1] else None)
        inputs = images_nchw if one_size is None else resized(images_nchw, one_size)
        before = inputs.shape[-2:]
        inputs = fitted(inputs, self.patch, self.fit)
        padded = inputs.shape[-2:] if self.fit == "pad" else before
        maps = self._maps(inputs) if self.gives == "features" else [self._logits(inputs)]
        maps = [without_padding(each, before, padded) for each in maps]
        maps = maps if one_size is None else [in_proportion(each, size) for each in maps]
        return maps if self.gives == "features" else maps[0]

    def _logits(self, inputs: Tensor) -> Tensor:
        options: PlainConfig = dict(self._options)
        if self.task is not None:
            options["task_inputs"] = self.task.expand(len(inputs), -1)
        outputs = self.network(pixel_values=inputs, **options)
        logits: Tensor = outputs.logits if self.gives == "logits" else class_posterior(outputs)
        return logits

    def _maps(self, inputs: Tensor) -> list[Tensor]:
        outputs = self.network(pixel_values=inputs, output_hidden_states=True, **self._options)
        grid = inputs.shape[-2] // self.patch, inputs.shape[-1] // self.patch
        states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states or ()
        return [each if each.ndim == 4 else folded(each, grid) for each in (*states, _last(outputs, states))]


def class_posterior(outputs: Any) -> Tensor:
    """The log-probability of each class at each pixel, N x classes x h x w, from masks with a class each.

    As in MaskFormer (Cheng et al., NeurIPS 2021), it is the sum over masks of the softmax class probability times the
    sigmoid of the mask, without the class "no object"; the result is normalised over the classes.
    """
    classes = outputs.class_queries_logits.float().softmax(dim=-1)[..., :-1]
    masks = outputs.masks_queries_logits.float().sigmoid()
    mass = torch.einsum("nqc,nqhw->nchw", classes, masks)
    probability = mass / mass.sum(dim=1, keepdim=True).clamp_min(MIN_PROBABILITY)
    return probability.clamp_min(MIN_PROBABILITY).log()


def _last(outputs: Any, states: Any) -> Tensor:
    last: Tensor = outputs.last_hidden_state
    if last.ndim == 3 and states and states[-1].ndim == 4 and last.shape[1] == states[-1][0, 0].numel():
        return folded(last, (states[-1].shape[-2], states[-1].shape[-1]))  # stages that merge patches
    return last


def _load(transformers: Any, folder: str, architecture: str, gives: str, notes: list[str]) -> Any:
    trust = is_trusted()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
        kind = transformers.AutoModel if gives == "features" else getattr(transformers, architecture, None)
        with_code = (transformers.AutoModel, transformers.AutoModelForSemanticSegmentation)
        if kind is None and with_code[1].__name__ in (getattr(config, "auto_map", None) or {}):
            if not trust:
                raise UserError(f"{folder}: transformers cannot load it: {NEEDS_CODE}")
            kind = with_code[1]  # the class is in the code of the folder
        if kind is None:
            raise UserError(f"{folder}: this transformers ({transformers.__version__}) has no {architecture}")
        if gives == "features" and hasattr(config, "vision_config"):
            kind = getattr(transformers, type(config).__name__.replace("Config", "VisionModel"), kind)
        own_code = {"trust_remote_code": trust} if kind in with_code else {}
        network, info = kind.from_pretrained(
            folder, local_files_only=True, weights_only=not trust, dtype=torch.float32, output_loading_info=True,
            ignore_mismatched_sizes=True, **own_code,
        )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # transformers raises all kinds of errors, from OSError to KeyError
        text = error_line(error)
        if "trust_remote_code" in text or "execute" in text:
            text = NEEDS_CODE
        raise UserError(f"{folder}: transformers cannot load it: {text}") from error
    _require_fitting(folder, type(network).__name__, info, notes, strict=gives != "features")
    return network


def _require_fitting(folder: str, model: str, info: Any, notes: list[str], *, strict: bool) -> None:
    """Raises UserError if the weights do not fit the model.

    Weights of layers that are not used may be missing. The file of an encoder may have more weights, such as those of a
    head, which are noted in ``notes`` and not loaded.
    """
    missing = sorted(name for name in info["missing_keys"] if not _is_unused(name))
    misshapen = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"])
    unexpected = sorted(name for name in info["unexpected_keys"] if not _is_unused(name))
    problems = {"missing": missing, "misshapen": misshapen, "unexpected": unexpected if strict else []}
    if any(problems.values()):
        parts = [f"{len(names)} {what}: {listed(names, MAX_LISTED)}" for what, names in problems.items() if names]
        raise UserError(f"{folder}: its weights do not fit {model}: {'; '.join(parts)}")
    if unexpected:
        left_out = listed(unexpected, MAX_LISTED)
        notes.append(f"{len(unexpected)} weights of {folder} are not {model}'s, and left out: {left_out}")


def _is_unused(name: str) -> bool:
    return any(part in f".{name}" if not part.endswith(".") else name.startswith(part) for part in UNUSED)


def _task_of(transformers: Any, folder: str, network: Any) -> Tensor:
    """The token ids of the text that selects OneFormer's task, 1 x length."""
    length = int(network.config.task_seq_len)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokens = tokenizer([TASK], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    except Exception as error:
        raise UserError(f"{folder}: has no tokenizer, which OneFormer's task needs: {error_line(error)}") from error
    return tokens["input_ids"] * tokens["attention_mask"]  # type: ignore[no-any-return]


def _patch_of(config: Any) -> int:
    """The patch size in pixels: the sides of an image must be multiples of it."""
    for section in (config, getattr(config, "backbone_config", None)):
        patch = getattr(section, "patch_size", None)
        if patch is not None:
            return int(patch) if isinstance(patch, int) else int(max(patch))
    return 1


def _fixed_size_of(config: Any) -> tuple[int, int] | None:
    """The height and width, in pixels, of a model with position embeddings for a single size; None for other models."""
    if config.model_type != "eomt":
        return None
    size = config.image_size
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Within the context, transformers prints no progress bars and no tables of weights; this module reports these."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
