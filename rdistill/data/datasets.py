"""Datasets for PaddleSeg's lists, label maps, and the data stream: draw ``i`` of a run depends on (seed, i) only."""

from __future__ import annotations

import codecs
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rdistill.config.label_map import parse_label_map
from rdistill.core.errors import UserError
from rdistill.data.random_state import random_state_of
from rdistill.data.unlabeled import without_label
from rdistill.models.quiet_mmseg import DATASETS, TRANSFORMS, BaseSegDataset
from rdistill.schemas.data import DatasetMeta
from rdistill.schemas.mappings import DataInfo

VIEW = "view"  # key of a sample's metainfo: digest of the sample's view
UNLABELED_STREAM = 1  # added to the entropy of draws of images without labels, so that they differ from the others
SEPARATORS = ("\t", "|", ",", " ")  # possible separators in a line of a list, in the order in which they are tried


@DATASETS.register_module()
class PaddleSegDataset(BaseSegDataset):
    """A dataset with PaddleSeg's layout: each line of ``ann_file`` is ``IMAGE MASK``, relative to ``data_root``.

    Args:
        separator: separator of the two names. None detects it in each line: a tab, ``|``, ``,`` or spaces; if a name
            contains one of these, the files on the disk decide.
        options: arguments of mmseg's BaseSegDataset.
    """

    def __init__(self, separator: str | None = None, **options: Any) -> None:
        self.separator = separator
        super().__init__(**options)

    def load_data_list(self) -> list[DataInfo]:
        """Returns an entry for each line. Raises UserError if a line is not two paths."""
        entries = []
        root = Path(self.data_root or ".")
        for position, line in enumerate(_list_lines(Path(self.ann_file)), start=1):
            if not line.strip():
                continue
            pair = _split_line(line, root, self.separator)
            if pair is None:
                raise UserError(
                    f"{self.ann_file}:{position}: must be `IMAGE MASK`, got {line!r}; put a tab between the two"
                )
            image, mask = (str(root / name) for name in pair)
            entries.append(
                dict(
                    img_path=image, seg_map_path=mask, label_map=self.label_map,
                    reduce_zero_label=self.reduce_zero_label, seg_fields=[],
                )
            )  # fmt: skip
        return entries


def _list_lines(file: Path) -> list[str]:
    """Reads the lines of a list in UTF-8, or in UTF-16 with a byte-order mark, which Windows' shell writes."""
    content = file.read_bytes()
    try:
        utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeError as error:
        line = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise UserError(f"{file}:{line}: is not text in UTF-8; save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{file}:{line}: contains a NUL byte, which is not allowed in file names; write the list again")
    return text.replace("\r\n", "\n").split("\n")


def _split_line(line: str, root: Path, separator: str | None) -> tuple[str, str] | None:
    """Returns image and mask of a line, or None if it cannot be read as two names."""
    line = line.strip()
    separators = [mark for mark in (SEPARATORS if separator is None else (separator,)) if mark in line]
    splits_by_separator = {}
    for mark in separators:
        parts = line.split(None if mark == " " else mark)
        if len(parts) == 2 and all(part.strip() for part in parts):
            splits_by_separator[mark] = _path(parts[0]), _path(parts[1])
    if "\t" in splits_by_separator or (splits_by_separator and len(separators) == 1):
        return next(iter(splits_by_separator.values()))
    # A name contains a separator too. If the files of exactly one reading exist, that reading is meant.
    readings = dict.fromkeys(
        (_path(line[:at]), _path(line[at + 1 :])) for at, letter in enumerate(line) if letter in separators
    )
    existing = [pair for pair in readings if all(name and (root / name).is_file() for name in pair)]
    return existing[0] if len(existing) == 1 else next(iter(splits_by_separator.values()), None)


def _path(name: str) -> str:
    """Returns a path of a list with ``/`` between the folders."""
    return name.strip().replace("\\", "/")


