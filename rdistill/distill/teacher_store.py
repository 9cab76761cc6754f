"""The store of views: a teacher's outputs for few augmented versions of each image, kept for every later run.

Dataset reinforcement (Faghri et al., ICCV 2023). An entry is found by the teacher's weights, how it is computed, and
the pixels that it is given, so that it cannot be mistaken for another's; a checksum stands before its content. Files
are shared by all processes that see the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rdistill.config.distill_spec import StoreSpec
from rdistill.core.errors import UserError, message_line
from rdistill.core.files import to_json
from rdistill.distill.store_files import DIGEST, StoreFiles, is_whole, sealed, write_about
from rdistill.schemas.store import StoreAbout

FORMAT = 1  # version of files and keys; another makes the old ones unknown
LEVELS = 255  # steps that 8 bits have

ALIKE = 3  # batches that must come to the same as their images one by one before that is relied on
UNLIKE = -1  # one did not

BatchKind = tuple[tuple[int, ...], torch.dtype, tuple[str, ...], int]
Compute = Callable[[Tensor], dict[str, Tensor]]
_WEIGHTS: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()


def note_weights(model: nn.Module) -> None:
    """Remembers the digest of a model's weights as they are now: a forward pass made cheap folds them together."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    _WEIGHTS[model] = digest.digest()


def weights_digest(model: nn.Module) -> str:
    """What :func:`note_weights` remembered, as hexadecimal text."""
    return _WEIGHTS[model].hex()


