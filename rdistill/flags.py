"""Flags that several commands share, each declared once: its type, its default, and what the command line says of it.

A command takes a whole group, such as ``loading: LoadFlags``; :func:`with_flags` shows Typer the single flags. Their
names are the keyword arguments of :mod:`rdistill.api`, which a test holds them to.
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
    str | None, typer.Option(metavar="NAMES", help="Report to wandb, tensorboard, mlflow, or several: a,b.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join; by default the one it runs in, or a new local one.")
]


class Flags:
    """A group of flags, as a command was given them."""

    def given(self) -> Arguments:
        """By the names of the API's arguments."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "set_"}  # type: ignore[arg-type]


# What a config is loaded with, besides its file. Each group adds to the one above it what a command needs that goes a
# step further: look at models, read images, score, train a little, train. A flag has its place in one of them.


@dataclass(frozen=True)
class ModelFlags(Flags):
    """Of a command that builds a config's models."""

    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of the config, such as optim_wrapper.optimizer.lr=0.02; +KEY adds one. Repeatable.",
        ),
    ] = None
    size: Annotated[str | None, typer.Option(metavar="PIXELS|HxW", help="Image size in training and test.")] = None

    def overrides(self) -> ConfigValues:
        """What ``--set`` sets. Raises UserError for what cannot be read."""
        from rdistill.config.overrides import parse_assignments

        return parse_assignments(self.set_ or [])


@dataclass(frozen=True)
class ImageFlags(ModelFlags):
    """Of a command that reads images of the config's data."""

    data_root: Annotated[
        str | None, typer.Option(help="Folder with img_dir/ and ann_dir/, or PaddleSeg's train_list.txt.")
    ] = None


@dataclass(frozen=True)
class DataFlags(ImageFlags):
    """Of a command that runs the config's data loaders."""

    num_data_workers: Annotated[
        int | None, typer.Option(help="Loader processes for each training worker; 0 loads in the worker itself.")
    ] = None
    label_map: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE=LABEL,...", help="What values in the masks' files stand for: 255=1 for masks of 0 and 255."
        ),
    ] = None


@dataclass(frozen=True)
class BatchFlags(DataFlags):
    """Of a command that trains for a length of its own."""

    batch_size: Annotated[int | None, typer.Option(help="Images a step, over all workers together.")] = None
    teacher_checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="The teacher's weights: rdistill's or plain mmseg's.")
    ] = None


@dataclass(frozen=True)
class LoadFlags(BatchFlags):
    """Of a command that trains as the config says."""

    iters: Annotated[
        int | None, typer.Option(help="Training iterations; the learning rate's schedule is stretched to them.")
    ] = None
    val_interval: Annotated[int | None, typer.Option(help="Iterations between validations.")] = None
    trust_checkpoint: TrustCheckpoint = False


@dataclass(frozen=True)
class WorkerFlags(Flags):
    """What a run's workers take."""

    workers: Annotated[int, typer.Option(min=1, help="Training workers; from two up through Ray Train.")] = 1
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs a worker; by default 1 where there are GPUs.")
    ] = None
    cpus_per_worker: Annotated[float, typer.Option(min=MIN_SHARE, help="CPU cores a worker.")] = 1


@dataclass(frozen=True)
class TaskFlags(Flags):
    """What one task of many takes, and where they run."""

    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs a task; by default 1 where there are GPUs.")
    ] = None
    cpus_per_worker: Annotated[float, typer.Option(min=MIN_SHARE, help="CPU cores a task.")] = 1
    address: Address = None


@dataclass(frozen=True)
class RunFlags(WorkerFlags):
    """How one run is trained."""

    min_workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Go on with as few when workers are lost; --batch-size stays. By default all are waited for."
        ),
    ] = None
    max_failures: Annotated[
        int, typer.Option(min=0, help="How often the workers are started again when one is lost.")
    ] = 3
    address: Address = None
    amp: Annotated[bool, typer.Option("--amp", help="Forward passes in bfloat16.")] = False
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Of weights, data order, augmentation and dropout; by default the config's own, or else 0.",
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --work-dir from its last checkpoint.")
    ] = False
    track: Track = None


@dataclass(frozen=True)
class SweepFlags(Flags):
    """How a sweep is run."""

    address: Address = None
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep in --work-dir.")] = False
    track: Track = None


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer wants it, with single flags in the place of each group that it takes."""
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
