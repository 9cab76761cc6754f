"""PaddleSeg's lists, label maps, and the one data stream: what draw ``i`` of a run is depends on (seed, i) alone."""

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

VIEW = "view"  # key of a sample's metainfo: the digest of the view that it is
WITHOUT_LABEL = 1  # makes a draw of an image without labels another than one with, for the same (seed, draw)
SEPARATORS = ("\t", "|", ",", " ")  # they divide a line of a list; tried in this order


@DATASETS.register_module()
class PaddleSegDataset(BaseSegDataset):
    """PaddleSeg's layout: each line of ``ann_file`` is ``IMAGE MASK``, relative to ``data_root``.

    Args:
        separator: between the two; None finds it out for each line: a tab, ``|``, ``,`` or spaces. Where a name holds
            one of them, the files on the disk decide.
        options: as for mmseg's BaseSegDataset.
    """

    def __init__(self, separator: str | None = None, **options: Any) -> None:
        self.separator = separator
        super().__init__(**options)

    def load_data_list(self) -> list[DataInfo]:
        """One entry for each line. Raises UserError for a line that is not two paths."""
        entries = []
        root = Path(self.data_root or ".")
        for number, line in enumerate(_list_lines(Path(self.ann_file)), start=1):
            if not line.strip():
                continue
            pair = _split_line(line, root, self.separator)
            if pair is None:
                raise UserError(
                    f"{self.ann_file}:{number}: must be `IMAGE MASK`, got {line!r}; put a tab between the two"
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
    """The lines of a list, without a byte-order mark; in UTF-8, or the UTF-16 that Windows' shell writes."""
    content = file.read_bytes()
    try:
        utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeError as error:
        line = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise UserError(f"{file}:{line}: is not text in UTF-8; save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{file}:{line}: has a NUL byte, which no file name can have; write the list again")
    return text.replace("\r\n", "\n").split("\n")


def _split_line(line: str, root: Path, separator: str | None) -> tuple[str, str] | None:
    """Image and mask of a line; None where it cannot be read as two names."""
    line = line.strip()
    marks = [mark for mark in (SEPARATORS if separator is None else (separator,)) if mark in line]
    plain = {}
    for mark in marks:
        parts = line.split(None if mark == " " else mark)
        if len(parts) == 2 and all(part.strip() for part in parts):
            plain[mark] = _path(parts[0]), _path(parts[1])
    if "\t" in plain or (plain and len(marks) == 1):
        return next(iter(plain.values()))
    # A name holds a separator too: the reading whose files are there is meant.
    readings = dict.fromkeys(
        (_path(line[:at]), _path(line[at + 1 :])) for at, letter in enumerate(line) if letter in marks
    )
    there = [pair for pair in readings if all(name and (root / name).is_file() for name in pair)]
    return there[0] if len(there) == 1 else next(iter(plain.values()), None)


def _path(name: str) -> str:
    """A path of a list as this system writes it."""
    return name.strip().replace("\\", "/")


@TRANSFORMS.register_module()
class MapLabels(BaseTransform):
    """Makes labels of the values in a mask's file; stands before ``LoadAnnotations``, which applies it.

    Args:
        label_map: value in the file -> label, as a mapping or a list of pairs: ``[[255, 1]]`` for masks of 0 and 255.

    Raises:
        UserError: it is no such map, or the data has ``reduce_zero_label``, which gives each value another label.
    """

    def __init__(self, label_map: Any) -> None:
        self.label_map = parse_label_map(label_map, "MapLabels.label_map")

    def transform(self, results: DataInfo) -> DataInfo:
        if results.get("reduce_zero_label"):
            raise UserError("MapLabels and reduce_zero_label=True exclude each other; set reduce_zero_label=False")
        own = results.get("label_map") or {}
        results["label_map"] = {**own, **{old: own.get(new, new) for old, new in self.label_map.items()}}
        return results


class _Passes:
    """The endless order of a data set's samples: a permutation for each pass.

    Args:
        size: samples of the data set.
        shuffle: False keeps to the data set's own order.
        entropy: what is added to (seed, number of the pass).
    """

    def __init__(self, size: int, seed: int, shuffle: bool, *entropy: int) -> None:
        self._size, self._seed, self._shuffle, self._entropy = size, seed, shuffle, entropy
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, draw: int) -> int:
        """Which sample a draw is of; cheap when draws come in order."""
        number, place = divmod(draw, self._size)
        if not self._shuffle:
            return place
        if number != self._pass:
            entropy = np.random.SeedSequence([self._seed, number, *self._entropy])
            self._pass, self._order = number, np.random.default_rng(entropy).permutation(self._size)
        return int(self._order[place])


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Yields ``(draw, index)``: the run's endless order of samples, a permutation for each pass.

    All training workers share one stream: step ``k`` of a run takes draws ``k * B`` to
    ``(k + 1) * B - 1``, whatever the number of workers that split the global batch of ``B``.

    Images without labels have draws of their own, counted alike: they change no draw of the labelled ones.

    Args:
        dataset: what is drawn from: a :class:`StreamDataset` where there are images without labels.
        seed: of the stream.
        shuffle: False draws in the dataset's own order.
        epochs: True ends after each pass over the labelled images, for loops that train by epochs.
        labeled: images with labels in a batch of one worker; counts only with ``unlabeled``.
        unlabeled: images without labels behind them.
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
        self._skipped = 0  # samples of this worker that a resumed run has had already
        self._epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        labeled = _Passes(self.size, self.seed, self.shuffle)
        unlabeled = _Passes(self.without_labels, self.seed, self.shuffle, WITHOUT_LABEL)
        own = self._own
        first, batches = (self._epoch * own, self._epoch * -(-own // self.labeled)) if self.epochs else (0, 0)
        last = first + own if self.epochs else None
        batch = self._skipped // (self.labeled + self.unlabeled)
        while last is None or first + batch * self.labeled < last:
            start = first + batch * self.labeled
            for number in range(start, start + self.labeled if last is None else min(start + self.labeled, last)):
                draw = number * self.world_size + self.rank
                yield draw, labeled.index(draw)
            for number in range((batches + batch) * self.unlabeled, (batches + batch + 1) * self.unlabeled):
                draw = number * self.world_size + self.rank
                yield draw, self.size + unlabeled.index(draw)
            batch += 1

    def __len__(self) -> int:
        """Samples of this worker in one pass over the labelled images."""
        return self._own + -(-self._own // self.labeled) * self.unlabeled

    @property
    def _own(self) -> int:
        """Labelled images of this worker in one pass."""
        return -(-self.size // self.world_size)

    def skip(self, num_samples: int) -> None:
        """Starts after this many samples of this worker, whole batches: mmengine's contract for a cheap resume."""
        self._skipped = num_samples

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch


@DATASETS.register_module()
class StreamDataset(Dataset):
    """Wraps the training dataset: each draw is augmented from a random state of its own.

    With ``views``, each image has so few augmented versions: draw ``i`` of the stream takes view ``v(i)`` of its
    image, and the view, not the draw, seeds the augmentation (dataset reinforcement; Faghri et al., ICCV 2023). Pass
    ``p`` over the data takes view ``p`` modulo ``views``: each view comes once before any comes again, for every seed.

    Args:
        dataset: an mmseg dataset, or the config of one.
        seed: of the stream; the same as the sampler's.
        views: of each image; None for a new one at each draw.
        view_seed: of the views; with the same one, every stream has the same.
        unlabeled: as ``dataset``, of images without labels. Their indices follow those of ``dataset``, which alone are
            counted by ``len``; their samples have :data:`rdistill.data.unlabeled.MARK` in the metainfo.
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
        """Images without labels."""
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
        entropy = () if index < len(self.dataset) else (WITHOUT_LABEL,)
        with random_state_of(self.seed, draw, *entropy):
            return self._item(index)

    def _item(self, index: int) -> Any:
        if index < len(self.dataset):
            return self.dataset[index]
        return without_label(self.unlabeled[index - len(self.dataset)])

    def view(self, index: int, view: int) -> Any:
        """An augmented version of an image, with the digest of its pixels among what its sample says of itself."""
        with random_state_of(self.view_seed, index, view):
            item = self._item(index)
        sample = item.get("data_samples") if isinstance(item, dict) else None
        if sample is not None and hasattr(sample, "set_metainfo") and isinstance(item.get("inputs"), Tensor):
            sample.set_metainfo({VIEW: pixel_digest(item["inputs"])})
        return item


def pixel_digest(image_chw: Tensor) -> str:
    """What tells an augmented image from every other, whatever made it: 128 bits of its pixels, as hexadecimal text."""
    described = f"{image_chw.dtype} {tuple(image_chw.shape)}".encode()
    pixels = image_chw.contiguous().numpy().data
    return hashlib.blake2b(pixels, key=hashlib.sha256(described).digest(), digest_size=16).hexdigest()


@DATASETS.register_module()
class SubsetDataset(Dataset):
    """A part of another dataset, chosen by chance: what training on fewer labels would see.

    Args:
        dataset: an mmseg dataset, or the config of one.
        share: of its samples, above 0 and at most 1; one is kept at least.
        seed: the same one keeps the same samples; of two shares, the smaller one's are among the larger one's.
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
        """Which samples of the dataset are kept, in its order."""
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
