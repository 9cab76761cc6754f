"""A cache of a teacher's outputs; the key is a hash of the image and of the teacher.

Entries are kept in the memory of this process, and in files that all processes of a node share. With a cache the
teacher runs on one image at a time. So its output for an image does not depend, not even in the last bit, on which
other images of the batch were in the cache.
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
from rdistill.core.files import nearest_existing

FORMAT = 2  # version of files, keys and feature definitions; after a change, older entries are not found any more
DIGEST = 16  # bytes of a key: two of 10^9 images collide with a probability below 10^-20
SHARE = 0.1  # default budget: this share of the free memory and of the free disk space,
MAX_MEMORY, MAX_DISK = 2 * 2**30, 10 * 2**30  # but at most this many bytes
MIN_HIT_RATE = 0.05  # share of hits below which the cache stops adding entries
PATIENCE = 2000  # images before the hit rate is judged, where the size of the training data is not known
RECOUNT_WRITES = 256  # a process measures the whole folder again after this number of its own writes

Compute = Callable[[Tensor], dict[str, Tensor]]


class TeacherCache:
    """The cached outputs of one teacher.

    Entries in memory are never replaced: training repeats the data in passes, so the entry that was used longest ago
    is the one that is needed next. On the disk, the folders of teachers that were not used for longest are deleted
    first.

    Args:
        teacher: returns the teacher's fingerprint, see :func:`fingerprint`; it is called at the first image.
        spec: the budgets.
        folder: where files are kept; None keeps entries in memory only. A folder that cannot be written to is not used.
        patience: number of images after which a cache with hardly any hits stops adding entries.
    """

    def __init__(
        self, teacher: Callable[[], bytes], spec: CacheSpec, folder: Path | None, patience: int = PATIENCE
    ) -> None:
        self.spec, self.folder, self.patience = spec, folder, patience
        self.images = self.in_memory = self.on_disk = 0  # all images, hits in memory, hits on the disk
        self.computed, self.compute_seconds = 0, 0.0  # images that the teacher ran on, and seconds that this took
        self.gave_up = False
        self._kept: dict[bytes, Tensor] = {}
        self._memory_left = memory_budget(spec)
        self._identify = teacher
        self._teacher: bytes | None = None
        self._disk: _Disk | None = None

    @property
    def hits(self) -> int:
        """Number of images whose outputs were all in the cache."""
        return self.in_memory + self.on_disk

    def seconds_without_cache(self, seconds: float, images: int) -> float:
        """Estimates the seconds that a batch would have taken without the cache.

        Args:
            seconds: seconds that the batch took.
            images: number of images in the batch. Each is taken to need the mean time of the images that were computed
                in this process. If none was computed yet, ``seconds`` is returned.
        """
        return max(seconds, images * self.compute_seconds / self.computed) if self.computed else seconds

    def __call__(self, inputs_nchw: Tensor, names: Sequence[str], compute: Compute) -> dict[str, Tensor]:
        """Returns what ``compute`` returns for the batch; ``compute`` runs only on images that are not in the cache.

        Args:
            inputs_nchw: the teacher's input images.
            names: names of the outputs that ``compute`` returns.
            compute: computes the outputs by name; it gets one image at a time.

        Raises:
            UserError: an output does not have one entry for each image.
        """
        if self._teacher is None:
            self._teacher = self._identify()
            if self.folder is not None:
                self._disk = _Disk(self.folder, self._teacher.hex(), disk_budget(self.spec, self.folder))
        # Clone each image: a slice of a batch may have other strides than a batch of one, and kernels may then add up
        # numbers in another order.
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
        if self.images >= self.patience and self.hits < MIN_HIT_RATE * self.images:
            self.gave_up = True  # the teacher still runs on one image at a time, so that its outputs stay the same
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
    """The files of one teacher, in a folder that it shares with other teachers.

    A file that cannot be read counts as missing.
    """

    def __init__(self, folder: Path, teacher: str, budget: int) -> None:
        self._root, self._own, self._budget = folder, folder / teacher, budget
        self._number = itertools.count()
        self._writes = 0
        self._left = 0
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            os.utime(self._own)  # marks the folder as just used
            self._left = self._make_room()
        except OSError:
            pass

    def read(self, key: bytes) -> Tensor | None:
        with suppress(OSError, pickle.UnpicklingError, RuntimeError, EOFError):
            content = self._file(key).read_bytes()
            if _digest(content[DIGEST:]) == content[:DIGEST]:  # a file may hold zeros after a power failure
                return torch.load(io.BytesIO(content[DIGEST:]), weights_only=True, map_location="cpu")  # type: ignore[no-any-return]
        return None

    def write(self, key: bytes, value: Tensor) -> None:
        """Writes a file atomically; does nothing once the budget is used up or the disk is full."""
        if value.nbytes > self._left:  # the file is larger still: it need not be made
            return
        buffer = io.BytesIO()
        torch.save(value.detach().to("cpu", copy=True), buffer)
        content = buffer.getvalue()
        if len(content) + DIGEST > self._left:
            return
        partial = self._own / f".{os.getpid()}-{next(self._number)}.partial"
        try:
            partial.write_bytes(_digest(content) + content)
            self._file(key).parent.mkdir(exist_ok=True)
            os.replace(partial, self._file(key))
            self._left -= len(content) + DIGEST
            self._writes += 1
            if self._writes % RECOUNT_WRITES == 0:
                self._left = self._budget - sum(map(_folder_bytes, self._teachers()))
        except OSError:
            self._left = 0
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _file(self, key: bytes) -> Path:
        return self._own / key.hex()[:2] / key.hex()

    def _teachers(self) -> list[Path]:
        """The folders of all teachers, sorted by their last use, the oldest first."""
        return sorted((path for path in self._root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)

    def _make_room(self) -> int:
        """Deletes other teachers' folders until at most half of the budget is used; returns the bytes that are left."""
        sizes = {path: _folder_bytes(path) for path in self._teachers()}
        for path in list(sizes):
            if sum(sizes.values()) > self._budget / 2 and path != self._own:
                shutil.rmtree(path, ignore_errors=True)
                del sizes[path]
        return self._budget - sum(sizes.values())


