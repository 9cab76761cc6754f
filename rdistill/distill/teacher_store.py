"""The store of views: a teacher's outputs for a few augmented versions of each image, kept for all later runs.

This is dataset reinforcement (Faghri et al., ICCV 2023). The key of an entry is a hash of the teacher's weights, of
how the teacher is computed and of the pixels of its input, so that entries of different teachers or images are never
confused. Each file begins with a checksum of its content. All processes that see the folder share the files.
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

FORMAT = 1  # version of files and keys; after a change, older entries are not found any more
LEVELS = 255  # the largest 8-bit level

# Outputs of a batch are used in place of those of its images one by one after this number of batches gave equal bits.
EQUAL_BATCHES_NEEDED = 3
UNEQUAL = -1  # marks a kind of batch whose outputs differed

BatchKind = tuple[tuple[int, ...], torch.dtype, tuple[str, ...], int]
Compute = Callable[[Tensor], dict[str, Tensor]]
_WEIGHTS: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()


def note_weights(model: nn.Module) -> None:
    """Remembers the digest of a model's weights as they are now, before the forward pass is made cheaper.

    Fusing changes the weights later.
    """
    digest = hashlib.blake2b(digest_size=DIGEST)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    _WEIGHTS[model] = digest.digest()


def weights_digest(model: nn.Module) -> str:
    """The digest that :func:`note_weights` remembered, as hexadecimal text."""
    return _WEIGHTS[model].hex()


class TeacherStore:
    """The stored outputs of one teacher.

    With 32 bits on a CPU, the output for an image is the one that the teacher computes for this image by itself. So it
    does not depend, not even in the last bit, on which images of the batch were stored already. The missing images of
    a batch are still given to the teacher together, which is faster, if the first few batches of that shape gave equal
    bits either way, as they do on one thread; otherwise the teacher gets one image at a time. With fewer bits it always
    gets all missing images of a batch together.

    Args:
        spec: what is kept, and with how many bits.
        about: describes the teacher; `weights` and `setting` are all that its outputs depend on beside the pixels.
        places: where entries are looked for, the nearest first; new entries are written to each of them.
        logits: names of the outputs of which only the `top_k` classes are kept.

    Attributes:
        images, computed, damaged: number of images seen, of images that the teacher ran on, and of entries that could
            not be read.
        written: bytes of the entries that were written.
        notes: messages for the user; whoever reports them clears the list.
        folder: the name of the teacher's folder within each place.
    """

    def __init__(
        self, spec: StoreSpec, about: StoreAbout, places: Sequence[StoreFiles], logits: Sequence[str] = ()
    ) -> None:
        self.spec, self.about, self.places, self.logits = spec, about, tuple(places), tuple(logits)
        self.images = self.computed = self.damaged = self.written = 0
        self.notes: list[str] = []
        self.folder = own_folder_name(about)
        self._begun = False
        # Kind of batch -> number of batches that gave the same bits as their images one by one, or UNEQUAL.
        self._equal_batches: dict[BatchKind, int] = {}
        # Places that have failed, which are not read or not written any more. A folder may be read-only.
        self._unreadable: set[str] = set()
        self._unwritable: set[str] = set()

    def __call__(
        self, inputs_nchw: Tensor, views: Sequence[str | None], names: Sequence[str], compute: Compute
    ) -> dict[str, Tensor]:
        """Returns what ``compute`` returns for the batch; ``compute`` runs only on images that are not stored.

        Args:
            inputs_nchw: images as the student's preprocessor normalised them.
            views: the digest of each image's pixels, see :func:`rdistill.data.datasets.pixel_digest`.
            names: names of the outputs that ``compute`` returns.
            compute: computes the outputs of a batch by name.

        Raises:
            UserError: a sample has no view, or an output does not have one entry for each image.
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
            # Use the value as it will be read back, so that the first pass trains on the same values as later ones.
            for index, answer in zip(missing, answers_of(inputs_nchw[missing], names, compute), strict=True):
                kept[index] = {name: self._write(name, keys[index][name], value) for name, value in answer.items()}
        answers = [answer for answer in kept if answer is not None]
        return {name: torch.cat([answer[name] for answer in answers]).to(inputs_nchw.device) for name in names}

    def count_kept(self, inputs_nchw: Tensor, views: Sequence[str | None], names: Sequence[str]) -> int:
        """How many of these images are stored with all outputs. Nothing is computed or counted."""
        return sum(self._read(of_image) is not None for of_image in _keys(inputs_nchw, views, names))

    def _answers_singly(self, images_nchw: Tensor, names: Sequence[str], compute: Compute) -> list[dict[str, Tensor]]:
        """The outputs that the teacher computes for each image by itself, equal to the last bit.

        The order in which numbers are added up depends on shapes and threads, but not on the numbers. So if a few
        batches of one kind gave the same bits as their images one by one, all later ones of that kind do.
        """
        kind = (tuple(images_nchw.shape), images_nchw.dtype, tuple(names), torch.get_num_threads())
        equal_batches = self._equal_batches.get(kind, 0)
        if equal_batches == EQUAL_BATCHES_NEEDED:
            return self._answers(images_nchw, names, compute)
        # Clone each image: a slice of a batch may have other strides than a batch of one, and kernels may then add up
        # numbers in another order.
        singly = [self._answers(image.clone(), names, compute)[0] for image in images_nchw.split(1)]
        if len(singly) > 1 and equal_batches != UNEQUAL:
            together = self._answers(images_nchw, names, compute)
            equal = all(
                _bytes(single[name]) == _bytes(in_batch[name])
                for single, in_batch in zip(singly, together, strict=True)
                for name in names
            )
            self._equal_batches[kind] = equal_batches + 1 if equal else UNEQUAL
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
        """At the first image, writes the description of the teacher and the time of use to each place."""
        if not self._begun and self.spec.keep != "nothing":
            for files in self.places:
                self._write_at(files, partial(write_about, files, self.folder, self.about))
        self._begun = True

    def _read(self, keys: dict[str, str]) -> dict[str, Tensor] | None:
        """All outputs for an image; None if one of them is missing."""
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
        """The content of an entry from the nearest place that has it undamaged; nearer places get a copy."""
        for number, files in enumerate(self.places):
            file = self._read_at(files, name)
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
        """Stores an output atomically; returns it as it will be read back."""
        if self.spec.keep == "nothing":
            return value
        content = packed(value, self.spec.bits, self.spec.top_k if name in self.logits else None)
        file = sealed(content)
        self.written += len(file)
        for files in self.places:
            self._put(files, self._name(key), file)
        return unpacked(content)

    def _put(self, files: StoreFiles, name: str, file: bytes) -> None:
        self._write_at(files, partial(files.write, name, file))

    def _read_at(self, files: StoreFiles, name: str) -> bytes | None:
        """The content of a file at a place. A place that cannot be read is not used any more; the training goes on."""
        if files.where in self._unreadable:
            return None
        try:
            return files.read(name)
        except OSError as error:
            self._unreadable.add(files.where)
            self._unwritable.add(files.where)
            self.notes.append(f"store: {files.where} cannot be read ({_why(error)}): it is not used any more")
            return None

    def _write_at(self, files: StoreFiles, write: Callable[[], None]) -> None:
        """Writes at a place. A place that cannot be written to is still read, such as a read-only folder."""
        if files.where in self._unwritable:
            return
        try:
            write()
        except OSError as error:
            self._unwritable.add(files.where)
            self.notes.append(f"store: {files.where} cannot be written to ({_why(error)}): nothing more is kept there")

    def _name(self, key: str) -> str:
        return f"{self.folder}/{key[:2]}/{key}"


