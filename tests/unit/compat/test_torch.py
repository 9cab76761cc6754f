"""What rdistill uses of PyTorch that it does not document is there, and does what it is used for."""

from __future__ import annotations

import pytest
import torch
from mmengine.model.utils import _BatchNormXd
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader

from rdistill._compat import torch as compat
from rdistill._compat.changed import LibraryChangedError


def test_a_write_in_place_raises_the_version() -> None:
    tensor = torch.ones(2)
    before = compat.version_of(tensor)
    _ = tensor + 1
    assert compat.version_of(tensor) == before
    tensor.add_(1)
    assert compat.version_of(tensor) == before + 1
    torch.relu_(tensor[:1])
    assert compat.version_of(tensor) == before + 2
    with pytest.raises(LibraryChangedError, match="sees that a layer writes into a feature"):
        compat.version_of(object())  # type: ignore[arg-type]


def test_a_hook_before_forward_is_seen() -> None:
    layer = nn.Conv2d(1, 1, 1)
    assert not compat.has_pre_hooks(layer)
    assert compat.has_pre_hooks(torch.nn.utils.spectral_norm(nn.Conv2d(1, 1, 1)))
    # A parametrisation makes another class of the layer, which fusing leaves alone by itself.
    assert type(parametrizations.weight_norm(nn.Conv2d(1, 1, 1))) is not nn.Conv2d


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, _BatchNormXd])
def test_every_batch_norm(kind: type[nn.Module]) -> None:
    norm = kind(2)
    assert isinstance(norm, compat.BatchNorm) and isinstance(norm, compat.NormWithStatistics)


def test_other_norms() -> None:
    instance = nn.InstanceNorm2d(2)
    assert isinstance(instance, compat.NormWithStatistics) and not isinstance(instance, compat.BatchNorm)
    assert not isinstance(nn.GroupNorm(1, 2), compat.NormWithStatistics)


def test_data_workers_end_at_once() -> None:
    iterator = iter(DataLoader(list(range(4)), num_workers=1))
    next(iterator)
    workers = iterator._workers  # type: ignore[attr-defined]
    assert workers[0].is_alive()
    compat.stop_data_workers(iterator)
    assert not workers[0].is_alive()
    compat.stop_data_workers(iter(DataLoader([1])))  # has none