def fingerprint(model: nn.Module, settings: str) -> bytes:
    """A hash of all that an output depends on beside the image: the teacher, and how this process computes.

    The number of threads is part of it, because it changes results in the last bit.

    Args:
        model: the model as it will run, so after fusing; its weights and its structure are hashed.
        settings: what the model does not show, such as its config and the forward spec.
    """
    device = next(model.parameters()).device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    setting = (
        FORMAT, __version__, torch.__version__, str(model), settings, machine, device.type,
        torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
        torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
    )  # fmt: skip
    digest = hashlib.blake2b(repr(setting).encode(), digest_size=DIGEST)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.digest()


def memory_budget(spec: CacheSpec) -> int:
    """Bytes of memory that the cache of this process may use."""
    if spec.memory is not None:
        return int(spec.memory)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(MAX_MEMORY, int(SHARE * free))


def disk_budget(spec: CacheSpec, folder: Path) -> int:
    """Bytes that all files of the cache in a folder may take; the folder need not exist yet."""
    if spec.disk is not None:
        return int(spec.disk)
    return min(MAX_DISK, int(SHARE * shutil.disk_usage(nearest_existing(folder)).free) + _folder_bytes(folder))


def _image_key(image_1chw: Tensor) -> bytes:
    described = f"{image_1chw.dtype} {tuple(image_1chw.shape)}".encode()
    return hashlib.blake2b(_bytes(image_1chw), key=hashlib.sha256(described).digest(), digest_size=DIGEST).digest()


def _bytes(value: Tensor) -> memoryview:
    flat = value.detach().cpu().contiguous().reshape(-1)
    # Viewed as bytes, because numpy does not know every dtype of torch.
    return memoryview(flat.view(torch.uint8).numpy())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process deletes and renames
            total += path.stat().st_size
    return total