class TeacherStore:
    """The kept outputs of one teacher.

    With 32 bits an output on a CPU is that of the image by itself: so it does not depend, not even in the last bit, on
    which others were kept already. Several missing ones are given to the teacher at once, which is quicker, where the
    first few batches of that size came to the same bits either way, as they do on one thread; otherwise one at a time.
    With fewer bits it sees all that are missing of a batch at once.

    Args:
        spec: what is kept, and in how many bits.
        about: whose outputs these are; `weights` and `setting` are what they depend on beside the pixels.
        places: where entries are looked for, the nearest first; each gets what is computed.
        logits: names of the outputs of which `top_k` classes are kept.

    Attributes:
        images, computed, damaged: numbers of images seen, of those that the teacher ran on, of entries that could not
            be read.
        written: bytes of the entries that were written.
        notes: what a user should know, since they were last taken.
        folder: the name of the teacher's own folder within each place.
    """

    def __init__(
        self, spec: StoreSpec, about: StoreAbout, places: Sequence[StoreFiles], logits: Sequence[str] = ()
    ) -> None:
        self.spec, self.about, self.places, self.logits = spec, about, tuple(places), tuple(logits)
        self.images = self.computed = self.damaged = self.written = 0
        self.notes: list[str] = []
        self.folder = own_folder_name(about)
        self._begun = False
        self._alike: dict[BatchKind, int] = {}  # batches that came to the same as their images one by one, or UNLIKE
        self._broken: set[str] = set()  # places that have failed, and are done without

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
        self._begin()
        self.images += len(views)
        keys = _keys(inputs_nchw, views, names)
        kept = [self._read(of_image) for of_image in keys]
        missing = [index for index, answer in enumerate(kept) if answer is None]
        self.computed += len(missing)
        if missing:
            singly = self.spec.bits == 32 and not inputs_nchw.is_cuda
            answers_of = self._answers_singly if singly else self._answers
            # What is kept is what is used, in the first pass as in every later one.
            for index, answer in zip(missing, answers_of(inputs_nchw[missing], names, compute), strict=True):
                kept[index] = {name: self._write(name, keys[index][name], value) for name, value in answer.items()}
        answers = [answer for answer in kept if answer is not None]
        return {name: torch.cat([answer[name] for answer in answers]).to(inputs_nchw.device) for name in names}

    def count_kept(self, inputs_nchw: Tensor, views: Sequence[str | None], names: Sequence[str]) -> int:
        """How many of these images the teacher need not run on; as a call, but nothing is computed or counted."""
        return sum(self._read(of_image) is not None for of_image in _keys(inputs_nchw, views, names))

    def _answers_singly(self, images_nchw: Tensor, names: Sequence[str], compute: Compute) -> list[dict[str, Tensor]]:
        """The answers to each image by itself, to the last bit.

        In which order numbers are added up depends on sizes and threads, not on the numbers: where a batch has come to
        the same a few times, it always does.
        """
        kind = (tuple(images_nchw.shape), images_nchw.dtype, tuple(names), torch.get_num_threads())
        batches = self._alike.get(kind, 0)
        if batches == ALIKE:
            return self._answers(images_nchw, names, compute)
        # Copies: a part of a batch may lie in memory as no batch of one does, and be computed in another order.
        singly = [self._answers(image.clone(), names, compute)[0] for image in images_nchw.split(1)]
        if len(singly) > 1 and batches != UNLIKE:
            together = self._answers(images_nchw, names, compute)
            alike = all(
                _bytes(alone[name]) == _bytes(in_batch[name])
                for alone, in_batch in zip(singly, together, strict=True)
                for name in names
            )
            self._alike[kind] = batches + 1 if alike else UNLIKE
        return singly

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

    def _begin(self) -> None:
        """Says at the first image whose outputs these are, and that they are used now."""
        if not self._begun and self.spec.keep != "nothing":
            for files in self.places:
                self._attempt(files, partial(write_about, files, self.folder, self.about))
        self._begun = True

    def _read(self, keys: dict[str, str]) -> dict[str, Tensor] | None:
        """All outputs for an image; None where one is missing."""
        if self.spec.keep == "nothing":
            return None
        answer = {}
        for name, key in keys.items():
            content = self._find(self._name(key))
            if content is None:
                return None
            answer[name] = unpacked(content)
        return answer

    def _find(self, name: str) -> bytes | None:
        """The content of an entry at the nearest place that has it whole; those before it get it too."""
        for number, files in enumerate(self.places):
            file = self._attempt(files, partial(files.read, name))
            if file is None:
                continue
            if not is_whole(file):
                self.damaged += 1
                self.notes.append(f"store: {files.where}/{name} is damaged: it is computed again")
                continue
            for nearer in self.places[:number]:
                self._put(nearer, name, file)
            return file[DIGEST:]
        return None

    def _write(self, name: str, key: str, value: Tensor) -> Tensor:
        """Keeps an output, whole or not at all; returns it as it will be read."""
        if self.spec.keep == "nothing":
            return value
        content = packed(value, self.spec.bits, self.spec.top_k if name in self.logits else None)
        file = sealed(content)
        self.written += len(file)
        for files in self.places:
            self._put(files, self._name(key), file)
        return unpacked(content)

    def _put(self, files: StoreFiles, name: str, file: bytes) -> None:
        self._attempt(files, partial(files.write, name, file))

    def _attempt(self, files: StoreFiles, action: Callable[[], bytes | None]) -> bytes | None:
        """A place that fails is done without from then on: training goes on as if it were not there."""
        if files.where in self._broken:
            return None
        try:
            return action()
        except OSError as error:
            self._broken.add(files.where)
            why = message_line(error) if error.strerror is None else error.strerror
            self.notes.append(f"store: {files.where} cannot be used ({why}): nothing more is kept there")
            return None

    def _name(self, key: str) -> str:
        return f"{self.folder}/{key[:2]}/{key}"


def own_folder_name(about: StoreAbout) -> str:
    """Of one teacher's outputs in a store: 128 bits of all that they depend on beside the images."""
    described = f"{FORMAT} {about['weights']} {about['setting']} {about['bits']} {about.get('top_k')}"
    return hashlib.blake2b(described.encode(), digest_size=DIGEST).hexdigest()


