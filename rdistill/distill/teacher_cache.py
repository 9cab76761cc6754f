"""A teacher's outputs for an image, remembered under a hash of the image and of the teacher.

Entries are in this process's memory, and in files that all processes of a node share. With a cache a teacher sees
images one at a time: so its answer for one does not depend, not even in the last bit, on which others were known.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from rdistill import __version__
from rdistill.config.distill_spec import CacheSpec
from rdistill.core.errors import UserError

FORMAT = 2  # version of files, keys and what features mean; a change of any makes the old ones unknown
DIGEST = 16  # bytes: two of 10^9 images collide with a probability below 10^-20
SHARE = 0.1  # part of the free memory and disk that it may take, where the config sets no budget
MOST_MEMORY, MOST_DISK = 2 * 2**30, 10 * 2**30  # bytes, likewise
USELESS = 0.05  # share of hits below which nothing more is remembered
PATIENCE = 2000  # images, where the size of the training data is not known
RECOUNT = 256  # own writes after which the files of others are counted again

Compute = Callable[[Tensor], dict[str, Tensor]]


class TeacherCache:
    """The outputs of one teacher.

    Nothing in memory is dropped for something new: training goes round the data, where what was used longest ago is
    needed next. On the disk, teachers that nobody has used for longest make room.

    Args:
        teacher: gives what identifies it, see :func:`fingerprint`; called at the first image.
        spec: the budgets.
        folder: of files; None keeps to memory. One that cannot be written to is done without.
        patience: images after which a cache without hits remembers nothing more.
    """

    def __init__(
        self, teacher: Callable[[], bytes], spec: CacheSpec, folder: Path | None, patience: int = PATIENCE
    ) -> None:
        self.spec, self.folder, self.patience = spec, folder, patience
        self.images = self.in_memory = self.on_disk = 0  # images
        self.computed, self.compute_seconds = 0, 0.0  # images that the teacher was run on, and what they took
        self.gave_up = False
        self._kept: dict[bytes, Tensor] = {}
        self._memory_left = memory_budget(spec)
        self._identify = teacher
        self._teacher: bytes | None = None
        self._disk: _Disk | None = None

    @property
    def hits(self) -> int:
        """Images of which everything was known."""
        return self.in_memory + self.on_disk

    def without(self, seconds: float, images: int) -> float:
        """Seconds that a batch would have taken without a cache.

        Args:
            seconds: that it took.
            images: in it. Each counts with the mean of those that were computed in this process; where none was, the
                batch counts as it is.
        """
        return max(seconds, images * self.compute_seconds / self.computed) if self.computed else seconds

    def __call__(self, inputs_nchw: Tensor, names: Sequence[str], compute: Compute) -> dict[str, Tensor]:
        """As ``compute``, which is given one image at a time, and only those that are not known.

        Args:
            inputs_nchw: what the teacher is given.
            names: of the outputs that ``compute`` returns.

        Raises:
            UserError: an output that is not one for each image.
        """
        if self._teacher is None:
            self._teacher = self._identify()
            if self.folder is not None:
                self._disk = _Disk(self.folder, self._teacher.hex(), disk_budget(self.spec, self.folder))
        # Copies: a part of a batch may lie in memory as no batch of one does, and be computed in another order.
        answers = [self._answer(image.clone(), names, compute) for image in inputs_nchw.split(1)]
        return {name: torch.cat([answer[name].to(inputs_nchw.device) for answer in answers]) for name in names}

    def _answer(self, image_1chw: Tensor, names: Sequence[str], compute: Compute) -> dict[str, Tensor]:
        self.images += 1
        if self.gave_up:
            return self._timed(compute, image_1chw)
        keys = {name: self._key(image, name) for image in [_image_key(image_1chw)] for name in names}
        remembered = all(key in self._kept for key in keys.values())
        remembered_values = {name: self._find(key) for name, key in keys.items()}
        if all(value is not None for value in remembered_values.values()):
            self.in_memory += remembered
            self.on_disk += not remembered
            return remembered_values  # type: ignore[return-value]
        answer = self._timed(compute, image_1chw)
        for name, key in keys.items():
            if answer[name].ndim == 0 or len(answer[name]) != 1:
                raise UserError(
                    f"distill.cache: feature {name!r} of a teacher is not one for each image "
                    f"(shape {tuple(answer[name].shape)} for one); set distill.cache=off"
                )
            self._remember(key, answer[name])
            if self._disk is not None and remembered_values[name] is None:
                self._disk.write(key, answer[name])
        if self.images >= self.patience and self.hits < USELESS * self.images:
            self.gave_up = True  # the answers stay what they were: one image at a time still
            self._kept.clear()
        return answer

    def _timed(self, compute: Compute, image_1chw: Tensor) -> dict[str, Tensor]:
        since = time.perf_counter()
        answer = compute(image_1chw)
        self.compute_seconds += time.perf_counter() - since
        self.computed += 1
        return answer

    def _key(self, image: bytes, name: str) -> bytes:
        assert self._teacher is not None
        return hashlib.blake2b(self._teacher + image + name.encode(), digest_size=DIGEST).digest()

    def _find(self, key: bytes) -> Tensor | None:
        if key in self._kept or self._disk is None:
            return self._kept.get(key)
        value = self._disk.read(key)
        if value is not None:
            self._remember(key, value)
        return value

    def _remember(self, key: bytes, value: Tensor) -> None:
        if key not in self._kept and value.nbytes <= self._memory_left:
            self._kept[key] = value.detach().to("cpu", copy=True)
            self._memory_left -= value.nbytes


class _Disk:
    """The files of one teacher, in a folder with those of others. A file that fails in any way is not there."""

    def __init__(self, folder: Path, teacher: str, budget: int) -> None:
        self._root, self._own, self._budget = folder, folder / teacher, budget
        self._number = itertools.count()
        self._writes = 0
        self._left = 0
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            os.utime(self._own)  # used now
            self._left = self._make_room()
        except OSError:
            pass

    def read(self, key: bytes) -> Tensor | None:
        with suppress(OSError, pickle.UnpicklingError, RuntimeError, EOFError):
            content = self._file(key).read_bytes()
            if _digest(content[DIGEST:]) == content[:DIGEST]:  # a power failure may leave zeros
                return torch.load(io.BytesIO(content[DIGEST:]), weights_only=True, map_location="cpu")  # type: ignore[no-any-return]
        return None

    def write(self, key: bytes, value: Tensor) -> None:
        """Whole or not at all; nothing once the budget is used up or the disk is full."""
        if value.nbytes > self._left:
            return
        buffer = io.BytesIO()
        torch.save(value.detach().to("cpu", copy=True), buffer)
        content = buffer.getvalue()
        partial = self._own / f".{os.getpid()}-{next(self._number)}.partial"
        try:
            partial.write_bytes(_digest(content) + content)
            self._file(key).parent.mkdir(exist_ok=True)
            os.replace(partial, self._file(key))
            self._left -= len(content) + DIGEST
            self._writes += 1
            if self._writes % RECOUNT == 0:
                self._left = self._budget - sum(map(_folder_bytes, self._teachers()))
        except OSError:
            self._left = 0
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _file(self, key: bytes) -> Path:
        return self._own / key.hex()[:2] / key.hex()

    def _teachers(self) -> list[Path]:
        """All teachers' folders, the one that was not used for longest first."""
        return sorted((path for path in self._root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)

    def _make_room(self) -> int:
        """Deletes what other teachers left while more than half of the budget is used; returns what is left."""
        sizes = {path: _folder_bytes(path) for path in self._teachers()}
        for path in list(sizes):
            if sum(sizes.values()) > self._budget / 2 and path != self._own:
                shutil.rmtree(path, ignore_errors=True)
                del sizes[path]
        return self._budget - sum(sizes.values())


def fingerprint(model: nn.Module, described: str) -> bytes:
    """What an answer depends on beside the image: the teacher, and how this process computes.

    Args:
        model: ready to be used, so fused where it will be: the weights and the structure count.
        described: what they do not show, such as the config and the forward.

    The number of threads counts too: it changes results in the last bit.
    """
    device = next(model.parameters()).device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    setting = (
        FORMAT, __version__, torch.__version__, str(model), described, machine, device.type,
        torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
        torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
    )  # fmt: skip
    digest = hashlib.blake2b(repr(setting).encode(), digest_size=DIGEST)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.digest()


def memory_budget(spec: CacheSpec) -> int:
    """Bytes of this process's memory."""
    if spec.memory is not None:
        return int(spec.memory)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(MOST_MEMORY, int(SHARE * free))


def disk_budget(spec: CacheSpec, folder: Path) -> int:
    """Bytes of all files in a folder; it need not exist yet."""
    if spec.disk is not None:
        return int(spec.disk)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return min(MOST_DISK, int(SHARE * shutil.disk_usage(there).free) + _folder_bytes(folder))


def _image_key(image_1chw: Tensor) -> bytes:
    described = f"{image_1chw.dtype} {tuple(image_1chw.shape)}".encode()
    return hashlib.blake2b(_bytes(image_1chw), key=hashlib.sha256(described).digest(), digest_size=DIGEST).digest()


def _bytes(value: Tensor) -> memoryview:
    flat = (
        value.detach().cpu().contiguous().reshape(-1)
    )  # bytes exist for any dtype, also those that numpy does not know
    return memoryview(flat.view(torch.uint8).numpy())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process deletes and renames
            total += path.stat().st_size
    return total
