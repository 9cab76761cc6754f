"""PaddleSeg's list files, and the one data stream: what draw ``i`` of a run is depends on (seed, i) alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Dataset, Sampler

from rdistill.errors import UserError
from rdistill.quiet_mmseg import DATASETS, BaseSegDataset


@DATASETS.register_module()
class PaddleSegDataset(BaseSegDataset):
    """PaddleSeg's layout: each line of ``ann_file`` is ``IMAGE MASK``, relative to ``data_root``."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry for each line. Raises UserError for a line that is not two paths."""
        entries = []
        root = Path(self.data_root or ".")
        for number, line in enumerate(Path(self.ann_file).read_text().splitlines(), start=1):
            if not line.strip():
                continue
            parts = line.split()
            if len(parts) != 2:
                raise UserError(f"{self.ann_file}:{number}: must be `IMAGE MASK`, got {line!r}")
            image, mask = (str(root / part) for part in parts)
            entries.append(
                dict(
                    img_path=image, seg_map_path=mask, label_map=self.label_map,
                    reduce_zero_label=self.reduce_zero_label, seg_fields=[],
                )
            )  # fmt: skip
        return entries


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Yields ``(draw, index)``: the run's endless order of samples, a permutation for each pass.

    All training workers share one stream: step ``k`` of a run takes draws ``k * B`` to
    ``(k + 1) * B - 1``, whatever the number of workers that split the global batch of ``B``.

    Args:
        dataset: what is drawn from.
        seed: of the stream.
        shuffle: False draws in the dataset's own order.
        epochs: True ends after each pass, for loops that train by epochs.
    """

    def __init__(self, dataset: Dataset, seed: int, shuffle: bool = True, epochs: bool = False, start: int = 0) -> None:
        self.size = len(dataset)  # type: ignore[arg-type]
        self.seed, self.shuffle, self.epochs = seed, shuffle, epochs
        self.rank, self.world_size = get_dist_info()
        self._skipped = 0  # draws of this worker that a resumed run has had already
        self._epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.epochs:
            first = self._epoch * len(self) * self.world_size
            last: int | None = first + len(self) * self.world_size
        else:
            first, last = 0, None
        draw = first + self.rank + self._skipped * self.world_size
        order_of_pass, order = -1, np.empty(0, dtype=np.int64)
        while last is None or draw < last:
            if draw // self.size != order_of_pass:
                order_of_pass = draw // self.size
                order = self._order(order_of_pass)
            yield draw, int(order[draw % self.size])
            draw += self.world_size

    def __len__(self) -> int:
        """Draws of this worker in one pass."""
        return -(-self.size // self.world_size)

    def skip(self, num_samples: int) -> None:
        """Starts after this many draws of this worker: mmengine's contract for a cheap resume."""
        self._skipped = num_samples

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def _order(self, pass_number: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng(np.random.SeedSequence([self.seed, pass_number])).permutation(self.size)


@DATASETS.register_module()
class StreamDataset(Dataset):
    """Wraps the training dataset: each draw is augmented from a random state of its own.

    Args:
        dataset: an mmseg dataset, or the config of one.
        seed: of the stream; the same as the sampler's.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed = seed

    @property
    def metainfo(self) -> dict[str, Any]:
        return self.dataset.metainfo

    def full_init(self) -> None:
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        draw, index = key
        with random_state_of(self.seed, draw):
            return self.dataset[index]


@contextmanager
def random_state_of(*entropy: int) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's global generators from some integers, then puts their states back."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    # The CPU generator alone: torch.manual_seed would also touch CUDA, which a forked loader must not.
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
