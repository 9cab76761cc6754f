"""What rdistill uses of mmengine that it does not document is there, and does what it is used for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine.config.utils
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.loops import IterBasedTrainLoop
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from rdistill._compat import mmengine as compat
from rdistill._compat.changed import LibraryChangedError
from rdistill._compat.torch import stop_data_workers


def test_a_configs_own_dict() -> None:
    cfg = Config({"model": {"type": "A"}})
    inner = compat.config_dict(cfg)
    assert type(inner) is ConfigDict
    inner["seed"] = 3
    assert cfg.seed == 3 and cfg.model is inner["model"]
    assert compat.imported_names(cfg) == set()
    with pytest.raises(LibraryChangedError, match="reads and changes a config"):
        compat.config_dict({})  # type: ignore[arg-type]


def test_imported_names_of_a_pure_python_config(tmp_path: Path) -> None:
    file = tmp_path / "pure.py"
    file.write_text("from mmengine.optim import OptimWrapper\nwrapper = dict(type=OptimWrapper)\n")
    assert compat.imported_names(Config.fromfile(str(file), lazy_import=True)) == {"OptimWrapper"}


def test_configs_of_a_package() -> None:
    before = compat.distribution_of("mmseg")
    compat.look_for_configs_in("mmseg", "onedl-mmsegmentation")
    file = Path(compat.config_of_package("mmseg::_base_/default_runtime.py"))
    assert file.is_file() and file.name == "default_runtime.py"
    with pytest.raises(FileNotFoundError):
        compat.config_of_package("mmseg::_base_/no_such.py")
    compat.look_for_configs_in("mmseg", before)
    with pytest.raises(KeyError):
        compat.distribution_of("no_such_module")


def test_the_lists_of_a_packages_configs_are_read_once(tmp_path: Path) -> None:
    """A second config that inherits from the package's reads none of its lists again, also one of another model."""
    before = compat.distribution_of("mmseg")
    compat.look_for_configs_in("mmseg", "onedl-mmsegmentation")
    compat.remember_lists_of_configs()
    read = mmengine.config.utils.load
    configs = {
        "pspnet": "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "fcn": "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    }
    misses = []
    for name, inherited in configs.items():
        file = tmp_path / f"{name}.py"
        file.write_text(f"_base_ = ['mmseg::{inherited}']\n")
        assert Config.fromfile(str(file)).model.decode_head.num_classes == 19
        compat.remember_lists_of_configs()  # again: what is remembered stays
        misses.append(read.cache_info().misses)
    assert mmengine.config.utils.load is read and misses[0] == misses[1] > 0 < read.cache_info().hits
    compat.look_for_configs_in("mmseg", before)


def test_model_zoos() -> None:
    assert compat.model_zoo("external")["resnet50_v1c"].startswith("http")
    assert "resnet50" in compat.model_zoo("mmcls") or compat.model_zoo("mmcls")
    old, new = next(iter(compat.deprecated_model_names().items()))
    assert new in compat.model_zoo("external") and old != new
    with pytest.raises(LibraryChangedError):
        compat.model_zoo("no_such")


def test_weights_of_mmcls() -> None:
    weight = torch.ones(1)
    found = compat.mmcls_weights({"state_dict": {"backbone.conv.weight": weight, "head.fc.weight": weight}})
    assert list(found["state_dict"]) == ["conv.weight"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(torch.ones(1)).sum()}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    numbers = torch.ones(4, 1)
    return Runner(
        model=Model(),
        work_dir=str(tmp_path),
        train_dataloader=dict(dataset=numbers, sampler=dict(type="DefaultSampler"), batch_size=2, collate_fn=None),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=2),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)),
        visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")], name="compat"),
        experiment_name="compat",
    )


def test_the_parts_of_a_runner(runner: Runner) -> None:
    train, val = DataLoader(torch.ones(4, 1)), None
    compat.set_loaders(runner, train, val)
    assert not isinstance(compat.loops_of(runner)[0], IterBasedTrainLoop)
    compat.build_train_loop(runner)
    loop = compat.loops_of(runner)[0]
    assert isinstance(loop, IterBasedTrainLoop) and loop.dataloader is train and runner.train_loop is loop
    assert [type(backend).__name__ for backend in compat.visual_backends(runner.visualizer)] == ["LocalVisBackend"]
    for manager in (MMLogger, MessageHub):
        assert compat.instances(manager).pop(runner.experiment_name) is not None
    assert compat.instances(type(runner.visualizer)).pop(runner.visualizer.instance_name) is runner.visualizer
    with pytest.raises(LibraryChangedError, match="_train_loop"):
        compat.loops_of(SimpleNamespace())  # type: ignore[arg-type]


def test_the_last_instance_is_the_current_one() -> None:
    first = MMLogger.get_instance("compat-first")
    MMLogger.get_instance("compat-second")
    table = compat.instances(MMLogger)
    table["compat-first"] = table.pop("compat-first")
    assert MMLogger.get_current_instance() is first
    for name in ("compat-first", "compat-second"):
        compat.instances(MMLogger).pop(name)
    assert compat.instances(Visualizer) is not table


def test_amid_accumulation() -> None:
    layer = nn.Linear(1, 1)
    wrapper = OptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(layer, 0, 4)
    seen = []
    for _ in range(4):
        wrapper.update_params(layer(torch.ones(1)).sum())
        seen.append(compat.amid_accumulation(wrapper))
    assert seen == [True, False, True, False]
    assert not compat.amid_accumulation(SimpleNamespace())  # a user's own kind of wrapper


class Numbers(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"number": number} for number in range(5)]


@pytest.mark.parametrize("indices", [None, 2, -2, [4, 0]])
def test_the_entries_that_indices_leave(indices: int | list[int] | None) -> None:
    dataset = Numbers(indices=indices, lazy_init=True, serialize_data=False)
    left = compat.wanted_entries(dataset, dataset.load_data_list())
    dataset.full_init()
    assert [entry["number"] for entry in left] == [dataset[index]["number"] for index in range(len(dataset))]


def test_the_processes_of_a_loop_are_ended(runner: Runner) -> None:
    loader = DataLoader(list(range(8)), num_workers=1, persistent_workers=True)
    compat.set_loaders(runner, loader, None)
    compat.build_train_loop(runner)
    loop = compat.loops_of(runner)[0]
    assert next(loop.dataloader_iterator) is not None
    iterators = list(compat.iterators_of(loop))
    workers = [worker for iterator in iterators for worker in iterator._workers]
    assert workers and all(worker.is_alive() for worker in workers)
    for iterator in iterators:
        stop_data_workers(iterator)
    assert not any(worker.is_alive() for worker in workers)
