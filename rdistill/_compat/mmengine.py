"""What mmengine does not document, and rdistill needs: a config's own dict, a Runner's parts, its tables of instances.

Tried with onedl-mmengine 0.10.12; `setup.py` allows no later minor version.
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
    """The dict that a Config is around, to be walked through and changed in place as any section of it.

    A Config is none itself, and its public ``to_dict`` copies.
    """
    return private(PACKAGE, cfg, "_cfg_dict", "reads and changes a config")


def imported_names(cfg: Config) -> set[str]:
    """What a pure Python config imported for its own use; a Config made from a dict has none."""
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
    """The distribution that mmengine looks for a module's configs in; KeyError: it knows none."""
    return str(_distributions()[module])


def look_for_configs_in(module: str, distribution: str) -> None:
    """Has ``module::`` in ``_base_`` find another distribution's configs, for the whole process.

    mmengine's table, which it does not document, has the original ``mmsegmentation`` for ``mmseg``, also in OneDL's
    continuation. Without the table no config could inherit from mmseg's, hence an error where it is gone.
    """
    _distributions()[module] = distribution


def remember_lists_of_configs() -> None:
    """Has mmengine read a package's lists of configs once, for the whole process.

    At each ``mmseg::FOLDER/NAME.py`` in a ``_base_`` it reads all that the package says of its models: 53 YAML files,
    0.16 s of the 0.2 s that loading such a config takes. Where its function is gone, it takes that time again.
    """
    import mmengine.config.utils as utils

    read = getattr(utils, "load", None)
    if read is not None and not hasattr(read, "cache_info"):
        utils.load = lru_cache(maxsize=512)(read)


def _distributions() -> dict[str, str]:
    need = "finds the configs of OneDL's mmsegmentation"
    return private(PACKAGE, private_module(PACKAGE, "mmengine.config.utils", need), "MODULE2PACKAGE", need)


def model_zoo(kind: str) -> Mapping[str, str]:
    """Name -> URL of one of mmengine's tables of models: ``torchvision``, ``external`` or ``mmcls``.

    mmengine reads them in its loaders of checkpoints, which rdistill replaces, and nowhere else.

    Raises:
        ImportError: a table is made from a package that is not installed.
        LibraryChangedError: there is no such table any more.
    """
    return private(PACKAGE, _checkpoints(), f"get_{kind}_models", "finds the files of model zoos")()


def deprecated_model_names() -> Mapping[str, str]:
    """Old name -> new name of ``open-mmlab://`` models."""
    return private(PACKAGE, _checkpoints(), "get_deprecated_model_names", "finds the files of model zoos")()


def mmcls_weights(checkpoint: FileOfWeights) -> FileOfWeights:
    """A checkpoint of mmcls as mmengine hands it on for ``mmcls://``: the backbone's weights, without its prefix."""
    return private(PACKAGE, _checkpoints(), "_process_mmcls_checkpoint", "reads the checkpoints of mmcls")(checkpoint)


def _checkpoints() -> Any:
    return private_module(PACKAGE, "mmengine.runner.checkpoint", "reads checkpoints")


def set_loaders(runner: Runner, train: Any, val: Any) -> None:
    """Gives a Runner's loops loaders that exist already: its own arguments are configs, or copied."""
    for name, loader in (("_train_dataloader", train), ("_val_dataloader", val)):
        private(PACKAGE, runner, name, "lets students of a cohort share batches")
        setattr(runner, name, loader)


def build_train_loop(runner: Runner) -> None:
    """Builds what ``Runner.train`` would: a mistake in the data shows before the teacher is scored."""
    runner._train_loop = runner.build_train_loop(_loop(runner, "_train_loop"))


def build_val_loop(runner: Runner) -> None:
    """As :func:`build_train_loop`, of the validation."""
    runner._val_loop = runner.build_val_loop(_loop(runner, "_val_loop"))


def loops_of(runner: Runner) -> list[Any]:
    """The loops of training and validation, or their configs where nobody has built them: looking builds none."""
    return [_loop(runner, "_train_loop"), _loop(runner, "_val_loop")]


def _loop(runner: Runner, name: str) -> Any:
    return private(PACKAGE, runner, name, "builds a run's loops before it begins")


def visual_backends(visualizer: Any) -> list[Any]:
    """The backends that a Visualizer writes to."""
    return list(private(PACKAGE, visualizer, "_vis_backends", "adds scores and images to a tracker's run").values())


def instances(manager: Any) -> dict[str, object]:
    """The process-wide table name -> instance of a class such as MMLogger; its last entry is "the current one".

    mmengine documents how to make and get an instance, not how to let go of one: without that each run of a process
    that trains many would stay in memory.
    """
    return private(PACKAGE, manager, "_instance_dict", "lets go of what a run has registered")


def amid_accumulation(wrapper: Any) -> bool:
    """Whether an optimizer wrapper holds gradients of earlier batches that wait for the next update.

    mmengine's checkpoints lose them. A wrapper without either counter never accumulates.
    """
    counts = getattr(wrapper, "_accumulative_counts", 1)
    return counts > 1 and private(PACKAGE, wrapper, "_inner_count", "resumes between two updates") % counts != 0


def wanted_entries(dataset: Any, entries: list[Entry]) -> list[Entry]:
    """The entries of a dataset's file list that its ``indices`` leave, as its ``full_init`` would."""
    wanted = private(PACKAGE, dataset, "_indices", "checks the files that a dataset reads")
    if wanted is None:
        return entries
    if isinstance(wanted, int):
        return entries[:wanted] if wanted >= 0 else entries[wanted:]
    return [entries[index] for index in wanted]


def iterators_of(loop: Any) -> Iterator[Any]:
    """What a loop holds an iterator in: mmengine's endless one, and a loader whose workers persist."""
    for name in ("dataloader_iterator", "dataloader"):
        holder = getattr(loop, name, None)
        if (iterator := getattr(holder, "_iterator", None)) is not None:
            yield iterator
