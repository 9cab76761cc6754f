"""Undocumented in mmengine: the dict of a Config, parts of a Runner, tables of instances.

Tested with onedl-mmengine 0.10.12; `setup.py` allows no later minor version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from rdistill._compat.changed import private, private_module
from rdistill.schemas.mappings import FileOfWeights

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict
    from mmengine.runner import Runner

PACKAGE = "onedl-mmengine"
Entry = TypeVar("Entry")  # a data set's list of files


def config_dict(cfg: Config) -> ConfigDict:
    """The dict inside a Config, which can be read and changed in place like any of its sections.

    A Config itself is no dict, and its public ``to_dict`` makes a copy.
    """
    return private(PACKAGE, cfg, "_cfg_dict", "reads and changes a config")


def imported_names(cfg: Config) -> set[str]:
    """The names that a pure Python config has imported; empty for a Config made from a dict."""
    return private(PACKAGE, cfg, "_imported_names", "turns the classes of a config into names")


def config_of_package(name: str) -> str:
    """The file behind ``mmseg::FOLDER/NAME.py``, as mmengine finds it for ``_base_``.

    Raises:
        FileNotFoundError: the package has no such config; Exception: there is no such package.
        LibraryChangedError: the function is gone.
    """
    from mmengine.config import Config

    return str(private(PACKAGE, Config, "_get_cfg_path", "finds a package's configs")(name, ".")[0])


def distribution_of(module: str) -> str:
    """The distribution in which mmengine looks for a module's configs. Raises KeyError if it knows none."""
    return str(_distributions()[module])


def look_for_configs_in(module: str, distribution: str) -> None:
    """Makes ``module::`` in ``_base_`` find the configs of another distribution, for the whole process.

    mmengine's undocumented table maps ``mmseg`` to the original ``mmsegmentation``, also in OneDL's continuation.
    Without the table no config could inherit from those of mmseg, so it is an error if the table is missing.
    """
    _distributions()[module] = distribution


def remember_lists_of_configs() -> None:
    """Makes mmengine read a package's lists of configs only once in a process.

    Otherwise, for each ``mmseg::FOLDER/NAME.py`` in a ``_base_``, it reads all model lists of the package: 53 YAML
    files, which take 0.16 s of the 0.2 s for loading such a config. If its function is missing, loading is slower.
    """
    import mmengine.config.utils as utils

    read = getattr(utils, "load", None)
    if read is not None and not hasattr(read, "cache_info"):
        utils.load = lru_cache(maxsize=512)(read)


def _distributions() -> dict[str, str]:
    need = "finds the configs of OneDL's mmsegmentation"
    return private(PACKAGE, private_module(PACKAGE, "mmengine.config.utils", need), "MODULE2PACKAGE", need)


def model_zoo(kind: str) -> Mapping[str, str]:
    """Name -> URL, from one of mmengine's tables of models: ``torchvision``, ``external`` or ``mmcls``.

    mmengine uses them only in its checkpoint loaders, which rdistill replaces.

    Raises:
        ImportError: the table needs a package that is not installed.
        LibraryChangedError: there is no such table any more.
    """
    return private(PACKAGE, _checkpoints(), f"get_{kind}_models", "finds the files of model zoos")()


def deprecated_model_names() -> Mapping[str, str]:
    """Old name -> new name of ``open-mmlab://`` models."""
    return private(PACKAGE, _checkpoints(), "get_deprecated_model_names", "finds the files of model zoos")()


def mmcls_weights(checkpoint: FileOfWeights) -> FileOfWeights:
    """The backbone's weights in a checkpoint of mmcls, without prefix, as mmengine returns them for ``mmcls://``."""
    return private(PACKAGE, _checkpoints(), "_process_mmcls_checkpoint", "reads the checkpoints of mmcls")(checkpoint)


def _checkpoints() -> Any:
    return private_module(PACKAGE, "mmengine.runner.checkpoint", "reads checkpoints")


def set_loaders(runner: Runner, train: Any, val: Any) -> None:
    """Gives a Runner existing loaders for its loops; its constructor takes configs, or copies of loaders."""
    for name, loader in (("_train_dataloader", train), ("_val_dataloader", val)):
        private(PACKAGE, runner, name, "lets students of a cohort share batches")
        setattr(runner, name, loader)


def build_train_loop(runner: Runner) -> None:
    """Builds the loop that ``Runner.train`` would build, so that mistakes show before the teacher is scored."""
    runner._train_loop = runner.build_train_loop(_loop(runner, "_train_loop"))


def build_val_loop(runner: Runner) -> None:
    """Like :func:`build_train_loop`, but for the validation."""
    runner._val_loop = runner.build_val_loop(_loop(runner, "_val_loop"))


def loops_of(runner: Runner) -> list[Any]:
    """The loops of training and validation, or their configs if they were not built yet; this does not build them."""
    return [_loop(runner, "_train_loop"), _loop(runner, "_val_loop")]


def _loop(runner: Runner, name: str) -> Any:
    return private(PACKAGE, runner, name, "builds a run's loops before it begins")


def visual_backends(visualizer: Any) -> list[Any]:
    """The backends that a Visualizer writes to."""
    return list(private(PACKAGE, visualizer, "_vis_backends", "adds scores and images to a tracker's run").values())


def instances(manager: Any) -> dict[str, object]:
    """The process-wide table name -> instance of a class such as MMLogger; its last entry is the "current" instance.

    mmengine documents how to make and get an instance, but not how to remove one. Without that, each run of a process
    that trains many runs would stay in memory.
    """
    return private(PACKAGE, manager, "_instance_dict", "lets go of what a run has registered")


def amid_accumulation(wrapper: Any) -> bool:
    """Whether an optimizer wrapper has accumulated gradients of earlier batches for the next update.

    mmengine's checkpoints do not contain them. A wrapper without a counter never accumulates.
    """
    counts = getattr(wrapper, "_accumulative_counts", 1)
    return counts > 1 and private(PACKAGE, wrapper, "_inner_count", "resumes between two updates") % counts != 0


def wanted_entries(dataset: Any, entries: list[Entry]) -> list[Entry]:
    """The entries of a dataset's file list that its ``indices`` select, as in its ``full_init``."""
    indices = private(PACKAGE, dataset, "_indices", "checks the files that a dataset reads")
    if indices is None:
        return entries
    if isinstance(indices, int):
        return entries[:indices] if indices >= 0 else entries[indices:]
    return [entries[index] for index in indices]


def iterators_of(loop: Any) -> Iterator[Any]:
    """The data iterators of a loop: of mmengine's infinite iterator, and of a loader with persistent workers."""
    for name in ("dataloader_iterator", "dataloader"):
        holder = getattr(loop, name, None)
        if (iterator := getattr(holder, "_iterator", None)) is not None:
            yield iterator