@TRANSFORMS.register_module()
class MapLabels(BaseTransform):
    """Maps the values of a mask file to labels. It must come before ``LoadAnnotations``, which applies the map.

    Args:
        label_map: value in the file -> label, as a mapping or a list of pairs: ``[[255, 1]]`` for masks of 0 and 255.

    Raises:
        UserError: the map is invalid, or the dataset also has ``reduce_zero_label``, which changes the labels too.
    """

    def __init__(self, label_map: Any) -> None:
        self.label_map = parse_label_map(label_map, "MapLabels.label_map")

    def transform(self, results: DataInfo) -> DataInfo:
        if results.get("reduce_zero_label"):
            raise UserError("MapLabels and reduce_zero_label=True exclude each other; set reduce_zero_label=False")
        labeled_per_epoch = results.get("label_map") or {}
        results["label_map"] = {
            **labeled_per_epoch,
            **{old: labeled_per_epoch.get(new, new) for old, new in self.label_map.items()},
        }
        return results


class _Passes:
    """The endless order of a dataset's samples: a permutation for each pass.

    Args:
        size: number of samples in the dataset.
        seed: seed of the permutations.
        shuffle: False keeps the dataset's own order.
        entropy: integers that are added to (seed, index of the pass).
    """

    def __init__(self, size: int, seed: int, shuffle: bool, *entropy: int) -> None:
        self._size, self._seed, self._shuffle, self._entropy = size, seed, shuffle, entropy
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, draw: int) -> int:
        """Returns the index of a draw's sample; this is cheap if draws come in order."""
        position, place = divmod(draw, self._size)
        if not self._shuffle:
            return place
        if position != self._pass:
            entropy = np.random.SeedSequence([self._seed, position, *self._entropy])
            self._pass, self._order = position, np.random.default_rng(entropy).permutation(self._size)
        return int(self._order[place])


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Yields ``(draw, index)``: the run's endless order of samples, a permutation for each pass.

    All training workers share one stream: step ``k`` of a run takes draws ``k * B`` to
    ``(k + 1) * B - 1``, for any number of workers that split the global batch of ``B``.

    Images without labels have a second stream of draws, so they do not change the draws of labelled images.

    Args:
        dataset: the dataset; with images without labels it must be a :class:`StreamDataset`.
        seed: seed of the stream.
        shuffle: False draws in the dataset's own order.
        epochs: True ends after each pass over the labelled images, for loops that train by epochs.
        labeled: images with labels in a batch of one worker; used only with ``unlabeled``.
        unlabeled: images without labels, which follow the labelled ones in each batch of one worker.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        shuffle: bool = True,
        epochs: bool = False,
        labeled: int = 1,
        unlabeled: int = 0,
    ) -> None:
        self.size = len(dataset)  # type: ignore[arg-type]
        self.seed, self.shuffle, self.epochs = seed, shuffle, epochs
        self.labeled, self.unlabeled = labeled, unlabeled
        self.without_labels: int = dataset.without_labels if unlabeled else 0  # type: ignore[attr-defined]
        self.rank, self.world_size = get_dist_info()
        self._skipped = 0  # number of samples of this worker that a resumed run has already used
        self._epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        labeled = _Passes(self.size, self.seed, self.shuffle)
        unlabeled = _Passes(self.without_labels, self.seed, self.shuffle, UNLABELED_STREAM)
        labeled_per_epoch = self._labeled_per_epoch
        first, batches_before = (
            (self._epoch * labeled_per_epoch, self._epoch * -(-labeled_per_epoch // self.labeled))
            if self.epochs
            else (0, 0)
        )
        last = first + labeled_per_epoch if self.epochs else None
        batch = self._skipped // (self.labeled + self.unlabeled)
        while last is None or first + batch * self.labeled < last:
            start = first + batch * self.labeled
            for position in range(start, start + self.labeled if last is None else min(start + self.labeled, last)):
                draw = position * self.world_size + self.rank
                yield draw, labeled.index(draw)
            for position in range(
                (batches_before + batch) * self.unlabeled, (batches_before + batch + 1) * self.unlabeled
            ):
                draw = position * self.world_size + self.rank
                yield draw, self.size + unlabeled.index(draw)
            batch += 1

    def __len__(self) -> int:
        """Number of samples of this worker in one pass over the labelled images."""
        return self._labeled_per_epoch + -(-self._labeled_per_epoch // self.labeled) * self.unlabeled

    @property
    def _labeled_per_epoch(self) -> int:
        """Number of labelled images of this worker in one pass."""
        return -(-self.size // self.world_size)

    def skip(self, num_samples: int) -> None:
        """Skips samples of this worker (whole batches), which mmengine calls for a cheap resume."""
        self._skipped = num_samples

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch


@DATASETS.register_module()
class StreamDataset(Dataset):
    """Wraps the training dataset, and augments each draw with its own random state.

    With ``views``, each image has only that number of augmented versions: the view, and not the draw, seeds the
    augmentation (dataset reinforcement; Faghri et al., ICCV 2023). Pass ``p`` over the data uses view ``p`` modulo
    ``views``, so that every view is used once before any is repeated, for every seed.

    Args:
        dataset: an mmseg dataset, or the config of one.
        seed: seed of the stream, equal to the sampler's.
        views: number of views of each image; None augments every draw differently.
        view_seed: seed of the views; streams with an equal one have equal views.
        unlabeled: a second dataset, of images without labels. Their indices follow those of ``dataset``; ``len`` does
            not count them. Their samples have :data:`rdistill.data.unlabeled.MARK` in the metainfo.
    """

    def __init__(
        self, dataset: Any, seed: int = 0, views: int | None = None, view_seed: int = 0, unlabeled: Any = None
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.unlabeled = DATASETS.build(unlabeled) if isinstance(unlabeled, dict) else unlabeled
        self.seed, self.views, self.view_seed = seed, views, view_seed

    @property
    def metainfo(self) -> DatasetMeta:
        return self.dataset.metainfo

    @property
    def without_labels(self) -> int:
        """Number of images without labels."""
        return 0 if self.unlabeled is None else len(self.unlabeled)

    def full_init(self) -> None:
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        draw, index = key
        if self.views is not None:
            size = len(self.dataset) if index < len(self.dataset) else self.without_labels
            return self.view(index, draw // size % self.views)
        entropy = () if index < len(self.dataset) else (UNLABELED_STREAM,)
        with random_state_of(self.seed, draw, *entropy):
            return self._item(index)

    def _item(self, index: int) -> Any:
        if index < len(self.dataset):
            return self.dataset[index]
        return without_label(self.unlabeled[index - len(self.dataset)])

    def view(self, index: int, view: int) -> Any:
        """Returns a view of an image; the sample's metainfo has the digest of its pixels."""
        with random_state_of(self.view_seed, index, view):
            item = self._item(index)
        sample = item.get("data_samples") if isinstance(item, dict) else None
        if sample is not None and hasattr(sample, "set_metainfo") and isinstance(item.get("inputs"), Tensor):
            sample.set_metainfo({VIEW: pixel_digest(item["inputs"])})
        return item


def pixel_digest(image_chw: Tensor) -> str:
    """Returns a hash of an image's pixels, type and shape (128 bits, as hexadecimal text)."""
    described = f"{image_chw.dtype} {tuple(image_chw.shape)}".encode()
    pixels = image_chw.contiguous().numpy().data
    return hashlib.blake2b(pixels, key=hashlib.sha256(described).digest(), digest_size=16).hexdigest()


@DATASETS.register_module()
class SubsetDataset(Dataset):
    """A random part of another dataset, to train on fewer labels.

    Args:
        dataset: an mmseg dataset, or the config of one.
        share: share of its samples, above 0 and at most 1; at least one sample is kept.
        seed: an equal seed keeps equal samples; a smaller share is a subset of a larger one.
    """

    def __init__(self, dataset: Any, share: float, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise UserError(f"SubsetDataset.share: must be above 0 and at most 1, got {share}")
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.share, self.seed = share, seed

    @property
    def metainfo(self) -> DatasetMeta:
        return self.dataset.metainfo

    def full_init(self) -> None:
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()

    @functools.cached_property
    def indices(self) -> list[int]:
        """Indices of the kept samples, in the dataset's order."""
        order = np.random.default_rng(np.random.SeedSequence([self.seed, len(self.dataset)])).permutation(
            len(self.dataset)
        )
        return sorted(int(index) for index in order[: max(1, int(len(order) * self.share))])

    def __len__(self) -> int:
        return len(self.indices)

    def get_data_info(self, index: int) -> DataInfo:
        return self.dataset.get_data_info(self.indices[index])  # type: ignore[no-any-return]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]