def packed(value: Tensor, bits: int, top_k: int | None = None) -> bytes:
    """An output of one image (1 x C x ...) in so few bits a number; 32 keeps it as it is.

    8 bits: 256 levels between the least and the largest number of each channel. What is not finite is kept as it is.

    Args:
        top_k: of logits: the classes kept at each pixel, the likeliest; of the rest the probability of all together is
            kept, which each is given an equal part of. None keeps all classes.
    """
    finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
    if top_k is not None and finite and value.ndim == 4 and value.shape[1] > top_k:
        return _packed_top_k(value, bits, top_k)
    if bits == 32 or not value.is_floating_point() or not finite:
        header, parts = "as it is", [value]
    elif bits == 16:
        most = torch.finfo(torch.float16).max
        header, parts = "float16", [value.float().clamp(-most, most).half()]
    else:
        flat = value.float().reshape(value.shape[1] if value.ndim > 1 else 1, -1)
        least, most_of = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        step = ((most_of - least) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        header, parts = "8 bits", [least, step, ((flat - least) / step).round().clamp(0, LEVELS).to(torch.uint8)]
    return _with_header([header, _kind(value), list(value.shape)], *(_bytes(part) for part in parts))


def _packed_top_k(logits_1chw: Tensor, bits: int, top_k: int) -> bytes:
    values, classes = logits_1chw.topk(top_k, dim=1)
    rest = logits_1chw.float().scatter(1, classes, -torch.inf).logsumexp(1, keepdim=True)
    few = logits_1chw.shape[1] <= 256
    numbers = packed(torch.cat([values, rest.to(values)], dim=1), bits)
    header = ["top k", _kind(logits_1chw), list(logits_1chw.shape), top_k]
    return _with_header(header, _bytes(classes.to(torch.uint8 if few else torch.int16)), numbers)


def unpacked(content: bytes) -> Tensor:
    """What :func:`packed` was given, as near as its bits allow."""
    end = content.index(b"\n")
    header, kind, shape, *more = json.loads(content[:end])
    dtype, numbers = getattr(torch, kind), bytearray(content[end + 1 :])
    if header == "top k":
        return _unpacked_top_k(numbers, shape, *more).to(dtype)
    if header == "as it is":
        return torch.frombuffer(numbers, dtype=dtype).reshape(shape)
    if header == "float16":
        return torch.frombuffer(numbers, dtype=torch.float16).to(dtype).reshape(shape)
    channels = shape[1] if len(shape) > 1 else 1
    scale = np.frombuffer(numbers, np.float32, 2 * channels).reshape(2, channels, 1).copy()
    least, step = torch.from_numpy(scale)
    levels = torch.frombuffer(numbers, dtype=torch.uint8, offset=8 * channels).reshape(channels, -1)
    return (least + step * levels.float()).to(dtype).reshape(shape)


def _unpacked_top_k(numbers: bytearray, shape: list[int], top_k: int) -> Tensor:
    _, channels, height, width = shape
    kind = torch.uint8 if channels <= 256 else torch.int16
    count = top_k * height * width
    classes = torch.frombuffer(numbers, dtype=kind, count=count).long().reshape(1, top_k, height, width)
    kept = unpacked(bytes(numbers[count * kind.itemsize :]))
    spread = kept[:, top_k:] - math.log(channels - top_k)
    return spread.expand(shape).scatter(1, classes, kept[:, :top_k])


def _with_header(header: list[object], *parts: bytes | memoryview) -> bytes:
    return b"".join([to_json(header).encode(), b"\n", *parts])


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _keys(inputs_nchw: Tensor, views: Sequence[str | None], names: Sequence[str]) -> list[dict[str, str]]:
    """For each image the key of each output."""
    surroundings = f"{tuple(inputs_nchw.shape[1:])} {_precision(inputs_nchw.device.type)}"
    return [{name: _key(f"{view} {surroundings} {name}") for name in names} for view in views]


def _precision(device: str) -> str:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""


def _key(described: str) -> str:
    return hashlib.blake2b(described.encode(), digest_size=DIGEST).hexdigest()


def _bytes(value: Tensor) -> memoryview:
    # Bytes exist for any dtype, also those that numpy does not know.
    return memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
