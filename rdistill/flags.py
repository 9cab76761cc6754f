"""The flags that several commands share. Each is declared once, with its type, its default and its help text.

A command takes a whole group, such as ``loading: LoadFlags``; :func:`with_flags` shows Typer the single flags. The
names of the flags equal the keyword arguments of :mod:`rdistill.api`; a test checks that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from rdistill.core.validation import MAX_SEED
from rdistill.distributed.shares import MIN_SHARE
from rdistill.schemas.mappings import Arguments, ConfigValues

TrustCheckpoint = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint",
        help="Let a checkpoint run the Python code that it carries. Only for files you would also execute.",
    ),
]
Track = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Log to wandb, tensorboard, mlflow, or to several of them: a,b.")
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster; by default the one the command runs in, or else a new local one."),
]


class Flags:
    """A group of flags with the values from the command line."""

    def as_arguments(self) -> Arguments:
        """Returns the values as keyword arguments of the API, without ``--set`` (see :meth:`ModelFlags.overrides`)."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "set_"}  # type: ignore[arg-type]


# The next five groups say how a config is loaded. Each adds to the group above it the flags of commands that do more:
# build models, read images, score, train for a fixed time, train as configured. Every flag is in one group only.


@dataclass(frozen=True)
class ModelFlags(Flags):
    """Flags of commands that build a config's models."""

    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of the config, such as optim_wrapper.optimizer.lr=0.02; +KEY adds one. Repeatable.",
        ),
    ] = None
    size: Annotated[str | None, typer.Option(metavar="PIXELS|HxW", help="Image size, in training and in testing.")] = (
        None
    )

    def overrides(self) -> ConfigValues:
        """Returns the assignments of ``--set``. Raises UserError if one cannot be parsed."""
        from rdistill.config.overrides import parse_assignments

        return parse_assignments(self.set_ or [])


@dataclass(frozen=True)
class ImageFlags(ModelFlags):
    """Flags of commands that read images of the config's data."""

    data_root: Annotated[
        str | None,
        typer.Option(help="Folder of the data, with img_dir/ and ann_dir/ or with PaddleSeg's train_list.txt."),
    ] = None


@dataclass(frozen=True)
class DataFlags(ImageFlags):
    """Flags of commands that run the config's data loaders."""

    num_data_workers: Annotated[
        int | None, typer.Option(help="Data loading processes for each training worker; 0 loads in the worker itself.")
    ] = None
    label_map: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE=LABEL,...", help="Labels of the values in the mask files: 255=1 for masks of 0 and 255."
        ),
    ] = None


@dataclass(frozen=True)
class BatchFlags(DataFlags):
    """Flags of commands that train, but not for as long as the config says."""

    batch_size: Annotated[int | None, typer.Option(help="Images in a training step, in all workers together.")] = None
    teacher_checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="The teacher's weights, written by rdistill or by plain mmseg.")
    ] = None


@dataclass(frozen=True)
class LoadFlags(BatchFlags):
    """Flags of commands that train as the config says."""

    iters: Annotated[
        int | None,
        typer.Option(help="Number of training iterations; the learning rate schedule is stretched to this length."),
    ] = None
    val_interval: Annotated[int | None, typer.Option(help="Iterations between validations.")] = None
    trust_checkpoint: TrustCheckpoint = False


@dataclass(frozen=True)
class WorkerFlags(Flags):
    """The number of workers of a run and their resources."""

    workers: Annotated[int, typer.Option(min=1, help="Number of training workers; two or more use Ray Train.")] = 1
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs for each worker; by default 1 if there are GPUs.")
    ] = None
    cpus_per_worker: Annotated[float, typer.Option(min=MIN_SHARE, help="CPU cores for each worker.")] = 1


@dataclass(frozen=True)
class TaskFlags(Flags):
    """The resources of each Ray task, and the cluster that the tasks run on."""

    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs for each task; by default 1 if there are GPUs.")
    ] = None
    cpus_per_worker: Annotated[float, typer.Option(min=MIN_SHARE, help="CPU cores for each task.")] = 1
    address: Address = None


@dataclass(frozen=True)
class RunFlags(WorkerFlags):
    """Flags of one training run."""

    min_workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="When workers are lost, continue with at least this many and the same --batch-size; by default, wait "
            "for all of them.",
        ),
    ] = None
    max_failures: Annotated[int, typer.Option(min=0, help="How often to restart the workers after one is lost.")] = 3
    address: Address = None
    amp: Annotated[bool, typer.Option("--amp", help="Run forward passes in bfloat16.")] = False
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Seed of weights, data order, augmentation and dropout; by default the config's seed, or else 0.",
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --work-dir from its last checkpoint.")
    ] = False
    track: Track = None


@dataclass(frozen=True)
class SweepFlags(Flags):
    """Flags of a sweep."""

    address: Address = None
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep in --work-dir.")] = False
    track: Track = None


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces each group in a command's signature by its single flags, which Typer can read."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in signature(command).parameters if is_dataclass(hints[name])}
    parameters: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        types = get_type_hints(groups[name], include_extras=True)
        parameters += [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name])
            for field in fields(groups[name])
        ]

    @wraps(command)
    def run(**values: Any) -> None:
        own = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **own)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
