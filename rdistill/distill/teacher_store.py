"""The store of views: a teacher's outputs for few augmented versions of each image, kept for every later run.

Dataset reinforcement (Faghri et al., ICCV 2023). An entry is found by the teacher's weights, how it is computed, and
the pixels that it is given, so that it cannot be mistaken for another's; a checksum stands before its content. Files
are shared by all processes that see the folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rdistill.config.distill_spec import StoreSpec
from rdistill.core.errors import UserError
from rdistill.core.files import to_json

FORMAT = 1  # version of files and keys; another makes the old ones unknown
DIGEST = 16  # bytes
LEVELS = 255  # steps that 8 bits have

Compute = Callable[[Tensor], dict[str, Tensor]]
_WEIGHTS: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()


def note_weights(model: nn.Module) -> None:
    """Remembers the digest of a model's weights as they are now: a forward pass made cheap folds them together."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    _WEIGHTS[model] = digest.digest()


class TeacherStore:
    """The kept outputs of one teacher.

    On a CPU the teacher sees images one at a time: so its output for one does not depend, not even in the last bit, on
    which others were kept already.

    Args:
        model: of the teacher, see :func:`note_weights`.
        spec: what is kept, and in how many bits.
        described: what an output depends on beside weights and pixels: the model's config, its forward.
        folder: of files; made where it is missing.

    Attributes:
        images, computed, damaged: numbers of images seen, of those that the teacher ran on, of entries that could not
            be read.
        notes: what a user should know, since they were last taken.
    """

    def __init__(self, model: nn.Module, spec: StoreSpec, described: str, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self.images = self.computed = self.damaged = 0
        self.notes: list[str] = []
        setting = f"{FORMAT} {described} {spec.bits}".encode()
        self._own = folder / hashlib.blake2b(_WEIGHTS[model] + setting, digest_size=DIGEST).hexdigest()
        self._number = itertools.count()
        self._writes = True

    def __call__(
        self, inputs_nchw: Tensor, views: Sequence[str | None], names: Sequence[str], compute: Compute
    ) -> dict[str, Tensor]:
        """As ``compute``, which is given only what is not kept.

        Args:
            inputs_nchw: images as the student's preprocessor normalised them.
            views: the digest of each image's pixels, see :func:`rdistill.data.datasets.pixel_digest`.
            names: of the outputs that ``compute`` returns.

        Raises:
            UserError: a sample without a view, or an output that is not one for each image.
        """
        if None in views:
            raise UserError(
                "distill.store: a training image came without its view; the dataset must give mmseg's `inputs` and "
                "`data_samples` (PackSegInputs), or leave distill.store out"
            )
        self.images += len(views)
        surroundings = f"{tuple(inputs_nchw.shape[1:])} {_precision(inputs_nchw.device.type)}"
        keys = [{name: _key(f"{view} {surroundings} {name}") for name in names} for view in views]
        kept = [self._read(of_image) for of_image in keys]
        missing = [index for index, answer in enumerate(kept) if answer is None]
        self.computed += len(missing)
        together = [missing] if inputs_nchw.is_cuda else [[index] for index in missing]
        for indices in filter(None, together):
            # What is kept is what is used, in the first pass as in every later one.
            for index, answer in zip(indices, self._answers(inputs_nchw[indices], names, compute), strict=True):
                kept[index] = {name: self._write(keys[index][name], value) for name, value in answer.items()}
        answers = [answer for answer in kept if answer is not None]
        return {name: torch.cat([answer[name] for answer in answers]).to(inputs_nchw.device) for name in names}

    def _answers(self, images_nchw: Tensor, names: Sequence[str], compute: Compute) -> list[dict[str, Tensor]]:
        outputs = compute(images_nchw)
        for name in names:
            if outputs[name].ndim == 0 or len(outputs[name]) != len(images_nchw):
                raise UserError(
                    f"distill.store: feature {name!r} of a teacher is not one for each image (shape "
                    f"{tuple(outputs[name].shape)} for {len(images_nchw)}); leave distill.store out"
                )
        split = {name: outputs[name].detach().cpu().split(1) for name in names}
        return [{name: split[name][index] for name in names} for index in range(len(images_nchw))]

    def _read(self, keys: dict[str, str]) -> dict[str, Tensor] | None:
        """All outputs for an image; None where one is missing."""
        if self.spec.keep == "nothing":
            return None
        answer = {}
        for name, key in keys.items():
            try:
                content = self._file(key).read_bytes()
            except OSError:
                return None
            if _digest(content[DIGEST:]) != content[:DIGEST]:
                self.damaged += 1
                self.notes.append(f"store: {self._file(key)} is damaged: it is computed again")
                return None
            answer[name] = unpacked(content[DIGEST:])
        return answer

    def _write(self, key: str, value: Tensor) -> Tensor:
        """Keeps an output, whole or not at all; returns it as it will be read."""
        if self.spec.keep == "nothing":
            return value
        content = packed(value, self.spec.bits)
        if self._writes:
            file = self._file(key)
            partial = file.with_name(f".{key}-{os.getpid()}-{next(self._number)}.partial")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(_digest(content) + content)
                os.replace(partial, file)
            except OSError as error:
                self._writes = False
                self.notes.append(f"store: {self.folder} cannot be written to ({error.strerror}): nothing more is kept")
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
        return unpacked(content)

    def _file(self, key: str) -> Path:
        return self._own / key[:2] / key


def packed(value: Tensor, bits: int) -> bytes:
    """An output of one image (1 x C x ...) in so few bits a number; 32 keeps it as it is.

    8 bits: 256 levels between the least and the largest number of each channel. What is not finite is kept as it is.
    """
    if bits == 32 or not value.is_floating_point() or not bool(torch.isfinite(value).all()):
        header, parts = "as it is", [value]
    elif bits == 16:
        most = torch.finfo(torch.float16).max
        header, parts = "float16", [value.float().clamp(-most, most).half()]
    else:
        flat = value.float().reshape(value.shape[1] if value.ndim > 1 else 1, -1)
        least, most_of = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        step = ((most_of - least) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        header, parts = "8 bits", [least, step, ((flat - least) / step).round().clamp(0, LEVELS).to(torch.uint8)]
    described = to_json([header, str(value.dtype).removeprefix("torch."), list(value.shape)]).encode()
    return b"".join([described, b"\n", *(_bytes(part) for part in parts)])


def unpacked(content: bytes) -> Tensor:
    """What :func:`packed` was given, as near as its bits allow."""
    end = content.index(b"\n")
    header, kind, shape = json.loads(content[:end])
    dtype, numbers = getattr(torch, kind), bytearray(content[end + 1 :])
    if header == "as it is":
        return torch.frombuffer(numbers, dtype=dtype).reshape(shape)
    if header == "float16":
        return torch.frombuffer(numbers, dtype=torch.float16).to(dtype).reshape(shape)
    channels = shape[1] if len(shape) > 1 else 1
    scale = np.frombuffer(numbers, np.float32, 2 * channels).reshape(2, channels, 1).copy()
    least, step = torch.from_numpy(scale)
    levels = torch.frombuffer(numbers, dtype=torch.uint8, offset=8 * channels).reshape(channels, -1)
    return (least + step * levels.float()).to(dtype).reshape(shape)


def _precision(device: str) -> str:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""


def _key(described: str) -> str:
    return hashlib.blake2b(described.encode(), digest_size=DIGEST).hexdigest()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _bytes(value: Tensor) -> memoryview:
    # Bytes exist for any dtype, also those that numpy does not know.
    return memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