def _why(error: OSError) -> str:
    return message_line(error) if error.strerror is None else error.strerror


def own_folder_name(about: StoreAbout) -> str:
    """The name of a teacher's folder in a store: a 128-bit hash of all that its outputs depend on beside the images."""
    described = f"{FORMAT} {about['weights']} {about['setting']} {about['bits']} {about.get('top_k')}"
    return hashlib.blake2b(described.encode(), digest_size=DIGEST).hexdigest()


def packed(value: Tensor, bits: int, top_k: int | None = None) -> bytes:
    """Encodes an output of one image.

    8 bits mean 256 levels between the smallest and the largest value of each channel. 32 bits, and values that are not
    finite, are kept unchanged.

    Args:
        value: the output, 1 x C x ...
        bits: bits for each value: 8, 16 or 32.
        top_k: for logits: how many classes, the most probable ones, are kept at each pixel. The other classes share
            their total probability equally. None keeps all classes.
    """
    finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
    if top_k is not None and finite and value.ndim == 4 and value.shape[1] > top_k:
        return _packed_top_k(value, bits, top_k)
    if bits == 32 or not value.is_floating_point() or not finite:
        header, parts = "as it is", [value]
    elif bits == 16:
        limit = torch.finfo(torch.float16).max
        header, parts = "float16", [value.float().clamp(-limit, limit).half()]
    else:
        flat = value.float().reshape(value.shape[1] if value.ndim > 1 else 1, -1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        step = ((high - low) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        header, parts = "8 bits", [low, step, ((flat - low) / step).round().clamp(0, LEVELS).to(torch.uint8)]
    return _with_header([header, _kind(value), list(value.shape)], *(_bytes(part) for part in parts))


def _packed_top_k(logits_1chw: Tensor, bits: int, top_k: int) -> bytes:
    values, classes = logits_1chw.topk(top_k, dim=1)
    rest = logits_1chw.float().scatter(1, classes, -torch.inf).logsumexp(1, keepdim=True)
    index_dtype = torch.uint8 if logits_1chw.shape[1] <= 256 else torch.int16
    numbers = packed(torch.cat([values, rest.to(values)], dim=1), bits)
    header = ["top k", _kind(logits_1chw), list(logits_1chw.shape), top_k]
    return _with_header(header, _bytes(classes.to(index_dtype)), numbers)


def unpacked(content: bytes) -> Tensor:
    """Decodes what :func:`packed` encoded, as exactly as its bits allow."""
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
    low, step = torch.from_numpy(scale)
    levels = torch.frombuffer(numbers, dtype=torch.uint8, offset=8 * channels).reshape(channels, -1)
    return (low + step * levels.float()).to(dtype).reshape(shape)


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
    """For each image: output name -> key."""
    surroundings = f"{tuple(inputs_nchw.shape[1:])} {_precision(inputs_nchw.device.type)}"
    return [{name: _key(f"{view} {surroundings} {name}") for name in names} for view in views]


def _precision(device: str) -> str:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""


def _key(described: str) -> str:
    return hashlib.blake2b(described.encode(), digest_size=DIGEST).hexdigest()


def _bytes(value: Tensor) -> memoryview:
    # Viewed as bytes, because numpy does not know every dtype of torch.
    return memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
